"""What this host's processes and guests tell, without a daemon, as `giveback top` shows it. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.accounting.activity import percent_of
from giveback.accounting.ledger import Key
from giveback.accounting.observation import resident_of
from giveback.accounting.returnable import returnable_of
from giveback.top.from_status import NAME_LIMIT, owner_of, parts_of
from giveback.top.model import TopHost, TopSnapshot, TopVm
from giveback.vmm.base import key_of
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from giveback.accounting.observation import Observation
    from giveback.host.memory import HostView


def snapshot_of(
    observations: Iterable[Observation],
    host: HostView | None,
    wall_s: float,
    uids: Mapping[int, int | None],
    owners: Mapping[int, str],
) -> TopSnapshot:
    """Return observed VMs as a snapshot.

    `uids`: the user of each VMM by its PID. `owners`: the names of users.
    """
    vms = tuple(_vm(seen, owner_of(uids.get(seen.vm.pid), owners)) for seen in observations)
    return TopSnapshot(wall_s, None if host is None else _host(host), vms)


def _host(host: HostView) -> TopHost:
    return TopHost(
        total_bytes=host.total_bytes,
        available_bytes=host.available_bytes,
        stall_some_percent=host.psi_memory_some_avg10,
        stall_full_percent=host.psi_memory_full_avg10,
        swap_free_bytes=host.swap_free_bytes,
    )


def _vm(seen: Observation, owner: str) -> TopVm:
    ledger, can_come = seen.ledger, returnable_of(seen)
    problems = [escape_for_terminal(text, 300) for text in (*seen.problems, *seen.guest.problems)]
    unknown = ledger.unknown.why if ledger and ledger.unknown else ""
    rows = ledger.rows if ledger else ()
    return TopVm(
        key=key_of(seen.vm),
        name=escape_for_terminal(seen.vm.name, NAME_LIMIT),
        pid=seen.vm.pid,
        backend=escape_for_terminal(seen.vm.backend, 20),
        owner=owner,
        ram_bytes=(ledger.ram_bytes if ledger else seen.vm.ram_bytes) or None,
        resident_bytes=resident_of(seen),
        parts=None
        if ledger is None
        else parts_of(
            ledger.in_use_bytes, ledger.cache_bytes, ledger.residue_bytes, ledger.returned_bytes
        ),
        small_blocks_bytes=(
            None
            if ledger is None or ledger.residue_bytes is None
            else ledger.host(Key.FREE_TRAPPED)
        ),
        returnable_bytes=can_come.total_bytes if can_come else None,
        stall_percent=seen.guest.stall_percent,
        guest_available_percent=percent_of(seen.guest.available_bytes, seen.guest.total_bytes),
        condition=_condition(seen),
        condition_text=problems[0] if problems else "",
        unknown=escape_for_terminal(unknown, 300),
        rows={str(row.key): row.host_bytes for row in rows if row.host_bytes},
        ram_rows={
            str(row.key): row.ram_bytes for row in rows if row.ram_bytes and not row.host_bytes
        },
    )


def _condition(seen: Observation) -> str:
    """Return in one or two words how a VM stands; the daemon's own words where they fit."""
    if seen.state.running is False:
        return "paused"
    if seen.ledger is None:
        return "unreadable"
    if seen.ledger.unknown is not None:
        return "no agent" if not seen.guest.agent_is_there else "silent"
    return "ok"
