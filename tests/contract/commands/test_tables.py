"""The tables of `ps` and `status` on real processes: NAME, --columns, --sort."""

from __future__ import annotations

import getpass
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from real_qemu import running as real_qemu
from scripted_manager import ScriptedManager, running, status, vm_status
from scripted_vms import MIB, vm

from giveback.cli import main
from giveback.host.process_sample import read_process_sample
from giveback.manager.http.server import Endpoint
from giveback.reporters.tables.columns import width_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = ("tab-one", "tab-other")


@pytest.fixture
def vms(tmp_path: Path) -> Iterator[dict[str, int]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(vm(tmp_path, name)) for name in NAMES}


def ps(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["ps", *words]) == 0
    return capsys.readouterr().out


def test_ps_of_one_vm(vms: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("tab-one", str(vms["tab-one"]), f"qemu:tab-one:{vms['tab-one']}"):
        (found,) = json.loads(ps(capsys, "--json", word))
        assert (found["name"], found["key"]) == ("tab-one", f"qemu:tab-one:{vms['tab-one']}")
    sample = read_process_sample("/", vms["tab-one"])
    assert sample is not None
    assert found["owner"] == getpass.getuser()
    assert 0 < found["uptime_s"] <= sample.at_s - sample.started_s
    assert found["cpu_percent"] >= 0
    assert found["swap_bytes"] == sample.swap_bytes
    assert found["own_bytes"] > 0
    assert 0 < found["host_percent"] < 100
    # One sample gives no rate.
    assert found["swap_in_bytes_per_s"] is None


def test_ps_of_a_vm_that_does_not_exist(
    vms: dict[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ps", "tab-one", "tab-on\x1be"]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "no VM is called 'tab-on\\x1be'" in shown.err
    assert f"tab-one (pid {vms['tab-one']})" in shown.err


def test_columns_and_order(vms: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tab-one", "tab-other", "--columns", "owner,pid,name,swap-out"]
    first = ps(capsys, *words, "--sort", "pid").split("\n")
    assert first[0].split() == ["OWNER", "PID", "NAME", "SWAP", "OUT"]
    pids = [int(line.split()[1]) for line in first[1:3]]
    assert pids == sorted(vms.values(), reverse=True)
    assert first[3].startswith("total")
    second = ps(capsys, *words, "--sort", "-pid").split("\n")
    assert [int(line.split()[1]) for line in second[1:3]] == sorted(vms.values())
    found = json.loads(ps(capsys, *NAMES, "--json", "--sort", "name"))
    assert [one["name"] for one in found] == ["tab-one", "tab-other"]


@pytest.mark.parametrize("words", [("--columns", "name,nme"), ("--sort", "nme"), ("--sort", "-x")])
@pytest.mark.parametrize("command", ["ps", "status"])
def test_a_column_that_does_not_exist(
    command: str, words: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *words]) == 2
    said = capsys.readouterr().err
    assert f"{words[0]}: there is no column '{words[1].removeprefix('name,').strip('-')}'" in said
    assert "name, pid, owner, vmm, ram, resident" in said


def test_ps_with_an_interval_shows_rates(vms: dict[str, int]) -> None:
    command = [sys.executable, "-m", "giveback", "ps", "tab-one", "--json", "--watch", "0.2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as watching:
        assert watching.stdout is not None
        first, second = (json.loads(watching.stdout.readline()) for _ in range(2))
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert first["pid"] == second["pid"] == vms["tab-one"]
    assert first["wall_s"] < second["wall_s"]
    assert first["swap_in_bytes_per_s"] is None
    assert second["swap_in_bytes_per_s"] == second["swap_out_bytes_per_s"] == 0


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_real_qemu_fits_the_terminal(tmp_path: Path, width: int) -> None:
    name = "数据库-" + "n" * 50
    with real_qemu(tmp_path, "-m", "256M", "-name", name) as process:
        shell = f"stty cols {width}; {sys.executable} -m giveback ps {process.pid}"
        done = subprocess.run(
            ["script", "-qec", shell, "/dev/null"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True,
            env={name: value for name, value in os.environ.items() if name != "COLUMNS"},
        )  # fmt: skip
    lines = done.stdout.decode().replace("\r", "").splitlines()
    assert all(width_of(line) <= width for line in lines), lines
    assert lines[0].startswith("NAME")
    assert "FREE HELD" in lines[0]
    assert ("OWNER" in lines[0]) == (width == 160)
    assert lines[1].startswith("数据库-n")


@pytest.fixture
def socket_path(tmp_path: Path) -> Iterator[str]:
    found = [
        vm_status("web", 100, uid=0, cpu_percent=12.5, uptime_s=3700.0, own_bytes=30 * MIB,
                  swap_bytes=5 * MIB, swap_in_bytes_per_s=2.0 * MIB, host_percent=6.25),
        vm_status("db", 7, uid=4_000_000_000, cpu_percent=99.0, doctor=("reporting is off",)),
    ]  # fmt: skip
    now_s = time.time()
    manager = ScriptedManager(status(*found, wall_s=now_s, started_wall_s=now_s - 60))
    with running(Endpoint(socket_path=str(tmp_path / "api.sock")), manager) as daemon:
        yield daemon.endpoint.socket_path


def shown(socket_path: str, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["status", "--socket", socket_path, *words]) == 0
    return capsys.readouterr().out


def test_status_by_cpu(socket_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    columns = "name,owner,cpu,uptime,vmm-own,swapped,swap-in,host"
    text = shown(socket_path, capsys, "--columns", columns, "--sort", "cpu")
    at = text.split("\n").index(next(line for line in text.split("\n") if "OWNER" in line))
    db, web, total = text.split("\n")[at + 1 : at + 4]
    assert db.split()[:3] == ["db", "4000000000", "99.0"]
    for cell in ("web", "root", "12.5", "1 h 1 min", "30 MiB", "5 MiB", "2 MiB/s", "6.2"):
        assert cell in web
    assert total.split()[:2] == ["total", "112"]


def test_status_of_one_vm(socket_path: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(socket_path, capsys, "web")
    assert "web" in text
    assert "reporting is off" not in text
    assert "db: reporting is off" in shown(socket_path, capsys, "7")
    document: dict[str, Any] = json.loads(shown(socket_path, capsys, "--json", "--sort", "-cpu"))
    assert [(one["name"], one["owner"]) for one in document["vms"]] == [
        ("web", "root"), ("db", "4000000000"),
    ]  # fmt: skip
    assert document["vms"][0]["cpu_percent"] == 12.5
    assert main(["status", "--socket", socket_path, "nobody"]) == 2
    assert "give a name, a key or a PID of: db (pid 7), web (pid 100)" in capsys.readouterr().err
