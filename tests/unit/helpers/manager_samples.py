"""Made-up pictures of a manager: hosts, VMs, actions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from giveback.host.memory import HostView
from giveback.manager.fleet.status import vm_problems
from giveback.manager.model import (
    ActionKind,
    Ask,
    DaemonStatus,
    Decision,
    Lease,
    ManagerAction,
    VmCondition,
    VmStatus,
)

MIB = 1 << 20
GIB = 1 << 30
WALL_S = 1_800_000_000.0


def vm_status(name: str = "web", pid: int = 100, **changes: Any) -> VmStatus:  # noqa: ANN401
    """A healthy VM of 2 GiB, changed as told."""
    healthy = VmStatus(
        key=f"qemu/{name}/{pid}",
        name=name,
        backend="qemu",
        pid=pid,
        condition=VmCondition.OK,
        condition_text="answers",
        ram_bytes=2 * GIB,
        resident_bytes=GIB,
        needed_bytes=600 * MIB,
        residue_bytes=100 * MIB,
        rows={"anon": 400 * MIB, "cache_clean": 200 * MIB, "cache_dirty": 0, "vmm": 30 * MIB},
        cache_bytes=200 * MIB,
        guest_source="agent",
        sampled_age_s=1.5,
        urgency=1,
        lease_left_s=20.0,
        reliability=0.9,
        balloon_lease_bytes=0,
        errors={"timeout": 2},
        doctor=(),
    )
    return replace(healthy, **changes)


def action(number: int = 1, vm: str = "qemu/web/100", **changes: Any) -> ManagerAction:  # noqa: ANN401
    """Something that was asked and came back."""
    made = ManagerAction(
        id=number,
        wall_s=WALL_S,
        vm=vm,
        kind=ActionKind.ASK,
        urgency=2,
        expected_bytes=300 * MIB,
        reason="host short",
        measured_bytes=290 * MIB,
    )
    return replace(made, **changes)


def status(*vms: VmStatus, **changes: Any) -> DaemonStatus:  # noqa: ANN401
    """A host of 16 GiB with these VMs (one healthy one if none is named), changed as told."""
    made = DaemonStatus(
        wall_s=WALL_S,
        started_wall_s=WALL_S - 3600,
        host=HostView(1.0, 16 * GIB, 4 * GIB, 1.5, 0.5, 4096, 2 * GIB),
        decision=Decision(
            1, 0, None, (Ask("qemu/web/100", 1, 0, "calm"),), "memory is plenty", 10.0
        ),
        vms=vms or (vm_status(),),
        actions=(action(),),
        leases=(
            Lease("qemu/old/7", 7, 99, ActionKind.BALLOON, "/run/qmp", 2 * GIB, GIB, WALL_S - 60),
        ),
        errors={"history": 1},
        problems=("history /x: the disk is full",),
        settings_source="/etc/giveback/giveback.toml",
    )
    return replace(made, **{"vm_problems": vm_problems(made.vms), **changes})
