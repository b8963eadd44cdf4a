"""Kills a manager at each line of a step, another step and a deflation, and starts the next one.

Run by tests/contract/manager/devices/test_fallback.py: `fallback_kill.py FOLDER QMP_PATH PID EVERY`.
Prints one JSON line per kill: what was left, and what the next manager made of it. Forks, so that imports
are paid for once.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.accounting.usage import NO_GUEST
from giveback.host.procs import read_process
from giveback.manager.devices import fallback, leases, rules
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.settings.load import VmSettings
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import BalloonStatistics, VmDescription, VmState
from giveback.vmm.clients import qmp
from giveback.vmm.control import address, qemu

if TYPE_CHECKING:
    from types import FrameType

MIB = 1 << 20
WATCHED = {module.__file__ for module in (fallback, rules, leases, qemu, qmp)}
SETTINGS = VmSettings(virtio_mem=True)


class Clock:
    """A clock that is moved by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def state(stamp_s: float, available_bytes: int) -> VmState:
    """What a guest says at a moment."""
    said = BalloonStatistics(stamp_s, 1024 * MIB, 0, available_bytes)
    return VmState(running=True, statistics=said)


async def manage(folder: Path, vm: VmDescription) -> None:
    """Two steps, then the guest runs short. Raises AssertionError where that does not happen."""
    clock = Clock()
    manager = Fallbacks(folder, clock=clock)
    await manager.recover()
    kinds = []
    for available_bytes in (800, 800, 740, 20):
        clock.now_s += 5
        now = state(clock.now_s, available_bytes * MIB)
        action = await manager.step(vm, now, NO_GUEST, 1024 * MIB, SETTINGS)
        kinds.append(action.kind.value if action else "")
    assert kinds == ["", "virtio-mem", "virtio-mem", "deflate"], (kinds, manager.problems)


def in_child(work: str, folder: Path, vm: VmDescription, lines: int = 0) -> int:
    """Run `manage` or `recover` in a process of its own; the wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            if lines:
                trace(lines)
            coroutine = manage(folder, vm) if work == "manage" else recover(folder)
            asyncio.run(coroutine)
        except BaseException:  # noqa: BLE001  # whatever it is, the test is to see it
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def trace(lines: int) -> None:
    """SIGKILL this process at so many lines of what is watched."""
    left = [lines]

    def line(frame: FrameType, event: str, _: object) -> object:
        if event == "line":
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return line

    def call(frame: FrameType, _: str, __: object) -> object:
        return line if frame.f_code.co_filename in WATCHED else None

    threading.settrace(call)  # type: ignore[arg-type]
    sys.settrace(call)  # type: ignore[arg-type]


async def recover(folder: Path) -> None:
    """The next manager's start."""
    manager = Fallbacks(folder)
    await manager.recover()
    assert manager.problems == (), manager.problems
    assert manager.leases() == ()


async def requested(path: str, pid: int) -> int:
    """What the device was told."""
    (device,) = (await address.control_at(f"qemu:{path}", pid).devices()).virtio_mem
    return device.requested_bytes


def main() -> None:
    folder, path, pid, every = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    process = read_process("/", pid)
    assert process is not None
    vm = QemuBackend().recognise(process)
    assert vm is not None
    before = asyncio.run(requested(path, pid))
    lines, ended = 1, False
    while not ended:
        status = in_child("manage", folder, vm, lines)
        ended = not os.WIFSIGNALED(status)
        left = {
            "status": status,
            "lines": lines,
            "told": before - asyncio.run(requested(path, pid)),
        }
        left["files"] = len(list(folder.glob("*.lease")))
        left["recovered"] = in_child("recover", folder, vm)
        left["told_after"] = before - asyncio.run(requested(path, pid))
        left["files_after"] = len(list(folder.iterdir())) if folder.exists() else 0
        print(json.dumps(left), flush=True)
        lines += every


if __name__ == "__main__":
    main()
