"""Decide when each VM is sampled, asked, inspected, connected to and notified again. Pure.

`chance` is a random number in [0, 1). It spreads the VMs in time, so that VMs that started together are
not sampled together.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeVar

from giveback.accounting.usage import MOVED_LEAST_BYTES

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from giveback.host.memory import HostView
    from giveback.manager.model import Decision

T = TypeVar("T")

HOST_CALM_S, HOST_NEEDED_S, HOST_PROMISED_S = 8.0, 3.0, 1.0
GUEST_CALM_S, GUEST_NEEDED_S = 20.0, 5.0
"""A report costs the guest some milliseconds of CPU, so it is rare: the ledger accepts it for 60 s."""
GUEST_MOVED_BYTES = MOVED_LEAST_BYTES
"""A guest is asked for a new report at once if its resident memory changed by more since the last one.
For a small VM the ledger then rejects the old report, for a large VM soon after."""
SILENT_AFTER = 2
"""An agent is silent after this many missed answers in a row."""
_SILENT_BACKOFF_S = 120.0
_HURRY_OVER, _HURRY_A_SECOND = 20, 10

VMM_HOLDS_S = 2.0
"""Seconds between inspections while a device holds memory of the VM, or is to take some: a guest that
runs short must get it back at once."""
VMM_AFTER_STEP_S = 1.0
"""Seconds from a device step until the VMM is asked for its result."""
_VMM_CALM_S, _VMM_SILENT_S, _VMM_TELLS_ALL_S = 600.0, 15.0, 20.0
_VMM_NO_PORT_S = 60.0
"""Seconds between inspections of a VM without a port: `giveback enable --agent-port` may add one."""
MONITOR_S = (15.0, 600.0)
"""First and longest wait before a VMM that did not answer is asked again, in seconds."""
UNREADABLE_AGAIN_S = 60.0

RECONNECT_S = (1.0, 30.0)
HOSTILE_S = (30.0, 900.0)
"""First and longest wait before a channel is opened again, in seconds; longer if the guest was hostile."""
FORGIVEN_S = 300.0
"""A guest that was disconnected for breaking the protocol is called hostile until it has kept to it for
this many seconds."""
PORT_LEFT_S = 2.0
"""Seconds for which the daemon leaves the agent's port to another client."""
_QUEUED_PATIENCE_S = 3.0
_REFUSED_S, _REFUSED_LEAST_S, _REFUSED_MOST_S = 30.0, 1.0, 60.0

LEASE_CALM_S = 120.0
LEASE_URGENT_S = 30.0
"""An urgency above 0 holds this long after the manager dies. A lease is renewed after a third of it."""
GOODBYE_LEASE_S = 1.0
_LEASE_LEAST_S = 1.0
_RENEWED_AT = 1 / 3

_NEWS_OF_TOTAL = 50
"""A new decision is due if available memory fell by a fiftieth of the host's memory since the last one."""
_NEWS_STALLS_PERCENT = 1.0


def spread(chance: float) -> float:
    """Return the part of a period to wait: 0.8 to 1."""
    return 0.8 + 0.2 * chance


def host_wait_s(*, is_needed: bool, is_promised: bool, part: float) -> float:
    """Return the seconds until the next host sample: `part` of a period, or 1 s while bytes are expected."""
    if is_promised:
        return HOST_PROMISED_S
    return (HOST_NEEDED_S if is_needed else HOST_CALM_S) * part


def guest_wait_s(*, is_needed: bool, part: float) -> float:
    """Return the seconds until an agent that was just asked for a report is asked again."""
    return (GUEST_NEEDED_S if is_needed else GUEST_CALM_S) * part


def is_silent(missed: int) -> bool:
    """Return whether an agent that missed this many answers in a row is called silent."""
    return missed >= SILENT_AFTER


def silent_wait_s(missed: int) -> float:
    """Return the seconds for which a silent agent is not asked: longer with each missed answer."""
    return min(_SILENT_BACKOFF_S, GUEST_CALM_S * missed)


def refused_wait_s(retry_s: float | None) -> float:
    """Return the seconds for which an agent that refused is not asked: `retry_s` if it gave one.

    At most a minute: a guest may not exempt itself by a long one.
    """
    if retry_s is None:
        return _REFUSED_S
    return min(_REFUSED_MOST_S, max(_REFUSED_LEAST_S, retry_s))


def hurried_wait_s(index: int) -> float:
    """Return the delay in seconds of the VM with this index when the host gets short: all within 2 s."""
    return index % _HURRY_OVER / _HURRY_A_SECOND


def inspection_wait_s(
    *,
    is_needed: bool,
    may_fall_back: bool,
    had_agent: bool,
    missed: int,
    tells_statistics: bool,
    has_channel: bool,
) -> float:
    """Return the seconds until the VMM is asked again: soon if it is the only source of the numbers."""
    if may_fall_back:
        return GUEST_NEEDED_S if is_needed else _VMM_TELLS_ALL_S
    if had_agent:
        return _VMM_SILENT_S if is_silent(missed) else _VMM_CALM_S
    # Without an agent the balloon statistics are the only numbers from inside the guest.
    if tells_statistics:
        return _VMM_TELLS_ALL_S
    return _VMM_CALM_S if has_channel else _VMM_NO_PORT_S


def in_turn(waiting: Sequence[T], owners: Sequence[Hashable]) -> list[T]:
    """Return the items in round-robin order of their owners; `owners` has the owner of each item."""
    turns: dict[Hashable, int] = {}
    order = []
    for place, owner in enumerate(owners):
        turns[owner] = turn = turns.get(owner, -1) + 1
        order.append((turn, place))
    return [waiting[place] for _, place in sorted(order)]


def is_forgiven(hostile_at_s: float, now_s: float) -> bool:
    """Return whether a guest that was once hostile has kept to the protocol for long enough."""
    return now_s - hostile_at_s > FORGIVEN_S


def stays_queued(*, has_heard: bool, connected_at_s: float, now_s: float) -> bool:
    """Return whether a session without a message yet may wait behind another client of the port.

    It then keeps its place in the port's queue for 3 s.
    """
    return not has_heard and now_s - connected_at_s < _QUEUED_PATIENCE_S


def until_limit_s(age_s: float, limits_s: Sequence[float]) -> float:
    """Return the seconds until numbers of this age pass the next age limit; inf if they passed all."""
    ahead = (limit_s - age_s for limit_s in limits_s if limit_s >= age_s)
    return min(ahead, default=math.inf) + 0.1


def lease_s(urgency: int, override_left_s: float | None) -> float:
    """Return the lease of an urgency in seconds; at most the time that an override has left."""
    usual_s = LEASE_URGENT_S if urgency else LEASE_CALM_S
    if override_left_s is None:
        return usual_s
    return max(_LEASE_LEAST_S, min(usual_s, override_left_s))


def is_to_renew(lease_left_s: float, whole_s: float) -> bool:
    """Return whether a lease must be renewed: a third of it has passed."""
    return lease_left_s <= whole_s * (1 - _RENEWED_AT)


def is_decision_due(decision: Decision | None, before: HostView | None, host: HostView) -> bool:
    """Return whether a new decision is due: by its time, or because memory fell or stalls rose."""
    if decision is None or before is None:
        return True
    if host.at_s - before.at_s >= decision.look_again_s:
        return True
    lost = before.available_bytes - host.available_bytes
    stalls = (host.psi_memory_some_avg10 or 0.0) - (before.psi_memory_some_avg10 or 0.0)
    return lost > before.total_bytes // _NEWS_OF_TOTAL or stalls > _NEWS_STALLS_PERCENT
