"""VMs, snapshots and a source for the tests of `giveback top`."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING, Any

from giveback.errors import VmError
from giveback.top.model import PlanPart, ReclaimPlan, TopHost, TopSnapshot, TopVm, VmParts

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.pilot import Pilot

MIB, GIB = 1 << 20, 1 << 30
DEADLINE_S = 60.0


def top_vm(name: str = "web", pid: int = 100, **changes: Any) -> TopVm:  # noqa: ANN401
    """A VM of 2 GiB with all four parts, changed as told."""
    fields: dict[str, Any] = {
        "key": f"qemu:{name}:{pid}", "name": name, "pid": pid, "backend": "qemu", "owner": "root",
        "ram_bytes": 2 * GIB, "resident_bytes": GIB,
        "parts": VmParts(500 * MIB, 300 * MIB, 200 * MIB, 700 * MIB),
        "small_blocks_bytes": 50 * MIB, "returnable_bytes": 400 * MIB, "stall_percent": 0.0,
        "condition": "ok", "condition_text": "idle", "urgency": 1,
        "verdict": "asked 512 MiB, got 498 in 9 s",
    }  # fmt: skip
    return TopVm(**{**fields, **changes})


def snapshot(*vms: TopVm, **changes: Any) -> TopSnapshot:  # noqa: ANN401
    """A host of 16 GiB with these VMs, changed as told."""
    host = TopHost(16 * GIB, 6 * GIB, 1.5, 0.5, 2 * GIB, 1, 0, 90.0, "falls")
    fields: dict[str, Any] = {"wall_s": 1_800_000_000.0, "host": host, "vms": vms}
    return TopSnapshot(**{**fields, **changes})


class ScriptedSource:
    """Says what it is told to; remembers what it was asked."""

    label = "a script"

    def __init__(self, first: TopSnapshot) -> None:
        self.now = first
        self.failure: Exception | None = None
        self.asked: list[tuple[object, ...]] = []
        self.gone = False
        self._first = True
        self._new = threading.Event()

    def say(self, now: TopSnapshot | Exception) -> None:
        """Another snapshot, or failure, from now on."""
        if isinstance(now, Exception):
            self.failure = now
        else:
            self.now, self.failure = now, None
        self._new.set()

    def next(self) -> TopSnapshot:
        if not self._first and self.failure is None:
            self._new.wait()
            self._new.clear()
        self._first = False
        if self.failure is not None:
            raise self.failure
        return self.now

    def explain(self, vm: TopVm, width: int) -> str:
        if self.gone:
            raise VmError("the VM is gone")
        return f"every byte of {vm.name}, {width} wide"

    def doctor(self, vm: TopVm) -> str:
        return f"what keeps {vm.name}"

    def plan(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        self.asked.append(("plan", goal_bytes, keys))
        part = PlanPart("web", goal_bytes, 0, "cold cache")
        return ReclaimPlan(
            goal_bytes, goal_bytes, (part,), f"web would give {goal_bytes >> 20} MiB"
        )

    def reclaim(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        self.asked.append(("reclaim", goal_bytes, keys))
        return ReclaimPlan(goal_bytes, goal_bytes, (), f"{goal_bytes >> 20} MiB came")

    def close(self) -> None:
        self._new.set()


async def until(pilot: Pilot[int], condition: Callable[[], object], what: str = "it") -> None:
    """Wait until that is true on the screen."""
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"{what} did not come true"
        await pilot.pause()
        await asyncio.sleep(0.02)
