"""One VM's reclaim request, from the decision to its verdict. No clock, no I/O: times go in.

    asked by the arbiter, or by `reclaim` --> expected --> judged --> trust, verdict
                       \\--> taken by a device --^

The arbiter and `reclaim` may ask the same VM at once. Each keeps its own ask, which paces it. What is
expected of the VM is one amount: bytes that come back cannot be told apart by who asked for them.
Only the methods here assign the fields: tests/unit/manager/test_state_owners.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.manager.decide import promises
from giveback.manager.decide.promises import Trust
from giveback.manager.model import UrgencyBy

if TYPE_CHECKING:
    from giveback.manager.decide.delivery import Asked
    from giveback.manager.decide.promises import Promise
    from giveback.manager.model import ManagerAction


class ReclaimRequest:
    """What one VM is asked to return, by whom, what it promised, and what came of it."""

    __slots__ = (
        "arbiter",
        "device_at_work",
        "device_bytes",
        "doctor",
        "is_judged",
        "manual_until_s",
        "manual_urgency",
        "promise",
        "reclaim",
        "reclaim_at_s",
        "reclaim_until_s",
        "trust",
    )

    def __init__(self) -> None:
        self.arbiter: Asked | None = None
        """The arbiter's last ask: it waits for this before it asks again."""
        self.reclaim: Asked | None = None
        """The last ask of the `reclaim` under way; None between two of them."""
        self.reclaim_at_s: float | None = None
        """When `reclaim` last asked: the arbiter waits for that, too."""
        self.reclaim_until_s = 0.0
        """Until then its urgency holds, and `device_bytes` is its own also on a host that is calm."""
        self.device_bytes = 0
        """What a device may still take from a VM whose agent does not answer."""
        self.device_at_work = False
        self.manual_urgency: int | None = None
        """A user's own urgency, in place of the arbiter's and of `reclaim`'s."""
        self.manual_until_s = 0.0
        self.promise: Promise | None = None
        """What is expected and not yet judged."""
        self.trust = Trust()
        self.is_judged = False
        """Whether anything was judged: before that, `trust` is an assumption."""
        self.doctor: tuple[str, ...] = ()
        """Why the last request came short, in words."""

    # Who asks.

    def ask_by_arbiter(self, asked: Asked | None) -> None:
        """Take what the arbiter waits for after a decision; None: it waits for nothing."""
        self.arbiter = asked

    def ask_by_reclaim(self, asked: Asked, until_s: float) -> None:
        """Take an ask of the `reclaim` under way, which ends at `until_s`."""
        self.reclaim = asked
        self.reclaim_at_s, self.reclaim_until_s = asked.at_s, until_s
        self.device_bytes = asked.goal_bytes

    def end_reclaim(self) -> None:
        """Take back all that `reclaim` asked for: another's urgency holds again."""
        self.reclaim = None
        self.device_bytes, self.reclaim_until_s = 0, 0.0

    def set_manual(self, urgency: int, until_s: float) -> None:
        """Put a user's own urgency in place of all others for a time."""
        self.manual_urgency, self.manual_until_s = urgency, until_s

    def manual(self, now_s: float) -> int | None:
        """Return the user's own urgency, if one holds."""
        return self.manual_urgency if now_s < self.manual_until_s else None

    def of_reclaim(self, now_s: float) -> int | None:
        """Return the urgency of the `reclaim` under way, if it has asked this VM."""
        if self.reclaim is None or now_s >= self.reclaim_until_s:
            return None
        return self.reclaim.urgency

    def set_by(self, now_s: float) -> UrgencyBy:
        """Return whose urgency is in effect."""
        if self.manual(now_s) is not None:
            return UrgencyBy.MANUAL
        return UrgencyBy.HOST if self.of_reclaim(now_s) is None else UrgencyBy.RECLAIM

    def goal_bytes(self, resident_bytes: int, now_s: float) -> int | None:
        """Return what `reclaim` still wants of this VM; None where its urgency is not in effect."""
        if self.reclaim is None or self.manual(now_s) is not None or self.of_reclaim(now_s) is None:
            return None
        came = max(0, self.reclaim.resident_bytes - resident_bytes)
        return max(0, self.reclaim.goal_bytes - came)

    def until_s(self, now_s: float) -> float | None:
        """Return until when a manual urgency or `reclaim`'s holds; None where neither does."""
        if self.manual(now_s) is not None:
            return self.manual_until_s
        return None if self.of_reclaim(now_s) is None else self.reclaim_until_s

    # What a device takes.

    def allow_device(self, goal_bytes: int) -> None:
        """Let a device take so much, where the agent does not answer."""
        self.device_bytes = goal_bytes

    def calm(self, now_s: float) -> None:
        """Want nothing more for a host that is calm, unless `reclaim` does."""
        if now_s >= self.reclaim_until_s:
            self.device_bytes = 0

    def start_device(self) -> None:
        """Note that a step of a device is under way: one at a time."""
        self.device_at_work = True

    def end_device(self) -> None:
        """Note that the step has ended, whatever came of it."""
        self.device_at_work = False

    def take_by_device(self, taken_bytes: int) -> None:
        """Ask no more for what a device takes, until the arbiter asks again."""
        self.device_bytes = max(0, self.device_bytes - taken_bytes)

    # What is expected.

    def expect(self, action: ManagerAction, resident_bytes: int, now_s: float) -> None:
        """Expect what this action asked for, from what the process holds now."""
        self.promise = promises.promised(action, resident_bytes, now_s)

    def expect_more(
        self, goal_bytes: int, resident_bytes: int, now_s: float, urgency: int = 0
    ) -> ManagerAction | None:
        """Raise what is expected, if something is: return the action as it is now.

        The highest urgency of its asks counts: by that it is judged.
        """
        if self.promise is None:
            return None
        raised = promises.raised(self.promise, goal_bytes, resident_bytes, now_s)
        highest = max(urgency, raised.action.urgency)
        self.promise = replace(raised, action=replace(raised.action, urgency=highest))
        return self.promise.action

    def expect_step(self, step: ManagerAction, now_s: float) -> ManagerAction | None:
        """Add another step of the device whose steps are expected: return the action as it is now."""
        if self.promise is None or self.promise.action.kind is not step.kind:
            return None
        self.promise = promises.added(self.promise, step, now_s)
        return self.promise.action

    def asked_at_s(self, now_s: float) -> float:
        """Return when what is expected was asked for first; `now_s` where nothing is."""
        return now_s if self.promise is None else self.promise.at_s

    def supersede(self, resident_bytes: int) -> tuple[ManagerAction, int] | None:
        """Expect no more what is not due yet: return it with the bytes that came, not judged."""
        promise, self.promise = self.promise, None
        return None if promise is None else (promise.action, promise.before_bytes - resident_bytes)

    # What came of it.

    def due(self, resident_bytes: int, now_s: float) -> tuple[ManagerAction, int] | None:
        """Return what was expected and the bytes that came, where that can be judged; else None."""
        promise = self.promise
        if promise is None or not promises.is_due(promise, resident_bytes, now_s):
            return None
        return promise.action, promise.before_bytes - resident_bytes

    def judge(
        self, resident_bytes: int, now_s: float, *, is_excused: bool = False
    ) -> tuple[ManagerAction, int] | None:
        """Judge what is `due`, once, and return it; None where nothing is."""
        due = self.due(resident_bytes, now_s)
        if due is not None:
            self.promise = None
            action, measured_bytes = due
            self.trust = promises.judged(
                self.trust, action.expected_bytes, measured_bytes, is_excused=is_excused
            )
            self.is_judged = True
        return due

    def explain(self, doctor: tuple[str, ...]) -> None:
        """Say why the VM returned less than it promised; () where it is not known to."""
        self.doctor = doctor
