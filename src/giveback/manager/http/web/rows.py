"""Make the page's data of each VM, and their changes. Pure."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from giveback.accounting.ledger import NEEDED, OWN, RESIDUE, Key
from giveback.manager.http.feed import summary

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from giveback.manager.model import DaemonStatus, ManagerAction, VmStatus

ACTIONS_MOST = 200
_AS_THEY_ARE = (
    "key", "name", "backend", "pid", "uid", "condition", "condition_text", "ram_bytes",
    "resident_bytes", "in_use_bytes", "needed_bytes", "cache_bytes", "residue_bytes", "returned_bytes",
    "returnable_bytes", "cold_bytes", "warm_bytes", "own_bytes", "charged_bytes", "unknown",
    "reporting", "guest_source", "urgency", "urgency_by", "reliability", "balloon_lease_bytes",
    "cache_floor_bytes", "learned_floor_bytes", "swap_bytes",
)  # fmt: skip


def _part_of(key: Key) -> str:
    """Return the part of the page's bars to which a ledger row belongs."""
    if key is Key.CACHE_CLEAN:
        return "cache"
    if key is Key.FREE_RETURNED:
        return "returned"
    groups = {"trapped": RESIDUE, "needed": NEEDED, "own": OWN}
    return next((name for name, keys in groups.items() if key in keys), "other")


LEDGER = tuple({"row": k.name.lower(), "label": str(k), "part": _part_of(k)} for k in Key)
"""The ledger's rows in order, with the labels that are used everywhere."""


def row(vm: VmStatus, wall_s: float, owner_of: Callable[[int], str]) -> dict[str, object]:
    """Return the page's data of one VM. Times are absolute, so that a VM at rest stays equal."""
    return {
        **{name: getattr(vm, name) for name in _AS_THEY_ARE},
        "owner": "" if vm.uid is None else owner_of(vm.uid),
        "trapped_bytes": vm.rows.get("free_trapped"),
        "rows": dict(vm.rows),
        "ram_rows": dict(vm.ram_rows),
        "cpu_percent": None if vm.cpu_percent is None else round(vm.cpu_percent, 1),
        "started_wall_s": None if vm.uptime_s is None else round((wall_s - vm.uptime_s) / 10) * 10,
        "doctor": list(vm.doctor),
        "errors": dict(vm.errors),
    }


def host_part(status: DaemonStatus) -> dict[str, object]:
    """Return the data of the host and the daemon."""
    decision = status.decision
    return {
        **summary(status),
        "trouble_in_s": decision.trouble_in_s if decision else None,
        "started_wall_s": status.started_wall_s,
        "vm_problems": status.vm_problems,
        "settings_source": status.settings_source,
    }


def whole(status: DaemonStatus, rows: Mapping[str, dict[str, object]]) -> dict[str, object]:
    """Return all that the page needs to begin, or to be up to date again."""
    actions = status.actions[-ACTIONS_MOST:]
    return {
        "host": host_part(status),
        "rows": list(rows.values()),
        "ledger": LEDGER,
        "actions": [asdict(one) for one in actions],
    }


def delta(
    before: DaemonStatus,
    old: Mapping[str, dict[str, object]],
    now: DaemonStatus,
    new: Mapping[str, dict[str, object]],
) -> dict[str, object]:
    """Return the changes between two statuses."""
    done: dict[int, ManagerAction] = {one.id: one for one in before.actions}
    return {
        "host": host_part(now),
        "rows": [row for key, row in new.items() if old.get(key) != row],
        "gone": [key for key in old if key not in new],
        "actions": [asdict(one) for one in now.actions if done.get(one.id) != one],
    }
