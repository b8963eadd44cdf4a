"""The daemon's knowledge and actions as text; `giveback status` shows it.

`giveback.manager.fleet.status` makes the status; the API sends it.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from giveback.reporters.tables.columns import UNLIMITED, wrapped
from giveback.reporters.tables.vm_columns import STATUS, TableView, VmRow, in_order, table
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

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
_SETTERS = {"manual": "set manually", "reclaim": "set by `giveback reclaim`"}
_NO_NAMES: Mapping[int, str] = MappingProxyType({})


def text(
    status: DaemonStatus,
    now_s: float,
    width: int = UNLIMITED,
    owners: Mapping[int, str] = _NO_NAMES,
    view: TableView | None = None,
) -> str:
    """Return the host's lines, a table of the VMs, leases and problems; `now_s` is wall-clock time.

    `owners` names the users of VMMs; a user who is not in it is shown by number.
    """
    lines = _wrapped([_head_line(status, now_s), *_host_lines(status), ""], width)
    lines += _table(status, width, owners, view or TableView())
    rest = [f"  {words}" for vm in status.vms for words in _urgency(vm)]
    if rest:
        rest = ["", "urgencies that are not the host's own:", *rest]
    if status.leases:
        rest += ["", "held by devices, and released when it is not needed:"]
        rest += [f"  {_lease(lease, now_s)}" for lease in status.leases]
    listed = (*status.problems, *status.vm_problems)
    problems = [f"  {escape_for_terminal(problem, 400)}" for problem in listed]
    if problems:
        rest += ["", "problems:", *problems]
    return "\n".join((*lines, *_wrapped(rest, width)))


def _wrapped(lines: Iterable[str], width: int) -> list[str]:
    return [part for line in lines for part in wrapped(line, width)]


def _head_line(status: DaemonStatus, now_s: float) -> str:
    up = span(now_s - status.started_wall_s)
    return (
        f"giveback daemon: up {up}, settings {escape_for_terminal(status.settings_source)}, "
        f"{len(status.vms)} VMs, looked {span(now_s - status.wall_s)} ago"
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
        # At urgency 0 the reason says it, and that it is far away.
        if decision.trouble_in_s is not None and urgency:
            words.append(f"trouble in {span(decision.trouble_in_s)}")
        if decision.reason:
            words.append(escape_for_terminal(decision.reason, 200))
        lines.append("; ".join(words))
        lines += [f"  asks {_ask(ask)}" for ask in decision.asks if ask.goal_bytes > 0]
    return lines


def _ask(ask: Ask) -> str:
    name, goal = escape_for_terminal(ask.key, 60), size(ask.goal_bytes)
    return f"{name} for {goal} (urgency {ask.urgency}): {escape_for_terminal(ask.reason, 120)}"


def _urgency(vm: VmStatus) -> list[str]:
    """Return who set a VM's urgency and for how long, unless it was the arbiter."""
    if vm.urgency is None or vm.urgency_by not in _SETTERS or vm.urgency_left_s is None:
        return []
    name, setter = escape_for_terminal(vm.name, 60), _SETTERS[vm.urgency_by]
    return [f"{name}: {vm.urgency}, {setter}, for {span(vm.urgency_left_s)} more"]


def _table(
    status: DaemonStatus, width: int, owners: Mapping[int, str], view: TableView
) -> list[str]:
    if not status.vms:
        return ["no VM runs on this host"]
    rows = in_order((row_of(vm, status, owners) for vm in status.vms), lambda row: row, view)
    return table(rows, STATUS, view, width)


def row_of(vm: VmStatus, status: DaemonStatus, owners: Mapping[int, str] = _NO_NAMES) -> VmRow:
    """Return one VM of a status as a table shows it."""
    last = {action.vm: action for action in status.actions}
    action = last.get(vm.key) or last.get(vm.name)
    return VmRow(
        key=vm.key,
        name=vm.name,
        pid=vm.pid,
        backend=escape_for_terminal(vm.backend, 20),
        ram_bytes=vm.ram_bytes or None,
        resident_bytes=vm.resident_bytes,
        in_use_bytes=vm.in_use_bytes,
        cache_bytes=vm.cache_bytes,
        residue_bytes=vm.residue_bytes,
        trapped_bytes=None if vm.residue_bytes is None else vm.rows.get("free_trapped", 0),
        returnable_bytes=vm.returnable_bytes,
        returned_bytes=vm.returned_bytes,
        own_bytes=vm.own_bytes,
        charged_bytes=vm.charged_bytes,
        owner=None if vm.uid is None else owners.get(vm.uid, str(vm.uid)),
        host_percent=vm.host_percent,
        cpu_percent=vm.cpu_percent,
        uptime_s=vm.uptime_s,
        swap_bytes=vm.swap_bytes,
        swap_in_bytes_per_s=vm.swap_in_bytes_per_s,
        swap_out_bytes_per_s=vm.swap_out_bytes_per_s,
        urgency=vm.urgency,
        condition=str(vm.condition),
        last="" if action is None else verdict(action),
    )


def verdict(action: RecordedAction) -> str:
    """Return the result of an action: `ask: 290 MiB of 300 MiB`."""
    kind, expected = escape_for_terminal(action.kind, 20), size(action.expected_bytes)
    if not action.expected_bytes:
        return f"{kind}: {escape_for_terminal(action.reason, 80)}"
    if action.measured_bytes is None:
        return f"{kind}: {expected} awaited"
    words = f"{kind}: {size(max(0, action.measured_bytes))} of {expected}"
    return f"{words}, {escape_for_terminal(action.verdict, 80)}" if action.verdict else words


def _lease(lease: Lease, now_s: float) -> str:
    taken = size(lease.before_bytes - lease.target_bytes)
    since = span(now_s - lease.wall_s)
    return f"{escape_for_terminal(lease.vm, 60)}: {taken} by its {lease.device}, for {since}"
