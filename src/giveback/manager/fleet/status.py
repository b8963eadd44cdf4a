"""Make the daemon's status from what it knows, without touching a VM."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.accounting.activity import percent_of, swapped_of
from giveback.accounting.ledger import NO_NUMBERS, OWN, UnknownKind
from giveback.accounting.next_steps import quoted, stopped
from giveback.accounting.observation import resident_of
from giveback.accounting.reporting import reporting_label
from giveback.accounting.returnable import returnable_of
from giveback.manager.decide import schedule
from giveback.manager.decide.promises import is_short
from giveback.manager.model import VmCondition, VmStatus
from giveback.reporters.tables.problems import lines_of
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from giveback.accounting.observation import Observation
    from giveback.manager.fleet.fleet import Watched

_TEXT_LIMIT = 300


def condition_of(vm: Watched) -> tuple[VmCondition, str]:
    """Return the worst condition that holds for a VM, and the reason in words."""
    channel, guest = vm.channel, vm.guest
    if vm.settings.ignore:
        return VmCondition.IGNORED, "ignored by its settings"
    if vm.host.unreadable:
        return VmCondition.UNREADABLE, vm.host.unreadable
    if vm.host.is_stopped:
        return VmCondition.STOPPED, stopped(vm.pid)
    if channel.hostile_at_s is not None:
        return VmCondition.HOSTILE, (
            f"disconnected: {channel.why_closed or 'flood'}; its numbers are shown, but not acted upon"
        )
    if vm.vmm.state.running is False:
        return VmCondition.PAUSED, "the VMM says that the guest does not run"
    if contradiction := _contradiction(vm):
        return VmCondition.CONTRADICTS, f"its numbers are not used: {contradiction}"
    if channel.held_by_another:
        return VmCondition.BUSY_CHANNEL, (
            "another program is connected to the agent's port, and QEMU serves one at a time"
        )
    if guest.had_agent and (schedule.is_silent(guest.missed) or channel.session is None):
        why = channel.why_closed or f"no answer {guest.missed} times in a row"
        return VmCondition.SILENT, f"its agent no longer answers: {why}"
    if not guest.had_agent:
        return VmCondition.NO_AGENT, _why_no_agent(vm)
    if is_short(vm.request.trust):
        why = vm.request.doctor[0] if vm.request.doctor else "it may be busy"
        return VmCondition.SHORT, f"returns less than it promised: {why}"
    return VmCondition.OK, guest.step


def _contradiction(vm: Watched) -> str:
    ledger = None if vm.seen is None else vm.seen.ledger
    unknown = None if ledger is None else ledger.unknown
    return unknown.why if unknown and unknown.kind is UnknownKind.CONTRADICTION else ""


def _why_no_agent(vm: Watched) -> str:
    how = f"giveback doctor {quoted(vm.vmm.description)} says how"
    if vm.vmm.agent_channel is None:
        return f"no giveback-agent in this guest, and no port for one: {how} to install it"
    closed = f" ({vm.channel.why_closed})" if vm.channel.why_closed else ""
    return f"no giveback-agent in this guest{closed}: {how} to install it"


def status_of(
    vm: Watched, now_s: float, leased_bytes: int = 0, host_bytes: int | None = None
) -> VmStatus:
    """Return one VM's status. The part that does not change with time is made once, and kept.

    `host_bytes`: the host's RAM; None if unknown.
    """
    made = vm.status_at(now_s, _made)
    channel, sampled_at_s = vm.channel, vm.host.sampled_at_s
    knows_urgency = channel.sent_urgency is not None and vm.guest.had_agent
    seen, activity = vm.observation(now_s), vm.host.activity_at(now_s)
    return replace(
        made,
        guest_source=str(seen.guest.source),
        sampled_age_s=None if sampled_at_s is None else max(0.0, now_s - sampled_at_s),
        urgency_by=channel.sent_by if knows_urgency else None,
        urgency_left_s=_urgency_left_s(vm, now_s) if knows_urgency else None,
        lease_left_s=max(0.0, channel.sent_until_s - now_s) if knows_urgency else None,
        balloon_lease_bytes=leased_bytes,
        errors=dict(vm.errors.counts),
        uid=activity.uid,
        label=vm.settings.label or vm.vmm.description.label,
        host_percent=percent_of(made.resident_bytes, host_bytes),
        cpu_percent=activity.cpu_percent,
        uptime_s=activity.uptime_s,
        swap_bytes=swapped_of(seen.host, activity),
        swap_in_bytes_per_s=activity.swap_in_bytes_per_s,
        swap_out_bytes_per_s=activity.swap_out_bytes_per_s,
    )


def _urgency_left_s(vm: Watched, now_s: float) -> float | None:
    until_s = vm.request.until_s(now_s)
    return None if until_s is None else max(0.0, until_s - now_s)


def _made(vm: Watched, seen: Observation) -> VmStatus:
    ledger, can_come = seen.ledger, returnable_of(seen)
    rows = ledger.rows if ledger else ()
    condition, text = condition_of(vm)
    return VmStatus(
        key=vm.key,
        name=escape_for_terminal(vm.name, 64),
        backend=vm.vmm.description.backend,
        pid=vm.pid,
        condition=condition,
        condition_text=escape_for_terminal(text, _TEXT_LIMIT),
        ram_bytes=vm.vmm.ram_bytes,
        resident_bytes=resident_of(seen),
        needed_bytes=ledger.needed_bytes if ledger else None,
        residue_bytes=ledger.residue_bytes if ledger else None,
        rows={r.key.name.lower(): r.host_bytes for r in rows if r.host_bytes},
        ram_rows={r.key.name.lower(): r.ram_bytes for r in rows if r.ram_bytes},
        unknown="" if ledger is None or ledger.unknown is None else ledger.unknown.why,
        in_use_bytes=ledger.in_use_bytes if ledger else None,
        cache_bytes=ledger.cache_bytes if ledger else None,
        returned_bytes=ledger.returned_bytes if ledger else None,
        own_bytes=ledger.host(*OWN) if ledger else None,
        charged_bytes=ledger.charged_bytes if ledger else None,
        reporting=reporting_label(seen.vm, seen.state, seen.guest),
        urgency=vm.channel.sent_urgency if vm.guest.had_agent else None,
        reliability=round(vm.request.trust.reliability, 3) if vm.request.is_judged else None,
        guest_stall_percent=seen.guest.stall_percent,
        guest_available_percent=percent_of(seen.guest.available_bytes, seen.guest.total_bytes),
        cache_floor_bytes=seen.guest.cache_floor_bytes,
        learned_floor_bytes=seen.guest.learned_floor_bytes,
        returnable_bytes=can_come.total_bytes if can_come else None,
        cold_bytes=can_come.cold_bytes if can_come else None,
        warm_bytes=can_come.warm_bytes if can_come else None,
        doctor=vm.request.doctor,
    )


def problems_of(errors: Mapping[str, int], recorded: tuple[str, ...]) -> tuple[str, ...]:
    """Return the problems of the manager itself, as lines for the operator."""
    words = [escape_for_terminal(text, _TEXT_LIMIT) for text in recorded]
    if errors.get("internal error"):
        words.append("the daemon had an internal error: see its log")
    return tuple(words)


def vm_problems(vms: Iterable[VmStatus]) -> tuple[str, ...]:
    """Return the problems of all VMs, one line each: conditions, unknown numbers, reasons of shortfalls."""
    lines = []
    for vm in vms:
        if vm.condition is VmCondition.IGNORED:
            continue
        said = [vm.condition_text] if vm.condition is not VmCondition.OK else []
        if vm.unknown not in ("", NO_NUMBERS) and vm.condition is not VmCondition.CONTRADICTS:
            said.append(f"use and residue are unknown: {vm.unknown}")
        lines += [
            (vm.key, escape_for_terminal(vm.name, 40), escape_for_terminal(text, _TEXT_LIMIT))
            for text in (*said, *vm.doctor)
            if text
        ]
    return tuple(dict.fromkeys(lines_of(lines)))
