"""The commands `giveback status`, `history` and `reclaim`; a history on a full disk."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from scripted_manager import ScriptedManager, action, past, running, status, vm_status

from giveback.manager.history.recorder import History
from giveback.manager.http.client import Client
from giveback.manager.http.server import Endpoint
from giveback.manager.model import VmCondition
from giveback.top.sources.history import DaemonPast, HistoryReplay

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scripted_manager import Daemon

MIB = 1 << 20


def giveback(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "giveback", *words],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    endpoint = Endpoint(
        socket_path=str(tmp_path / "api.sock"), history=past(tmp_path / "history.db")
    )
    now_s = time.time()
    vms = [
        vm_status("web", 100),
        vm_status(
            "d\x1b[2Jb", 7, condition=VmCondition.SHORT, condition_text="delivers a tenth",
            doctor=("free page reporting is off",),
        ),
        vm_status("old", 9, condition=VmCondition.NO_AGENT, condition_text="no channel",
                  needed_bytes=None, residue_bytes=None, urgency=None),
    ]  # fmt: skip
    manager = ScriptedManager(status(*vms, wall_s=now_s, started_wall_s=now_s - 7200))
    history = History(str(tmp_path / "history.db"), 16 * MIB)
    for look in range(60):
        shown = vm_status("web", 100, resident_bytes=(look + 1) * MIB)
        history.status(status(shown, wall_s=now_s - 600 + look * 10))
        while history._statuses:
            time.sleep(0.001)
    history.action(action(1, wall_s=now_s - 30))
    history.close()
    with running(endpoint, manager) as served:
        yield served


def socket_of(daemon: Daemon) -> tuple[str, str]:
    return ("--socket", daemon.endpoint.socket_path)


def test_status_is_text_and_a_table(daemon: Daemon) -> None:
    code, text, errors = giveback("status", *socket_of(daemon))
    assert (code, errors) == (0, "")
    assert "up 2 h" in text
    assert "4.0 GiB of 16 GiB available" in text
    assert "urgency 1 (soon short: some guests are asked" in text
    assert "ask: 290 MiB of 300 MiB" in text
    assert "qemu/old/7: 1.0 GiB by its balloon" in text
    assert "d\\x1b[2Jb: free page reporting is off" in text
    assert "old: no channel" in text
    assert "the disk is full" in text
    assert "\x1b" not in text
    code, text, _ = giveback("status", "--json", *socket_of(daemon))
    assert code == 0
    assert [vm["name"] for vm in json.loads(text)["vms"]] == ["web", "d\x1b[2Jb", "old"]


def test_without_a_daemon_the_code_is_3_and_the_text_says_how_to_start_one(tmp_path: Path) -> None:
    for words in (("status",), ("reclaim", "1G"), ("history",)):
        code, text, errors = giveback(*words, "--socket", str(tmp_path / "none"))
        assert (code, text) == (3, "")
        assert "systemctl start giveback-daemon" in errors


def test_reclaim_shows_what_each_vm_returned(daemon: Daemon) -> None:
    code, text, errors = giveback(
        "reclaim", "512M", "--within", "2m", "--from", "web", "old", *socket_of(daemon)
    )
    assert code == 0
    assert errors == "asking 1 VM for 512 MiB, of 512 MiB that can come\n"
    assert "qemu/web/100    512 MiB of 512 MiB" in text
    assert "512 MiB of 512 MiB from those asked in 0.5 s: reached" in text
    asked = ("reclaim", 512 * MIB, 120.0, ("qemu/web/100", "qemu/old/9"))
    assert daemon.manager.asked == [asked]
    daemon.manager.gives_bytes = MIB
    code, text, _ = giveback("reclaim", "1G", *socket_of(daemon))
    assert code == 4
    assert "cache is in use" in text
    assert text.endswith("1 MiB of 1.0 GiB from those asked in 0.5 s: not reached\n")
    code, text, _ = giveback("reclaim", "1G", "--json", *socket_of(daemon))
    assert (code, json.loads(text)["reached"]) == (4, False)


def test_reclaim_shows_its_plan_before_it_waits(daemon: Daemon) -> None:
    daemon.manager.has_bytes = 200 * MIB
    code, text, errors = giveback("reclaim", "1G", "--dry-run", *socket_of(daemon))
    assert (code, errors, daemon.manager.asked) == (4, "", [])
    assert "20 MiB cold" in text
    assert "dry run, nothing was asked: 200 MiB can come of 1.0 GiB wanted: not enough" in text
    _, text, errors = giveback("reclaim", "1G", *socket_of(daemon))
    assert errors == "at most 200 MiB of 1.0 GiB can come: asking 1 VM for that\n"
    daemon.manager.asked.clear()
    daemon.manager.has_bytes = 0
    for more in ((), ("--dry-run",), ("--json",)):
        code, text, errors = giveback("reclaim", "1G", *more, *socket_of(daemon))
        assert (code, errors, daemon.manager.asked) == (5, "", [])
        assert "not asked: no agent" in text


@pytest.mark.parametrize(
    ("words", "help_text"),
    [
        (("reclaim", "lots"), "SIZE 'lots': not a size: write it like 512M, 4G"),
        (("reclaim", "0"), "has no unit: write 0M"),
        (("reclaim", "0M"), "must be above 0"),
        (("reclaim", "200"), "has no unit: write 200M"),
        (("reclaim", "200K"), "at least 1 MiB"),
        (("reclaim", "200B"), "at least 1 MiB"),
        (("reclaim", "-200M"), "required: SIZE"),
        (("reclaim", "999999999999T"), "above 0 and at most"),
        (("reclaim", "1G", "--within", "soon"), "write it like 90s, 15m, 2h or 7d"),
        (("reclaim", "1G", "--within", "2h"), "from 100ms to 1h"),
        (
            ("reclaim", "1G", "--from", "nope"),
            "no VM has this name, key or pid; the VMs are: qemu/web/100",
        ),
        (("history", "--since", "yesterday"), "write it like 90s, 15m, 2h or 7d"),
        (("history", "nope"), "VMs known: web"),
    ],
)
def test_bad_arguments_get_a_clear_message(
    daemon: Daemon, words: tuple[str, ...], help_text: str
) -> None:
    code, text, errors = giveback(*words, *socket_of(daemon))
    assert (code, text) == (2, "")
    assert help_text in errors
    assert daemon.manager.asked == []


def test_history_is_a_chart_csv_json_and_pictures(daemon: Daemon, tmp_path: Path) -> None:
    file = ("--file", str(tmp_path / "history.db"))
    code, text, _ = giveback("history", "web", "--since", "20m", *file)
    assert code == 0
    assert "resident: now 60 MiB, most 60 MiB" in text
    assert "qemu/web/100  ask  290 MiB of 300 MiB" in text
    # The daemon gives the same: its settings name the file.
    settings = tmp_path / "settings.toml"
    settings.write_text(
        f'[daemon]\nsocket = "{daemon.endpoint.socket_path}"\nstate = "{tmp_path}/elsewhere"\n'
    )
    elsewhere = giveback("history", "web", "--csv", "--settings", str(settings))
    assert (elsewhere[0], len(elsewhere[1].splitlines())) == (0, 61)
    # It also does for a user who may not read the file.
    _, rows, _ = giveback("history", "web", "--csv", *socket_of(daemon))
    assert len(rows.splitlines()) == 61
    assert giveback("history", "web", "--csv", *file)[1] == rows
    assert len(json.loads(giveback("history", "--json", *file)[1])["host"]) == 60
    for kind, start in (("svg", b"<?xml"), ("png", b"\x89PNG")):
        path = tmp_path / f"picture.{kind}"
        assert giveback("history", "web", f"--{kind}", str(path), *file)[0] == 0
        assert path.read_bytes().startswith(start)
    code, _, errors = giveback("history", "--png", str(tmp_path / "no" / "x.png"), *file)
    assert (code, "name another file" in errors) == (2, True)


def test_what_vms_used_comes_from_the_file_or_from_its_daemon_with_its_prices(
    daemon: Daemon, tmp_path: Path
) -> None:
    code, text, errors = giveback("usage", "--json", *socket_of(daemon))
    assert (code, errors) == (0, "")
    asked = json.loads(text)
    assert [vm["name"] for vm in asked["vms"]] == ["web"]
    assert (asked["price_per_gib_hour"], asked["currency"]) == (0.5, "EUR")
    assert asked["vms"][0]["cost"] > 0
    read = json.loads(giveback("usage", "--json", "--file", str(tmp_path / "history.db"))[1])
    assert read["price_per_gib_hour"] is None
    assert read["vms"][0]["amounts"] == asked["vms"][0]["amounts"]
    code, text, _ = giveback("usage", "--since", "12h", *socket_of(daemon))
    assert (code, "EUR" in text) == (0, True)


def test_a_replay_comes_from_the_daemon_too(daemon: Daemon) -> None:
    assert isinstance(daemon.endpoint.socket_path, str)
    replay = HistoryReplay(DaemonPast(Client(daemon.endpoint.socket_path)), 3600)
    scrub = replay.begin()
    assert len(scrub.moments) == 60
    assert scrub.wall_s is not None
    (web,) = replay.snapshot(scrub.wall_s).vms
    assert (web.name, web.resident_bytes) == ("web", 60 * MIB)
    assert len(replay.recent(240)) in (23, 24, 25)


_ON_A_SMALL_DISK = """
import sys, time
sys.path.insert(0, sys.argv[1])
from manager_samples import status, vm_status
from giveback.manager.history import recorder as history
from pathlib import Path
history.RETRY_S = history.RETRY_MOST_S = 0.02
folder = Path(sys.argv[2])
kept = history.History(str(folder / "history.db"), 64 << 20)
def until(done):
    deadline_s = time.monotonic() + 30
    while not done():
        assert time.monotonic() < deadline_s, (kept.problems, len(kept._statuses))
        time.sleep(0.005)
look = 0
def look_once():
    global look
    look += 1
    shown = [vm_status(f"vm{i}", i) for i in range(200)]
    kept.status(status(*shown, wall_s=1_800_000_000.0 + look * 10))
look_once()
until(lambda: not kept._statuses)
filler = (folder / "filler").open("wb")
try:
    while True:
        filler.write(b"x" * 4096)
        filler.flush()
except OSError:
    pass
while not kept.problems:
    look_once()
    until(lambda: kept.problems or not kept._statuses)
assert "disk is full" in kept.problems[0], kept.problems
for _ in range(50):
    look_once()
assert kept._thread.is_alive()
(folder / "filler").unlink()
try:
    filler.close()
except OSError:
    pass
look_once()
until(lambda: not kept._statuses and not any("disk is full" in problem for problem in kept.problems))
kept.close()
import sqlite3
connection = sqlite3.connect(folder / "history.db")
assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
newest = connection.execute("SELECT max(at_s) FROM host_10").fetchone()[0]
assert newest == 1_800_000_000 + look * 10, (newest, look)
print("kept")
"""


def test_a_full_disk_is_shown_and_recording_resumes_once_it_has_space(tmp_path: Path) -> None:
    small = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=3m none {tmp_path}"
    if not shutil.which("unshare") or subprocess.run([*small, mount], check=False).returncode:
        pytest.skip("no file system may be mounted here, also not in a namespace of one's own")
    samples = Path(__file__).parents[2] / "unit/helpers"
    done = subprocess.run(
        [*small, f'{mount} && exec "$@"', "sh", sys.executable, "-c", _ON_A_SMALL_DISK,
         str(samples), str(tmp_path)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout == "kept\n", done.stdout + done.stderr
