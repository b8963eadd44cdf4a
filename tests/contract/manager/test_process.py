"""The daemon's process: killed, started again and twice, reloaded, without room on its disk."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from manager_process import Manager
from scripted_guests import MIB, Host

from giveback.accounting.cgroups import GuestCgroup
from giveback.accounting.usage import GuestSource
from giveback.cli import main
from giveback.guest import via_daemon
from giveback.guest.protocol import from_agent
from giveback.host.procs import Process
from giveback.vmm.backends.qemu import QemuBackend

DEADLINE_S = 60.0


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_killed_manager_leaves_words_that_expire_and_the_next_one_goes_on(host: Host) -> None:
    manager = Manager(host)
    with host.guest("web", ram_mib=256, held_mib=224, cache_mib=160) as guest:
        for number in range(3):
            with manager.running() as daemon:
                manager.until(lambda: manager.vm("web").get("condition") == "ok")
                if number == 1:
                    asking = threading.Thread(target=reclaim, args=(manager,))
                    asking.start()
                    manager.until(lambda: guest.heard[-1][0] > 0)
                daemon.send_signal(signal.SIGKILL)
                daemon.wait(DEADLINE_S)
                if number == 1:
                    asking.join(DEADLINE_S)
                assert manager.status() is None
            assert all(lease_s <= 120 for _, lease_s, _ in guest.heard)
        assert guest.process.poll() is None


def reclaim(manager: Manager) -> None:
    """Asks for more than there is; the daemon is killed meanwhile."""
    try:
        manager.request("POST", "/v1/reclaim", {"goal_bytes": 4 << 30, "within_s": 30})
    except (OSError, ValueError, EOFError):
        return


def test_a_stopped_manager_says_goodbye(host: Host) -> None:
    manager = Manager(host)
    with host.guest("web") as guest, manager.running() as daemon:
        manager.until(lambda: manager.vm("web").get("urgency") == 0)
        daemon.terminate()
        assert daemon.wait(DEADLINE_S) == 0
        manager.until(lambda: guest.heard[-1][1] <= 1)
        assert not (host.folder / "api.sock").exists()


def test_a_second_manager_is_refused_by_the_pid_of_the_first(host: Host) -> None:
    manager = Manager(host)
    with manager.running() as first:
        command = [sys.executable, "-m", "giveback", "daemon", "--settings", str(manager.path)]
        second = subprocess.run(command, capture_output=True, text=True, check=False)
        assert second.returncode == 2
        assert f"(pid {first.pid})" in second.stderr
        assert manager.status() is not None


def test_settings_are_reloaded_whole_or_not_at_all(host: Host) -> None:
    manager = Manager(host)
    with host.guest("web") as guest, manager.running() as daemon:
        manager.until(lambda: guest.heard)
        for wrong in ('[vm.web]\nflor = "1G"\n', "[history]\nkeep = false\n"):
            manager.write_settings(wrong + "[host]\ncalm_for = '1s'\n")
            daemon.send_signal(signal.SIGHUP)
            manager.until(lambda: (manager.status() or {})["problems"])
            (problem,) = (manager.status() or {})["problems"]
            assert "the old ones stay in effect" in problem
            manager.write_settings("")
            daemon.send_signal(signal.SIGHUP)
            manager.until(lambda: not (manager.status() or {})["problems"])
        heard = len(guest.heard)
        manager.write_settings("[vm.web]\nignore = true\n")
        daemon.send_signal(signal.SIGHUP)
        manager.until(lambda: daemon.poll() is None and "reloaded" in manager.log.read_text())
        assert len(guest.heard) == heard


def test_systemd_hears_of_start_reload_and_stop(host: Host) -> None:
    path = host.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(DEADLINE_S)
        manager = Manager(host)
        environment = os.environ | {"NOTIFY_SOCKET": str(path)}
        with manager.running(environment=environment) as daemon:
            assert listener.recv(4096).startswith(b"READY=1\n")
            daemon.send_signal(signal.SIGHUP)
            assert listener.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
            assert listener.recv(4096) == b"READY=1"
            daemon.terminate()
            assert listener.recv(4096) == b"STOPPING=1"
            assert daemon.wait(DEADLINE_S) == 0


def test_systemd_s_watchdog_hears_the_event_loop_and_not_one_that_stands_still(host: Host) -> None:
    path = host.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(path))
        listener.settimeout(DEADLINE_S)
        environment = os.environ | {"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"}
        with Manager(host).running(environment=environment) as daemon:
            heard = {listener.recv(4096).partition(b"\n")[0] for _ in range(5)}
            assert heard == {b"READY=1", b"WATCHDOG=1"}
            daemon.send_signal(signal.SIGSTOP)
            listener.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                while listener.recv(4096):
                    pass  # said before it was stopped
            daemon.send_signal(signal.SIGCONT)
            listener.settimeout(DEADLINE_S)
            assert listener.recv(4096) == b"WATCHDOG=1"


def test_ps_sees_a_guest_whose_port_the_daemon_holds(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = Manager(host)
    with host.guest("web") as guest, manager.running():
        manager.until(lambda: manager.vm("web").get("condition") == "ok")
        # Its settings put its sockets elsewhere: the known place leads there.
        monkeypatch.setattr(
            via_daemon, "default_path", lambda: str(manager.known / via_daemon.NAME)
        )
        # Other VMs of this machine are none of this test's business.
        backend = QemuBackend()
        vm = backend.recognise(Process(guest.pid, tuple(guest.process.args)))  # type: ignore[arg-type]
        assert vm is not None
        monkeypatch.setattr("giveback.guest.observe.find", lambda *_: ((backend, vm),))
        assert main(["ps", "--json"]) == 0
        (seen,) = json.loads(capsys.readouterr().out)
        assert seen["guest"]["source"] == "agent"
        assert seen["guest"]["age_s"] < 60
        assert seen["needed_bytes"] == 48 * MIB
        # What the daemon samples of the VMM's process; rates come with the second sample.
        known = manager.vm("web")
        assert known["uid"] == os.geteuid()
        assert known["uptime_s"] > 0
        assert known["cpu_percent"] >= 0
        assert 0 < known["host_percent"] <= 100
        manager.until(lambda: manager.vm("web")["swap_out_bytes_per_s"] == 0)
        rows: list[GuestCgroup] = []

        def has_rows() -> bool:
            # The daemon gives what it has where the agent takes long.
            said = asyncio.run(via_daemon.ask_daemon(vm, by_cgroup=True)) or {}
            rows[:] = from_agent(said, GuestSource.AGENT).cgroups
            return bool(rows)

        manager.until(has_rows)
        (row,) = rows
        assert (row.name, row.anon_bytes) == ("podman web", MIB)
        assert (host.folder / via_daemon.NAME).stat().st_mode & 0o777 == 0o600
        monkeypatch.setattr("giveback.commands._target.find", lambda *_: ((backend, vm),))

        def commands() -> None:
            for _ in range(3):
                assert main(["ps", "--json"]) == 0
                assert json.loads(capsys.readouterr().out)[0]["guest"]["source"] == "agent"
            # Nor by what takes long: the daemon asks for the pages, however many lines they are.
            for _ in range(2):
                assert main(["explain", "--exact", "--json", str(guest.pid)]) == 0
                exact = json.loads(capsys.readouterr().out)["exact"]
                assert exact["ram_bytes"] == 64 * MIB
                free = next(row for row in exact["rows"] if row["label"] == "free")
                assert free["resident_bytes"] + free["absent_bytes"] == 32 * MIB
            assert main(["ps", "--json"]) == 0
            assert json.loads(capsys.readouterr().out)[0]["guest"]["source"] == "agent"

        def disturbances() -> int:
            manager.until(lambda: manager.vm("web").get("condition") == "ok")
            errors = manager.vm("web")["errors"]
            assert "flood" not in errors
            counted = ("channel held by another", "channel lent to another")
            return sum(errors.get(word, 0) for word in counted)

        # The daemon sees no other client: none of these commands asked for the port. A test beside this
        # one may (its `ps` sees every VM of the machine); it does not do so each time.
        for _ in range(5):
            before = disturbances()
            with contextlib.suppress(AssertionError):
                commands()
                if disturbances() == before:
                    break
        else:
            commands()
            assert disturbances() == before


def test_status_asks_a_daemon_whose_settings_file_is_broken_since(
    host: Host, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    manager = Manager(host)
    with manager.running() as daemon:
        monkeypatch.setattr(
            via_daemon, "default_path", lambda: str(manager.known / via_daemon.NAME)
        )
        manager.write_settings('[host]\nshort = "lots"\nfloor = 1\n')
        for words in (["status"], ["status", "--json"]):
            assert main([*words, "--settings", str(manager.path)]) == 0
            shown = capsys.readouterr()
            assert "host.short: must be" in shown.err
            assert "host.floor: there is no such setting" in shown.err
            assert f"asking the daemon at {manager.known}/api.sock" in shown.err
            # Among the problems, too: whoever reads the output alone sees them.
            assert "host.short: must be" in shown.out
            assert "host.floor: there is no such setting" in shown.out
            if "--json" in words:
                problems = json.loads(shown.out)["problems"]
                assert any(p.startswith("settings: host.short: must be") for p in problems)
        daemon.send_signal(signal.SIGHUP)
        manager.until(lambda: (manager.status() or {})["problems"])
        refused, short, floor = (manager.status() or {})["problems"]
        assert refused.endswith("2 settings are wrong:")
        assert short.startswith("settings: host.short: must be")
        assert floor.startswith("settings: host.floor: there is no such setting")
        daemon.terminate()
        assert daemon.wait(DEADLINE_S) == 0
    # It leaves no link that leads nowhere.
    assert list(manager.known.iterdir()) == []
    assert main(["status", "--settings", str(manager.path)]) == 2


def test_a_reload_names_what_needs_a_restart(host: Host) -> None:
    manager = Manager(host)
    with manager.running() as daemon:
        manager.write_settings('[history]\nkeep = false\nlimit = "9M"\n')
        daemon.send_signal(signal.SIGHUP)
        manager.until(lambda: (manager.status() or {})["problems"])
        (problem,) = (manager.status() or {})["problems"]
        assert "only a restart changes history.limit, history.keep" in problem


def test_a_full_disk_under_the_history_stops_nothing(host: Host) -> None:
    manager = Manager(host)
    with (
        host.guest("web", ram_mib=256, held_mib=224, cache_mib=160) as guest,
        manager.running(file_limit_bytes=16 << 10) as daemon,
    ):
        manager.until(lambda: manager.vm("web").get("condition") == "ok")
        manager.until(lambda: (manager.status() or {})["problems"])
        host.set_available(host.total_bytes // 50)
        manager.until(lambda: any(urgency >= 1 for urgency, *_ in guest.heard))
        manager.until(lambda: manager.vm("web")["resident_bytes"] < 80 * MIB)
        assert daemon.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts in a namespace of its own: needs root")
@pytest.mark.parametrize(
    ("mount", "words"),
    [("size=64k,nr_inodes=1", "No space left"), ("size=64k,ro", "Read-only file system")],
)
def test_a_state_folder_that_takes_nothing_now_is_tried_again(
    tmp_path: Path, mount: str, words: str
) -> None:
    """The unit never starts again what ended with code 2."""
    (tmp_path / "disk").mkdir()
    settings = tmp_path / "giveback.toml"
    settings.write_text(
        f'[daemon]\nsocket = "{tmp_path}/api.sock"\nstate = "{tmp_path}/disk/state"\n'
    )
    program = f'mount -t tmpfs -o {mount} none {tmp_path}/disk && exec "$@"'
    command = [sys.executable, "-m", "giveback", "daemon", "--settings", str(settings)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", program, "sh", *command],
        capture_output=True, text=True, check=False, timeout=DEADLINE_S,
    )  # fmt: skip
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip(done.stderr.strip())
    assert done.returncode == 1, done.stderr
    assert words in done.stderr
    assert "daemon.state" in done.stderr
