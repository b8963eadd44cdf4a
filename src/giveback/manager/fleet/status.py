"""What the daemon shows of itself: made from what it knows, touching no VM."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.manager.decide.promises import is_short
from giveback.manager.model import VmCondition, VmStatus
from giveback.text import shown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.fleet.fleet import Watched

_SILENT_AFTER = 2
_TEXT_LIMIT = 300


def condition_of(vm: Watched) -> tuple[VmCondition, str]:
    """How a VM stands with the manager, the worst first, and why in words."""
    if vm.unreadable:
        return VmCondition.UNREADABLE, vm.unreadable
    if vm.settings.ignore:
        return VmCondition.OK, "left alone, as its settings say"
    if vm.hostile_at_s is not None:
        return VmCondition.HOSTILE, (
            f"cut off: {vm.channel_problem or 'flood'}; its own numbers are shown only"
        )
    if vm.state.running is False:
        return VmCondition.PAUSED, "the VMM says that the guest does not run"
    if vm.held_by_another:
        return VmCondition.BUSY_CHANNEL, (
            "another program is connected to the agent's port, and QEMU serves one at a time"
        )
    if vm.had_agent and (vm.missed >= _SILENT_AFTER or vm.session is None):
        why = vm.channel_problem or f"no answer {vm.missed} times in a row"
        return VmCondition.SILENT, f"its agent has fallen silent: {why}"
    if not vm.had_agent:
        return VmCondition.NO_AGENT, _why_no_agent(vm)
    if is_short(vm.trust):
        why = vm.doctor[0] if vm.doctor else "it may be busy"
        return VmCondition.SHORT, f"returns less than it promised: {why}"
    return VmCondition.OK, vm.step


def _why_no_agent(vm: Watched) -> str:
    if vm.channel is None:
        return "the VM has no channel to an agent"
    if vm.channel_problem:
        return vm.channel_problem
    return "nobody answers on its channel yet"


def status_of(vm: Watched, now_s: float, leased_bytes: int = 0) -> VmStatus:
    """One VM as every surface shows it; what does not change with time is made once."""
    seen = vm.observation(now_s)
    if vm.status is None:
        vm.status = _made(vm, leased_bytes)
    return replace(
        vm.status,
        guest_source=str(seen.guest.source),
        sampled_age_s=None if vm.sampled_at_s is None else max(0.0, now_s - vm.sampled_at_s),
        lease_left_s=max(0.0, vm.told_until_s - now_s)
        if vm.told is not None and vm.had_agent
        else None,
        balloon_lease_bytes=leased_bytes,
        errors=dict(vm.errors.counts),
    )


def _made(vm: Watched, leased_bytes: int) -> VmStatus:
    seen = vm.seen
    ledger = seen.ledger if seen is not None else None
    condition, text = condition_of(vm)
    host = vm.host
    return VmStatus(
        key=vm.key,
        name=shown(vm.vm.name, 64),
        backend=vm.vm.backend,
        pid=vm.pid,
        condition=condition,
        condition_text=shown(text, _TEXT_LIMIT),
        ram_bytes=vm.ram_bytes,
        resident_bytes=host.ram_resident_bytes if host else None,
        needed_bytes=ledger.needed_bytes if ledger else None,
        residue_bytes=ledger.residue_bytes if ledger else None,
        rows={row.key.name.lower(): row.host_bytes for row in ledger.rows} if ledger else {},
        urgency=vm.told if vm.had_agent else None,
        reliability=round(vm.trust.reliability, 3),
        balloon_lease_bytes=leased_bytes,
        doctor=vm.doctor,
    )


def problems_of(errors: Mapping[str, int], recorded: tuple[str, ...]) -> tuple[str, ...]:
    """What the operator is to know of the manager itself."""
    words = [shown(text, _TEXT_LIMIT) for text in recorded]
    if errors.get("internal error"):
        words.append("the daemon met an error of its own; its log has it")
    return tuple(words)
