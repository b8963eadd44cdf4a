"""When each VM is sampled, asked, inspected, connected to and notified again. Pure: times go in.

`chance` is a random number in [0, 1): it spreads the VMs, so that those that came together part.
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
"""An answer costs the guest a process of some milliseconds: the ledger takes it for 60 s."""
GUEST_MOVED_BYTES = MOVED_LEAST_BYTES
"""A guest whose resident memory has moved by more since its report is asked at once: of a small VM the
report is not used any more, of a large one soon."""
SILENT_AFTER = 2
"""An agent that missed so many answers in a row is silent."""
_SILENT_BACKOFF_S = 120.0
_HURRY_OVER, _HURRY_A_SECOND = 20, 10

VMM_HOLDS_S = 2.0
"""Of a VM that a device has taken from, or is to: a guest that runs short gets it back at once."""
VMM_AFTER_STEP_S = 1.0
"""So soon after a step of a device the VMM is asked what came of it."""
_VMM_CALM_S, _VMM_SILENT_S, _VMM_TELLS_ALL_S = 600.0, 15.0, 20.0
_VMM_NO_PORT_S = 60.0
"""`giveback enable --agent-port` may have plugged one in."""
MONITOR_S = (15.0, 600.0)
"""First and longest wait before a VMM that did not answer is asked again."""
UNREADABLE_AGAIN_S = 60.0

RECONNECT_S = (1.0, 30.0)
HOSTILE_S = (30.0, 900.0)
"""First and longest wait before a channel is opened again; after a hostile end much longer."""
FORGIVEN_S = 300.0
"""A guest that was cut off and behaved for so long is no longer called hostile."""
PORT_LEFT_S = 2.0
"""The daemon leaves the agent's port to another client for so long."""
_QUEUED_PATIENCE_S = 3.0
_REFUSED_S, _REFUSED_LEAST_S = 30.0, 1.0

LEASE_CALM_S = 120.0
LEASE_URGENT_S = 30.0
"""A dead manager's urgency holds no longer; renewed at a third of it."""
GOODBYE_LEASE_S = 1.0
_LEASE_LEAST_S = 1.0
_RENEWED_AT = 1 / 3

_NEWS_OF_TOTAL = 50
"""A fiftieth of the host's memory gone since the last decision is news."""
_NEWS_STALLS_PERCENT = 1.0


def spread(chance: float) -> float:
    """Return the part of a period to wait: four fifths to all of it."""
    return 0.8 + 0.2 * chance


def host_wait_s(*, is_needed: bool, is_promised: bool, part: float) -> float:
    """Return how long until the next sample; `part` of a period, unless bytes are expected."""
    if is_promised:
        return HOST_PROMISED_S
    return (HOST_NEEDED_S if is_needed else HOST_CALM_S) * part


def guest_wait_s(*, is_needed: bool, part: float) -> float:
    """Return how long until an agent that was just asked is asked again."""
    return (GUEST_NEEDED_S if is_needed else GUEST_CALM_S) * part


def is_silent(missed: int) -> bool:
    """Return whether an agent that missed so many answers in a row is called silent."""
    return missed >= SILENT_AFTER


def silent_wait_s(missed: int) -> float:
    """Return how long an agent that missed its answers is left alone: longer each time."""
    return min(_SILENT_BACKOFF_S, GUEST_CALM_S * missed)


def refused_wait_s(retry_s: float | None) -> float:
    """Return how long an agent that refused an answer is left alone, by its own wish."""
    return _REFUSED_S if retry_s is None else max(_REFUSED_LEAST_S, retry_s)


def hurried_wait_s(index: int) -> float:
    """Return when the VM of this index is sampled on a host that became short: all within 2 s."""
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
    """Return how long until the VMM is asked again: often where no other source tells."""
    if may_fall_back:
        return GUEST_NEEDED_S if is_needed else _VMM_TELLS_ALL_S
    if had_agent:
        return _VMM_SILENT_S if is_silent(missed) else _VMM_CALM_S
    # Without an agent its balloon statistics are the only source inside the guest.
    if tells_statistics:
        return _VMM_TELLS_ALL_S
    return _VMM_CALM_S if has_channel else _VMM_NO_PORT_S


def in_turn(waiting: Sequence[T], owners: Sequence[Hashable]) -> list[T]:
    """Return them with the first of each owner before the second of any; `owners` has each one's."""
    turns: dict[Hashable, int] = {}
    order = []
    for place, owner in enumerate(owners):
        turns[owner] = turn = turns.get(owner, -1) + 1
        order.append((turn, place))
    return [waiting[place] for _, place in sorted(order)]


def is_forgiven(hostile_at_s: float, now_s: float) -> bool:
    """Return whether a guest that was cut off has behaved for long enough."""
    return now_s - hostile_at_s > FORGIVEN_S


def stays_queued(*, has_heard: bool, connected_at_s: float, now_s: float) -> bool:
    """Return whether a session may be the one that waits: then it stays in the queue for a while."""
    return not has_heard and now_s - connected_at_s < _QUEUED_PATIENCE_S


def until_limit_s(age_s: float, limits_s: Sequence[float]) -> float:
    """Return how long until numbers of this age pass the next of the limits; inf past all."""
    ahead = (limit_s - age_s for limit_s in limits_s if limit_s >= age_s)
    return min(ahead, default=math.inf) + 0.1


def lease_s(urgency: int, override_left_s: float | None) -> float:
    """Return how long an urgency is to hold; an override no longer than its own time."""
    usual_s = LEASE_URGENT_S if urgency else LEASE_CALM_S
    if override_left_s is None:
        return usual_s
    return max(_LEASE_LEAST_S, min(usual_s, override_left_s))


def is_to_renew(lease_left_s: float, whole_s: float) -> bool:
    """Return whether a lease is to be renewed: a third of it has passed."""
    return lease_left_s <= whole_s * (1 - _RENEWED_AT)


def is_decision_due(decision: Decision | None, before: HostView | None, host: HostView) -> bool:
    """Return whether to decide again: the arbiter's time has come, or there is news."""
    if decision is None or before is None:
        return True
    if host.at_s - before.at_s >= decision.look_again_s:
        return True
    lost = before.available_bytes - host.available_bytes
    stalls = (host.psi_memory_some_avg10 or 0.0) - (before.psi_memory_some_avg10 or 0.0)
    return lost > before.total_bytes // _NEWS_OF_TOTAL or stalls > _NEWS_STALLS_PERCENT
