"""What was promised against what came back, by the host's own count. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from giveback_kernel.units import size

if TYPE_CHECKING:
    from giveback.manager.model import ManagerAction

GRACE_S = 30.0
"""A pass of the guest's page reporting takes about that long: docs/deep-report.md."""
_MEMORY = 0.7
"""How much of what was known of a guest's word stays with each new one."""
SHORT_BELOW = 0.5
_DELIVERED = 0.8


@dataclass(frozen=True, slots=True)
class Promise:
    """What a VM was asked for, to be looked at when its time is over."""

    action: ManagerAction
    before_bytes: int
    due_s: float
    latest_s: float
    """Asked for more and more, it is judged at last."""
    at_s: float = 0.0
    """When it was asked for first."""


@dataclass(frozen=True, slots=True)
class Trust:
    """How a VM has kept its promises: `reliability` 1 is always, `failures` are those in a row."""

    reliability: float = 1.0
    failures: int = 0
    proven_bytes: int = 0
    """The most that it returned at once since it last came short; what it returned then, if less."""


def promised(action: ManagerAction, resident_bytes: int, now_s: float) -> Promise:
    """What was just asked for."""
    return Promise(action, resident_bytes, now_s + GRACE_S, now_s + 3 * GRACE_S, now_s)


def is_due(promise: Promise, resident_bytes: int, now_s: float) -> bool:
    """Whether it can be judged: its time is over, or all has come."""
    came = promise.before_bytes - resident_bytes
    return now_s >= promise.due_s or came >= promise.action.expected_bytes > 0


def raised(promise: Promise, goal_bytes: int, resident_bytes: int, now_s: float) -> Promise:
    """The promise when more is asked for before it is due: what came already counts for it."""
    came = max(0, promise.before_bytes - resident_bytes)
    expected = max(promise.action.expected_bytes, came + goal_bytes)
    due_s = min(now_s + GRACE_S, promise.latest_s)
    return replace(promise, action=replace(promise.action, expected_bytes=expected), due_s=due_s)


def added(promise: Promise, step: ManagerAction, now_s: float) -> Promise:
    """The promise after another step of the same kind, before what the last one brought is known."""
    expected = promise.action.expected_bytes + step.expected_bytes
    action = replace(promise.action, expected_bytes=expected, reason=step.reason)
    return replace(promise, action=action, due_s=min(now_s + GRACE_S, promise.latest_s))


def is_delivered(expected_bytes: int, measured_bytes: int) -> bool:
    """Whether that counts as all: what a guest frees and takes meanwhile is its own affair."""
    return measured_bytes >= expected_bytes * _DELIVERED


def judged(
    trust: Trust, expected_bytes: int, measured_bytes: int, *, is_excused: bool = False
) -> Trust:
    """Return what is thought of a VM after this. More than was promised counts as all of it.

    `is_excused`: its agent did what it is there for. Less is then expected of it, down to
    SHORT_BELOW, but it is not shown as one that does not deliver.
    """
    if expected_bytes <= 0:
        return trust
    share = min(1.0, max(0.0, measured_bytes / expected_bytes))
    reliability = _MEMORY * trust.reliability + (1 - _MEMORY) * share
    came_bytes = min(max(0, measured_bytes), expected_bytes)
    if share >= _DELIVERED:
        return Trust(reliability, 0, max(trust.proven_bytes, came_bytes))
    if is_excused:
        reliability = max(reliability, min(trust.reliability, SHORT_BELOW))
        return Trust(reliability, trust.failures, came_bytes)
    return Trust(reliability, trust.failures + (share < SHORT_BELOW), came_bytes)


def is_short(trust: Trust) -> bool:
    """Whether it is to be shown as one that promises and does not deliver."""
    return trust.failures >= 2 or trust.reliability < SHORT_BELOW


def verdict(expected_bytes: int, measured_bytes: int, why: str) -> str:
    """Return what came and `why` no more, in words; "" where enough came."""
    if is_delivered(expected_bytes, measured_bytes):
        return ""
    came = f"{size(max(0, measured_bytes))} of {size(expected_bytes)} came"
    if measured_bytes < 0:
        came = f"it grew by {size(-measured_bytes)}"
    return f"{came}: {why}"
