"""A host whose VMs live: they fill caches, end their work and give memory back. For the page's tests."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from scripted_manager import ScriptedManager, action, status, vm_status

from giveback.host.memory import HostView
from giveback.manager.history.recorder import History
from giveback.manager.model import (
    ActionKind,
    DaemonStatus,
    Decision,
    ManagerAction,
    VmCondition,
    VmStatus,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GIB, MIB = 1 << 30, 1 << 20
NAMES = (
    "web-1", "web-2", "db-1", "build-3", "ci-runner-a", "ci-runner-b", "mail", "wiki", "metrics",
    "desktop-anna", "desktop-ben", "cache-1",
)  # fmt: skip


def living_vm(number: int, at_s: float, name: str = "") -> VmStatus:
    """One VM at one time: a period of its own, with work, cache, and memory that comes back."""
    period_s = 1500 + 400 * (number % 5)
    phase = (at_s / period_s + number * 0.37) % 1.0
    ram = (2 + number % 4 * 2) * GIB
    busy = math.exp(-(((phase - 0.3) / 0.14) ** 2))
    needed = int(ram * (0.18 + 0.4 * busy))
    cache = int(
        # Never none: a ledger without cache has fewer lines.
        ram * 0.22 * max(0.02, min(1.0, (phase - 0.1) / 0.3)) * (1.0 if phase < 0.7 else 0.35)
    )
    trapped = int(ram * 0.30 * math.exp(-(((phase - 0.55) / 0.1) ** 2)))
    returned = max(0, int(ram * 0.93) - needed - cache - trapped)
    own = 45 * MIB
    resident = needed + cache + trapped
    name = name or NAMES[number % len(NAMES)]
    rows = {
        "anon": int(needed * 0.7), "slab_unreclaimable": int(needed * 0.1), "kernel": int(needed * 0.08),
        "reserved": needed - int(needed * 0.7) - int(needed * 0.1) - int(needed * 0.08),
        "cache_clean": cache, "free_trapped": trapped // 3, "free_waiting": trapped - trapped // 3,
        "vmm": own - 9 * MIB, "page_tables": 9 * MIB,
    }  # fmt: skip
    return vm_status(
        name, 2000 + number, ram_bytes=ram, resident_bytes=resident, needed_bytes=needed + cache,
        in_use_bytes=needed, cache_bytes=cache, residue_bytes=trapped, returned_bytes=returned,
        returnable_bytes=trapped + cache // 2, cold_bytes=cache // 2, warm_bytes=cache // 3, rows=rows,
        ram_rows={**rows, "free_returned": returned, "free_untouched": ram - resident - returned},
        own_bytes=own, charged_bytes=resident + own, uid=0, cpu_percent=round(130 * busy, 1),
        uptime_s=86400.0 + number, reporting="on", swap_bytes=0, cache_floor_bytes=64 * MIB,
        learned_floor_bytes=0, urgency_by="host",
    )  # fmt: skip


def living_status(at_s: float, vms: int = len(NAMES)) -> DaemonStatus:
    """The host at one time."""
    found = [living_vm(number, at_s) for number in range(vms)]
    if vms > 8:
        found[7] = replace(
            found[7], condition=VmCondition.NO_AGENT, condition_text="no agent answers in the guest",
            in_use_bytes=None, needed_bytes=None, cache_bytes=None, residue_bytes=None,
            returned_bytes=None, returnable_bytes=None, cold_bytes=None, warm_bytes=None,
            unknown="the guest sends no numbers", urgency=None, urgency_by=None,
            rows={"guest_silent": found[7].resident_bytes or 0, "vmm": 45 * MIB}, ram_rows={},
        )  # fmt: skip
    resident = sum(vm.resident_bytes or 0 for vm in found)
    total = 40 * GIB
    available = max(GIB, total - resident - 6 * GIB)
    urgency = (
        3 if available < 3 * GIB else 2 if available < 5 * GIB else 1 if available < 7 * GIB else 0
    )
    reason = "memory is plenty" if not urgency else f"{available / GIB:.1f} GiB available"
    return status(
        *found, wall_s=at_s, started_wall_s=at_s - 9000, leases=(), errors={}, problems=(), actions=(),
        host=HostView(at_s, total, available, 0.4 * urgency, 0.0, 0, 2 * GIB),
        decision=Decision(urgency, 0, None, (), reason, 10.0),
    )  # fmt: skip


def living_actions(now_s: float, vms: int = len(NAMES)) -> tuple[ManagerAction, ...]:
    """What was asked in the last two hours."""
    made = []
    for number in range(24):
        wall_s = now_s - 7000 + number * 290
        vm = living_vm((number * 5) % vms, wall_s)
        wanted = max(64 * MIB, (vm.returnable_bytes or 0) // 2)
        short = number % 6 == 4
        made.append(
            action(
                number + 1, vm.key, wall_s=wall_s, urgency=1 + number % 3, expected_bytes=wanted,
                kind=ActionKind.ASK, reason="the host is short of memory",
                measured_bytes=int(wanted * (0.4 if short else 0.98)),
                verdict="the cache was read again meanwhile" if short else "",
            )
        )  # fmt: skip
    return tuple(made)


def record(path: Path, now_s: float, past_s: float = 7200.0) -> None:
    """Write a history of that host."""
    history = History(str(path), 64 << 20)
    at_s = now_s - past_s
    while at_s < now_s:
        history.status(living_status(at_s))
        at_s += 10
    for one in living_actions(now_s):
        history.action(one)
    history.close()


class LivingManager(ScriptedManager):
    """A manager whose picture moves with the clock; `vms` replaces the VMs by these."""

    def __init__(self, vms: Sequence[VmStatus] | None = None, began_s: float = 0.0) -> None:
        super().__init__(living_status(time.time()))
        self.vms = vms
        self.began_s = began_s or time.time()
        self.back_s = 0.0
        """By how much the host's clock was set back."""

    def status(self) -> DaemonStatus:
        now_s = time.time() - self.back_s
        if self.vms is not None:
            return replace(self.now, wall_s=now_s, vms=tuple(self.vms))
        return replace(living_status(now_s), actions=living_actions(self.began_s))
