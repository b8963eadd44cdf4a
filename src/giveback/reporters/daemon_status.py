"""What the daemon knows and does, for people; `giveback status` shows it.

`giveback.manager.fleet.status` makes the status; the API sends it.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from giveback.reporters.columns import UNLIMITED, fitted, short, size_or_unknown
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from giveback.manager.model import Ask, DaemonStatus, Lease, RecordedAction, VmStatus

CALM_WORDS = {
    0: "calm: guests keep their caches, which their agents alone would not; [host] on_calm",
    1: "calm: idle guests return cold cache, as their agents alone would",
}
URGENCY_WORDS = {
    # Of the host: what one guest hears may be less.
    1: "soon short: some guests are asked for trapped memory and cold cache",
    2: "short: more guests are asked for trapped memory and cold cache",
    3: "critical: where that does not suffice, warm cache is asked for, too",
}
_HEAD = (
    "NAME", "PID", "RAM", "RESIDENT", "IN USE", "CACHE", "FREE HELD", "RETURNED", "CHARGED", "URGENCY",
    "CONDITION", "LAST",
)  # fmt: skip
_RIGHT = frozenset(_HEAD[2:10])
_LEAST_NEEDED = ("CHARGED", "PID", "RETURNED", "CACHE")


def text(status: DaemonStatus, now_s: float, width: int = UNLIMITED) -> str:
    """Return the host's lines, a table of the VMs, leases and problems; `now_s` is wall-clock time."""
    lines = [_head_line(status, now_s), *_host_lines(status), ""]
    lines += _table(status, width)
    leases = status.leases
    if leases:
        lines += ["", "held by devices, and let go of when it is not needed:"]
        lines += [f"  {_lease(lease, now_s)}" for lease in leases]
    listed = (*status.problems, *status.vm_problems)
    problems = [f"  {escape_for_terminal(problem, 400)}" for problem in listed]
    if problems:
        lines += ["", "problems:", *problems]
    return "\n".join(lines)


def _head_line(status: DaemonStatus, now_s: float) -> str:
    up = ago(now_s - status.started_wall_s)
    return (
        f"giveback daemon: up {up}, settings {escape_for_terminal(status.settings_source)}, "
        f"{len(status.vms)} VMs, looked {ago(now_s - status.wall_s)} ago"
    )


def _host_lines(status: DaemonStatus) -> list[str]:
    host, decision = status.host, status.decision
    lines = []
    if host is None:
        lines.append("host: not looked at yet")
    else:
        parts = [f"{size(host.available_bytes)} of {size(host.total_bytes)} available"]
        stalls = {"some": host.psi_memory_some_avg10, "full": host.psi_memory_full_avg10}
        for kind, percent in stalls.items():
            if percent is not None:
                parts.append(f"pressure {kind} {percent:.1f} %")
        parts.append(f"free swap {size(host.swap_free_bytes)}")
        lines.append(f"host: {', '.join(parts)}")
    if decision is not None:
        urgency = decision.urgency
        calm = CALM_WORDS.get(decision.calm_urgency, "?")
        words = [f"urgency {urgency} ({URGENCY_WORDS.get(urgency, '?') if urgency else calm})"]
        if decision.deficit_bytes > 0:
            words.append(f"{size(decision.deficit_bytes)} short")
        if decision.trouble_in_s is not None:
            words.append(f"trouble in {ago(decision.trouble_in_s)}")
        if decision.reason:
            words.append(escape_for_terminal(decision.reason, 200))
        lines.append("; ".join(words))
        lines += [f"  asks {_ask(ask)}" for ask in decision.asks if ask.goal_bytes > 0]
    return lines


def _ask(ask: Ask) -> str:
    name, goal = escape_for_terminal(ask.key, 60), size(ask.goal_bytes)
    return f"{name} for {goal} (urgency {ask.urgency}): {escape_for_terminal(ask.reason, 120)}"


def _table(status: DaemonStatus, width: int) -> list[str]:
    vms = sorted(status.vms, key=lambda vm: (-(vm.residue_bytes or 0), vm.name))
    if not vms:
        return ["no VM runs on this host"]
    last = {action.vm: action for action in status.actions}
    rows = [_cells(vm, last.get(vm.key) or last.get(vm.name)) for vm in vms]
    legend = "FREE HELD: free in the guest, still resident here; ?: not known"
    return [*fitted(_HEAD, rows, _RIGHT, width, _LEAST_NEEDED), *textwrap.wrap(legend, width)]


def _cells(vm: VmStatus, action: RecordedAction | None) -> tuple[str, ...]:
    told = "-" if vm.urgency is None else str(vm.urgency)
    return (
        short(vm.name, 32),
        str(vm.pid),
        size(vm.ram_bytes),
        size_or_unknown(vm.resident_bytes),
        size_or_unknown(vm.in_use_bytes),
        size_or_unknown(vm.cache_bytes),
        size_or_unknown(vm.residue_bytes),
        size_or_unknown(vm.returned_bytes),
        size_or_unknown(vm.charged_bytes),
        told,
        escape_for_terminal(vm.condition, 30),
        "" if action is None else verdict(action),
    )


def verdict(action: RecordedAction) -> str:
    """Return what came of an action: `ask: 290 MiB of 300 MiB`."""
    kind, expected = escape_for_terminal(action.kind, 20), size(action.expected_bytes)
    if not action.expected_bytes:
        return f"{kind}: {escape_for_terminal(action.reason, 80)}"
    if action.measured_bytes is None:
        return f"{kind}: {expected} awaited"
    words = f"{kind}: {size(max(0, action.measured_bytes))} of {expected}"
    return f"{words}, {escape_for_terminal(action.verdict, 80)}" if action.verdict else words


def _lease(lease: Lease, now_s: float) -> str:
    taken = size(lease.before_bytes - lease.target_bytes)
    since = ago(now_s - lease.wall_s)
    return f"{escape_for_terminal(lease.vm, 60)}: {taken} by its {lease.device}, for {since}"


def ago(seconds: float) -> str:
    """Return a span in two units: `3 d 4 h`, `12 min 5 s`, `0.4 s`."""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = int(seconds)
    for unit_s, unit, small_s, small in (
        (86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"),
    ):  # fmt: skip
        if whole >= unit_s:
            rest = whole % unit_s // small_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"
