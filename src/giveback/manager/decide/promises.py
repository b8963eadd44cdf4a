"""Compare what a VM was expected to return with what came back, by the host's own count. Pure.

A promise is what a VM says that it can return, at the time when it is asked for that.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from giveback_kernel.units import size

if TYPE_CHECKING:
    from giveback.manager.model import ManagerAction

GRACE_S = 30.0
"""A pass of the guest's page reporting takes about 30 s: docs/deep-report.md."""
_SHORT_PASS_S = 10.0
"""Most passes end sooner: docs/deep-report.md."""
_MEMORY = 0.7
"""The weight of the reliability so far, beside 0.3 for the newest promise (exponential smoothing)."""
SHORT_BELOW = 0.5
_DELIVERED = 0.8


@dataclass(frozen=True, slots=True)
class Promise:
    """The bytes that a VM was asked for, to be judged when its time is over."""

    action: ManagerAction
    before_bytes: int
    due_s: float
    latest_s: float
    """The time at which it is judged, even if more is asked for repeatedly."""
    at_s: float = 0.0
    """The time of the first ask."""


@dataclass(frozen=True, slots=True)
class Trust:
    """The record of one VM: `reliability` is 1 if it always delivered; `failures` counts those in a row."""

    reliability: float = 1.0
    failures: int = 0
    proven_bytes: int = 0
    """The most that it returned for one promise since its last failure, including that one."""


def promised(action: ManagerAction, resident_bytes: int, now_s: float) -> Promise:
    """Return the promise that begins with this action."""
    return Promise(action, resident_bytes, now_s + GRACE_S, now_s + 3 * GRACE_S, now_s)


def is_due(promise: Promise, resident_bytes: int, now_s: float) -> bool:
    """Return whether it can be judged: its time is over, or all bytes have come."""
    came = promise.before_bytes - resident_bytes
    return now_s >= promise.due_s or came >= promise.action.expected_bytes > 0


def has_had_a_pass(promise: Promise, now_s: float) -> bool:
    """Return whether the VM has had the time of a short pass: a shorter one says nothing about it."""
    return now_s >= promise.at_s + _SHORT_PASS_S


def raised(promise: Promise, goal_bytes: int, resident_bytes: int, now_s: float) -> Promise:
    """Return the promise after another ask before it is due. Bytes that came already count for it."""
    came = max(0, promise.before_bytes - resident_bytes)
    expected = max(promise.action.expected_bytes, came + goal_bytes)
    due_s = min(now_s + GRACE_S, promise.latest_s)
    return replace(promise, action=replace(promise.action, expected_bytes=expected), due_s=due_s)


def added(promise: Promise, step: ManagerAction, now_s: float) -> Promise:
    """Return the promise after another step of the same kind, before the last step was judged."""
    expected = promise.action.expected_bytes + step.expected_bytes
    action = replace(promise.action, expected_bytes=expected, reason=step.reason)
    return replace(promise, action=action, due_s=min(now_s + GRACE_S, promise.latest_s))


def is_delivered(expected_bytes: int, measured_bytes: int) -> bool:
    """Return whether four fifths have come; that counts as all, as guests allocate and free meanwhile."""
    return measured_bytes >= expected_bytes * _DELIVERED


def judged(
    trust: Trust, expected_bytes: int, measured_bytes: int, *, is_excused: bool = False
) -> Trust:
    """Return the VM's record after this promise. More bytes than were promised count as all of them.

    `is_excused`: its agent was right not to return more. Then the reliability falls no lower than
    SHORT_BELOW, and the VM is not shown as one that does not deliver.
    """
    if expected_bytes <= 0:
        return trust
    part = min(1.0, max(0.0, measured_bytes / expected_bytes))
    reliability = _MEMORY * trust.reliability + (1 - _MEMORY) * part
    came_bytes = min(max(0, measured_bytes), expected_bytes)
    if part >= _DELIVERED:
        return Trust(reliability, 0, max(trust.proven_bytes, came_bytes))
    if is_excused:
        reliability = max(reliability, min(trust.reliability, SHORT_BELOW))
        return Trust(reliability, trust.failures, came_bytes)
    return Trust(reliability, trust.failures + (part < SHORT_BELOW), came_bytes)


def is_short(trust: Trust) -> bool:
    """Return whether the VM is shown as one that does not deliver."""
    return trust.failures >= 2 or trust.reliability < SHORT_BELOW


def verdict(expected_bytes: int, measured_bytes: int, why: str) -> str:
    """Return in words how much came, and `why` not more; "" if enough came."""
    if is_delivered(expected_bytes, measured_bytes):
        return ""
    came = f"{size(max(0, measured_bytes))} of {size(expected_bytes)} came"
    if measured_bytes < 0:
        came = f"it grew by {size(-measured_bytes)}"
    return f"{came}: {why}"
