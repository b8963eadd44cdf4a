r"""One VM's reclaim request, from the decision to its verdict. No clock, no I/O: times are arguments.

    asked by the arbiter, or by `reclaim` --> expected --> judged --> trust, verdict
                       \--> taken by a device --^

The arbiter and `reclaim` may ask the same VM at once. Each keeps its own ask, and waits for it before it
asks again. One amount is expected of the VM, because returned bytes do not show which of the two asked.
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
    """One VM's open asks, the bytes expected of it, and its record of past ones."""

    __slots__ = (
        "arbiter",
        "device_at_work",
        "device_bytes",
        "doctor",
        "goal_number",
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
        """The arbiter's last ask. The arbiter waits for it before it asks again."""
        self.reclaim: Asked | None = None
        """The last ask of the `reclaim` under way; None if none runs."""
        self.reclaim_at_s: float | None = None
        """The time of the last ask by `reclaim`. The arbiter waits for that one as well."""
        self.reclaim_until_s = 0.0
        """The end of `reclaim`'s urgency. Until then `device_bytes` stays, even on a calm host."""
        self.goal_number = 0
        """Names the goal of `reclaim`: asks for the rest of it have its number, and add nothing to it."""
        self.device_bytes = 0
        """The bytes that a device may still take from a VM whose agent does not answer."""
        self.device_at_work = False
        self.manual_urgency: int | None = None
        """A user's own urgency; it replaces those of the arbiter and of `reclaim`."""
        self.manual_until_s = 0.0
        self.promise: Promise | None = None
        """The bytes that are expected and not yet judged."""
        self.trust = Trust()
        self.is_judged = False
        """Whether a promise was judged yet; before that, `trust` is an assumption."""
        self.doctor: tuple[str, ...] = ()
        """The reasons why the last request returned too little, in words."""

    # Asks and urgencies.

    def ask_by_arbiter(self, asked: Asked | None) -> None:
        """Store the arbiter's open ask after a decision; None if it has none."""
        self.arbiter = asked

    def ask_by_reclaim(self, asked: Asked, until_s: float) -> None:
        """Store an ask of the `reclaim` under way, whose urgency ends at `until_s`.

        What of the ask before may still come, and is asked for again, is the same goal.
        """
        if self.reclaim is None or not self.reclaim.has_left(asked):
            # Milliseconds of the host's uptime: another daemon does not give the same number.
            self.goal_number = int(asked.at_s * 1000)
        self.reclaim = asked
        self.reclaim_at_s, self.reclaim_until_s = asked.at_s, until_s
        self.device_bytes = asked.goal_bytes

    def end_reclaim(self) -> None:
        """Withdraw all that `reclaim` asked for: the arbiter's urgency holds again."""
        self.reclaim = None
        self.device_bytes, self.reclaim_until_s = 0, 0.0

    def set_manual(self, urgency: int, until_s: float) -> None:
        """Replace all other urgencies by a user's own, until `until_s`."""
        self.manual_urgency, self.manual_until_s = urgency, until_s

    def manual(self, now_s: float) -> int | None:
        """Return the user's own urgency; None if none holds."""
        return self.manual_urgency if now_s < self.manual_until_s else None

    def of_reclaim(self, now_s: float) -> int | None:
        """Return the urgency of the `reclaim` under way; None if it has not asked this VM."""
        if self.reclaim is None or now_s >= self.reclaim_until_s:
            return None
        return self.reclaim.urgency

    def set_by(self, now_s: float) -> UrgencyBy:
        """Return the source of the urgency that is in effect."""
        if self.manual(now_s) is not None:
            return UrgencyBy.MANUAL
        return UrgencyBy.HOST if self.of_reclaim(now_s) is None else UrgencyBy.RECLAIM

    def goal_bytes(self, resident_bytes: int, now_s: float) -> int | None:
        """Return the bytes that `reclaim` still wants of this VM; None if its urgency is not in effect."""
        if self.reclaim is None or self.manual(now_s) is not None or self.of_reclaim(now_s) is None:
            return None
        came = max(0, self.reclaim.resident_bytes - resident_bytes)
        return max(0, self.reclaim.goal_bytes - came)

    def until_s(self, now_s: float) -> float | None:
        """Return the end of the manual urgency or of `reclaim`'s; None if neither holds."""
        if self.manual(now_s) is not None:
            return self.manual_until_s
        return None if self.of_reclaim(now_s) is None else self.reclaim_until_s

    # Bytes that a device takes.

    def allow_device(self, goal_bytes: int) -> None:
        """Allow a device to take these bytes, if the agent does not answer."""
        self.device_bytes = goal_bytes

    def calm(self, now_s: float) -> None:
        """Set `device_bytes` to 0, because the host is calm, unless a `reclaim` is under way."""
        if now_s >= self.reclaim_until_s:
            self.device_bytes = 0

    def start_device(self) -> None:
        """Record that a device step is under way; only one may be."""
        self.device_at_work = True

    def end_device(self) -> None:
        """Record that the device step has ended, with or without success."""
        self.device_at_work = False

    def take_by_device(self, taken_bytes: int) -> None:
        """Subtract the bytes that a device takes from those that it may take."""
        self.device_bytes = max(0, self.device_bytes - taken_bytes)

    # Expected bytes.

    def expect(self, action: ManagerAction, resident_bytes: int, now_s: float) -> None:
        """Expect the bytes of this action; they are counted from `resident_bytes`."""
        self.promise = promises.promised(action, resident_bytes, now_s)

    def expect_more(
        self, goal_bytes: int, resident_bytes: int, now_s: float, urgency: int = 0
    ) -> ManagerAction | None:
        """Add a goal to the open promise, and return its action as it is now; None if none is open.

        The promise is judged by the highest urgency of its asks.
        """
        if self.promise is None:
            return None
        raised = promises.raised(self.promise, goal_bytes, resident_bytes, now_s)
        highest = max(urgency, raised.action.urgency)
        self.promise = replace(raised, action=replace(raised.action, urgency=highest))
        return self.promise.action

    def expect_step(self, step: ManagerAction, now_s: float) -> ManagerAction | None:
        """Add a device step to the open promise, and return its action as it is now.

        None if no promise is open, or it is one of another device.
        """
        if self.promise is None or self.promise.action.kind is not step.kind:
            return None
        self.promise = promises.added(self.promise, step, now_s)
        return self.promise.action

    def asked_at_s(self, now_s: float) -> float:
        """Return the time of the open promise's first ask; `now_s` if none is open."""
        return now_s if self.promise is None else self.promise.at_s

    def supersede(self, resident_bytes: int) -> tuple[ManagerAction, int] | None:
        """Drop the open promise without judging it, and return its action and the bytes that came."""
        promise, self.promise = self.promise, None
        return None if promise is None else (promise.action, promise.before_bytes - resident_bytes)

    # Results.

    def due(
        self, resident_bytes: int, now_s: float, *, is_over: bool = False
    ) -> tuple[ManagerAction, int] | None:
        """Return the action and the bytes that came, if the promise can be judged; else None."""
        promise = self.promise
        if promise is None:
            return None
        if not is_over and not promises.is_due(promise, resident_bytes, now_s):
            return None
        return promise.action, promise.before_bytes - resident_bytes

    def judge(
        self,
        resident_bytes: int,
        now_s: float,
        *,
        is_excused: bool = False,
        is_over: bool = False,
    ) -> tuple[ManagerAction, int] | None:
        """Judge the promise if it is `due`, close it, and return what `due` returns."""
        due = self.due(resident_bytes, now_s, is_over=is_over)
        if due is not None:
            self.promise = None
            action, measured_bytes = due
            self.trust = promises.judged(
                self.trust, action.expected_bytes, measured_bytes, is_excused=is_excused
            )
            self.is_judged = True
        return due

    def explain(self, doctor: tuple[str, ...]) -> None:
        """Store the reasons why the VM returned less than it promised; () if it did not."""
        self.doctor = doctor
