"""The daemon's status as `giveback top` shows it. Pure."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from giveback.accounting.ledger import Key
from giveback.top.model import TopHost, TopSnapshot, TopVm, VmParts
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.manager.model import DaemonStatus, ManagerAction, RecordedAction, VmStatus

NAME_LIMIT = 64
_TEXT_LIMIT = 300
_NO_NAMES: Mapping[int, str] = MappingProxyType({})
_LABELS = {key.name.lower(): str(key) for key in Key}


def snapshot_of(status: DaemonStatus, owners: Mapping[int, str] = _NO_NAMES) -> TopSnapshot:
    """Return a daemon's status as a snapshot; `owners` names the users of VMMs."""
    last = {action.vm: action for action in status.actions}
    vms = tuple(_vm(vm, last.get(vm.key) or last.get(vm.name), owners) for vm in status.vms)
    problems = tuple(escape_for_terminal(text, _TEXT_LIMIT) for text in status.problems)
    return TopSnapshot(status.wall_s, _host(status), vms, problems)


def _host(status: DaemonStatus) -> TopHost | None:
    host, decision = status.host, status.decision
    if host is None:
        return None
    return TopHost(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        stall_some_percent=host.psi_memory_some_avg10,
        stall_full_percent=host.psi_memory_full_avg10,
        swap_free_bytes=host.swap_free_bytes,
        urgency=decision.urgency if decision else None,
        deficit_bytes=decision.deficit_bytes if decision else 0,
        trouble_in_s=decision.trouble_in_s if decision else None,
        reason=escape_for_terminal(decision.reason, 200) if decision else "",
    )


def _vm(vm: VmStatus, action: ManagerAction | None, owners: Mapping[int, str]) -> TopVm:
    return TopVm(
        key=vm.key,
        name=escape_for_terminal(vm.name, NAME_LIMIT),
        pid=vm.pid,
        backend=escape_for_terminal(vm.backend, 20),
        owner=owner_of(vm.uid, owners, vm.label),
        ram_bytes=vm.ram_bytes or None,
        resident_bytes=vm.resident_bytes,
        parts=parts_of(vm.in_use_bytes, vm.cache_bytes, vm.residue_bytes, vm.returned_bytes),
        small_blocks_bytes=None if vm.residue_bytes is None else vm.rows.get("free_trapped", 0),
        returnable_bytes=vm.returnable_bytes,
        stall_percent=vm.guest_stall_percent,
        guest_available_percent=vm.guest_available_percent,
        condition=escape_for_terminal(str(vm.condition), 40),
        condition_text=escape_for_terminal(vm.condition_text, _TEXT_LIMIT),
        urgency=vm.urgency,
        verdict="" if action is None else verdict_of(action, action.took_s),
        unknown=escape_for_terminal(vm.unknown, _TEXT_LIMIT),
        rows=_labelled(vm.rows),
        ram_rows=_labelled(
            {name: value for name, value in vm.ram_rows.items() if name not in vm.rows}
        ),
        doctor=tuple(escape_for_terminal(text, _TEXT_LIMIT) for text in vm.doctor),
    )


def _labelled(rows: Mapping[str, int]) -> dict[str, int]:
    return {_LABELS.get(name, escape_for_terminal(name, 40)): value for name, value in rows.items()}


def owner_of(uid: int | None, owners: Mapping[int, str], label: str = "") -> str:
    """Return whose a VM is: its label from the settings, its user's name, or number; "" if unknown."""
    name = "" if uid is None else owners.get(uid, str(uid))
    return escape_for_terminal(label or name, 32)


def parts_of(
    in_use: int | None, cache: int | None, residue: int | None, returned: int | None
) -> VmParts | None:
    """Return the four parts of these amounts in bytes; None unless use and residue are known."""
    if in_use is None or residue is None:
        return None
    return VmParts(max(0, in_use), max(0, cache or 0), max(0, residue), max(0, returned or 0))


def _in_its_unit(value_bytes: int, beside: str) -> str:
    """Return a size without its unit, if that stands beside it already."""
    number, _, unit = size(value_bytes).partition(" ")
    return number if beside.endswith(f" {unit}") else f"{number} {unit}"


def verdict_of(action: RecordedAction, took_s: float | None = None) -> str:
    """Return what came of an action in words: `asked 512 MiB, got 498 in 9 s`."""
    kind, expected = escape_for_terminal(action.kind, 20), size(action.expected_bytes)
    if not action.expected_bytes:
        return f"{kind}: {escape_for_terminal(action.reason, 80)}"
    asked = f"asked {expected}" if kind in ("ask", "reclaim") else f"{kind} {expected}"
    if action.measured_bytes is None:
        return f"{asked}, waits for it"
    words = f"{asked}, got {_in_its_unit(max(0, action.measured_bytes), expected)}"
    if took_s is not None:
        words += f" in {span(round(took_s))}"
    return f"{words}: {escape_for_terminal(action.verdict, 80)}" if action.verdict else words
