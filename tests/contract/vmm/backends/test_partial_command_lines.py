"""Command lines that do not have all of the configuration, which is then unknown or read elsewhere."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from scripted_vmm import process

from giveback.cli import main
from giveback.host.procs import Process
from giveback.vmm.backends.cloud_hypervisor import CloudHypervisorBackend
from giveback.vmm.backends.firecracker import FirecrackerBackend
from giveback.vmm.base import Answer
from giveback.vmm.clients.http import name_of_socket
from giveback.vmm.find import find

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


def documents(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    capsys.readouterr()
    main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert isinstance(found, list)
    return found


def test_katas_cloud_hypervisor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """kata-containers#10018: the VM is created through an API that does not answer."""
    pods = ["4f1c" + "0" * 60, "93ab" + "1" * 60]
    words = [["--api-socket", f"{tmp_path}/vc/vm/{pod}/clh-api.sock", "-v"] for pod in pods]
    with (
        process("cloud-hypervisor", *words[0]) as one,
        process("cloud-hypervisor", *words[1]) as two,
    ):
        pids = {one.pid: pods[0], two.pid: pods[1]}
        seen = {v["pid"]: v for v in documents(capsys, "ps") if v["pid"] in pids}
        (found,) = documents(capsys, "doctor", str(one.pid))
        table = "" if main(["ps"]) else capsys.readouterr().out
    assert {pid: vm["name"] for pid, vm in seen.items()} == pids
    for vm in seen.values():
        assert vm["ram_bytes"] is None
        assert vm["reporting"] == "?"
        assert any("created through the API" in p for p in vm["problems"])  # type: ignore[attr-defined]
    (line,) = (line for line in table.splitlines() if pods[0][:20] in line and "cloud-" in line)
    assert " ? " in line
    assert "no balloon device" not in json.dumps(found)
    assert "configuration cannot be read" in json.dumps(found)


@pytest.mark.parametrize(
    ("words", "ram_bytes"),
    [
        (["--api-socket", "/a.sock"], 0),
        (["--api-socket=path=/a.sock", "-vv"], 0),
        (["--api-socket", "fd=3"], 0),
        (["--restore", "source_url=file:///a"], 0),
        (["--kernel", "/k"], 512 * MIB),
        (["--firmware", "/f", "--memory", "size=1G"], 1 << 30),
        (["--memory", "size=1G", "--api-socket", "/a"], 1 << 30),
    ],
)
def test_the_ram_of_cloud_hypervisor(words: list[str], ram_bytes: int) -> None:
    vm = CloudHypervisorBackend().recognise(Process(7, ("cloud-hypervisor", *words)))
    assert vm is not None
    assert vm.ram_bytes == vm.block_bytes == ram_bytes
    assert bool(vm.unread) == (not ram_bytes)
    known = {vm.capabilities.balloon, vm.capabilities.reports_pages} <= {Answer.YES, Answer.NO}
    assert known == bool(ram_bytes)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/run/vc/vm/4f1c/clh-api.sock", "4f1c"),
        ("/run/vc/firecracker/4f1c/root/run/firecracker.socket", "4f1c"),
        ("/run/kata/4f1c/root/api.socket", "4f1c"),
        ("/tmp/web.sock", "web"),
        ("/var/lib/vms/101/api.sock", "101"),
        ("/run/user/1000/ch.sock", ""),
        ("web.sock", "web"),
        ("/run/firecracker.socket", ""),
        ("", ""),
    ],
)
def test_a_vms_name_from_its_socket(path: str, name: str) -> None:
    assert name_of_socket(path) == name


def test_a_vms_name_from_a_unit_and_a_vm_without_a_name() -> None:
    backend = CloudHypervisorBackend()
    unit = Process(7, ("microvm@web", "--api-socket", "fd=3"), "/bin/cloud-hypervisor")
    for process_, name in ((unit, "web"), (Process(7, ("cloud-hypervisor",)), "pid-7")):
        vm = backend.recognise(process_)
        assert vm is not None
        assert vm.name == name


CONFIG = {
    "boot-source": {"kernel_image_path": "/k"},
    "drives": [],
    "machine-config": {"vcpu_count": 1, "mem_size_mib": 64},
    "balloon": {
        "amount_mib": 0,
        "deflate_on_oom": True,
        "free_page_reporting": True,
        "stats_polling_interval_s": 1,
    },
    "vsock": {"guest_cid": 3, "uds_path": "v.sock"},
}


@pytest.mark.parametrize("form", [["--config-file", "{}"], ["--config-file={}"]])
def test_firecrackers_config_file(
    form: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vm.json").write_text(json.dumps(CONFIG))
    words = [word.format(tmp_path / "vm.json") for word in form]
    with process("firecracker-v1.12-x86_64", "--no-api", *words, memory="anonymous:64:8") as found:
        vm = FirecrackerBackend().recognise(found)
        (one,) = (v for v in documents(capsys, "ps") if v["pid"] == found.pid)
    assert vm is not None
    assert (vm.name, vm.ram_bytes, vm.unread) == (f"pid-{found.pid}", 64 * MIB, ())
    assert vm.capabilities.reports_pages is Answer.YES
    assert vm.capabilities.deflate_on_oom
    assert vm.channels[0].path == f"/proc/{found.pid}/cwd/v.sock"
    assert (one["ram_bytes"], one["resident_bytes"]) == (64 * MIB, 8 * MIB)


@pytest.mark.parametrize("content", [None, "", "[]", "{", "x" * (2 << 20)])
def test_a_config_file_of_firecracker_that_cannot_be_read(
    content: str | None, tmp_path: Path
) -> None:
    path = tmp_path / "vm.json"
    if content is not None:
        path.write_text(content)
    words = ("firecracker", "--no-api", "--id", "a", "--config-file", str(path))
    with process(*words) as found:
        vm = FirecrackerBackend().recognise(found)
    assert vm is not None
    assert (vm.name, vm.ram_bytes) == ("a", 0)
    assert vm.unread == (f"--config-file {path} cannot be read",)
    assert vm.capabilities.balloon is Answer.UNKNOWN


def test_a_config_file_without_a_size_has_firecrackers_default(tmp_path: Path) -> None:
    (tmp_path / "vm.json").write_text('{"boot-source": {}}')
    with process("firecracker", "--no-api", "--config-file", f"{tmp_path}/vm.json") as found:
        vm = FirecrackerBackend().recognise(found)
    assert vm is not None
    assert vm.ram_bytes == 128 * MIB


@pytest.mark.parametrize(
    "words",
    [
        ["-xen-domid", "5", "-nodefaults", "-machine", "xenfv", "-m", "4080"],
        ["-xen-domid", "5", "-machine", "xenpv"],
        ["-M", "pc,accel=xen", "-m", "4080"],
    ],
)
def test_device_models_of_xen_are_not_vms(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with process("/usr/lib/xen/bin/qemu-system-i386", *words) as found:
        assert found.pid not in [vm.pid for _, vm in find()]
        assert str(found.pid) not in json.dumps(documents(capsys, "doctor"))
