"""Strangers' processes that call themselves VMs: the daemon goes on, and counts the others."""

from __future__ import annotations

import contextlib
import subprocess
from typing import TYPE_CHECKING

import pytest
import stuck_fuse
from manager_process import Manager, resident_bytes
from named_python import ENVIRONMENT, STAND_IN, python_named
from scripted_guests import MIB, Host

from giveback.host.readers.child import MEMORY_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MANY_MAPPINGS = """
import ctypes, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
size, rights = int(sys.argv[1]), [1, 3]
for number in range(60_000):
    # Private, anonymous, not reserved; of two kinds in turn, so that they do not become one.
    libc.mmap(None, ctypes.c_size_t(size), rights[number % 2], 0x4022, -1, ctypes.c_long(0))
"""
_WAIT = "\nprint('ready', flush=True)\nimport signal\nsignal.pause()\n"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@contextlib.contextmanager
def stranger(host: Host, name: str, *words: str, program: str = "pass") -> Iterator[int]:
    """A process of `program` that says it is a QEMU with these words."""
    with claiming(host, "qemu-system-x86_64", *words, "-name", name, program=program) as pid:
        yield pid


@contextlib.contextmanager
def claiming(host: Host, vmm: str, *words: str, program: str = "pass") -> Iterator[int]:
    """A process of `program` that says it is this VMM with these words."""
    with subprocess.Popen(
        [vmm, "-S", "-c", program + _WAIT, *words],
        executable=python_named(STAND_IN),
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        host.show(child.pid, f"/opt/{vmm}")
        try:
            yield child.pid
        finally:
            host.hide(child.pid)
            child.kill()


def test_long_command_lines_and_many_mappings_cost_no_other_vm_its_count(host: Host) -> None:
    manager = Manager(host)
    devices = [
        word for number in range(4000) for word in ("-device", f"virtserialport,id=a{number}")
    ]
    with manager.running() as daemon, contextlib.ExitStack() as stack:
        for number in range(8):
            stack.enter_context(stranger(host, f"long-{number}", *devices, "-set", "device.a1.b=c"))
        for name, size in (("small", 4096), ("large", MIB)):
            words = (str(size), "-m", "64M")
            stack.enter_context(stranger(host, name, *words, program=_MANY_MAPPINGS))
        with host.guest("later"):
            manager.until(lambda: manager.vm("later").get("rows"))
            manager.until(lambda: all(manager.vm(f"long-{number}") for number in range(8)))
            manager.until(lambda: manager.vm("large").get("condition") == "unreadable")
            assert "more than 4096 mappings" in manager.vm("large")["condition_text"]
            # Its mappings are read, whatever their number: none of them is RAM.
            manager.until(lambda: "unplaced" in manager.vm("small").get("rows", ()))
        assert resident_bytes(daemon.pid) < MEMORY_BYTES


@pytest.mark.skipif(not stuck_fuse.usable(), reason="needs root and /dev/fuse")
def test_a_process_whose_file_never_answers_costs_one_reader(host: Host, tmp_path: Path) -> None:
    manager = Manager(host)
    with (
        stuck_fuse.mounted(tmp_path / "stuck") as stuck,
        manager.running() as daemon,
        stranger(host, "stuck", "-readconfig", f"{stuck}/hang") as pid,
        host.guest("web") as guest,
    ):
        manager.until(lambda: manager.vm("web").get("rows"))
        manager.until(lambda: manager.vm("web").get("urgency") == 0)
        manager.until(lambda: (manager.status() or {})["problems"])
        (problem,) = (manager.status() or {})["problems"]
        assert problem == f"process {pid} of user 0 made its reader hang; it is not read any more"
        assert manager.vm("stuck") == {}
        daemon.terminate()
        assert daemon.wait(60) == 0
        manager.until(lambda: guest.heard[-1][1] <= 1)
    assert manager.log.read_text().count("made its reader hang") == 1


def only_these_are_skipped(
    host: Host, manager: Manager, daemon: subprocess.Popen[bytes], pids: tuple[int, int]
) -> None:
    """See these processes skipped, a guest managed beside them, and the daemon end in order."""
    manager.until(lambda: len((manager.status() or {})["problems"]) == 2)
    with host.guest("web") as guest:
        manager.until(lambda: manager.vm("web").get("rows"))
        manager.until(lambda: manager.vm("web").get("urgency") == 0)
        assert set((manager.status() or {})["problems"]) == {
            f"process {pid} of user 0 made its reader hang; it is not read any more" for pid in pids
        }
        daemon.terminate()
        assert daemon.wait(60) == 0
        manager.until(lambda: guest.heard[-1][1] <= 1)


@pytest.mark.skipif(not stuck_fuse.usable(), reason="needs root and /dev/fuse")
def test_a_socket_whose_path_never_answers_stops_nothing(host: Host, tmp_path: Path) -> None:
    """A monitor's path is gone to by a reader process, as an agent's port is."""
    manager = Manager(host)
    port = ["-device", "virtserialport,chardev=c,name=org.giveback.agent.0"]
    with (
        stuck_fuse.mounted(tmp_path / "stuck") as stuck,
        manager.running() as daemon,
        stranger(host, "monitor", "-m", "64M", "-qmp", f"unix:{stuck}/hang,server=on") as first,
        stranger(
            host, "port", "-m", "64M", "-chardev", f"socket,id=c,path={stuck}/hang,server=on", *port
        ) as second,
    ):
        only_these_are_skipped(host, manager, daemon, (first, second))


@pytest.mark.skipif(not stuck_fuse.usable(), reason="needs root and /dev/fuse")
def test_an_http_api_whose_path_never_answers_stops_nothing(host: Host, tmp_path: Path) -> None:
    manager = Manager(host)
    with (
        stuck_fuse.mounted(tmp_path / "stuck") as stuck,
        manager.running() as daemon,
        claiming(host, "firecracker", "--id", "fc", "--api-sock", f"{stuck}/hang") as first,
        claiming(
            host, "cloud-hypervisor", "--memory", "size=64M", "--api-socket", f"{stuck}/hang"
        ) as second,
    ):
        only_these_are_skipped(host, manager, daemon, (first, second))
