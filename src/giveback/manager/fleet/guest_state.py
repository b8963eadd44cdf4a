"""What the guest says of its memory, and whether its agent answers.

Only the methods here assign the fields: tests/unit/manager/test_state_owners.py.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.accounting.usage import NO_GUEST, STALE_S
from giveback.manager.decide import schedule
from giveback.manager.decide.guest_view import FRESH_S

if TYPE_CHECKING:
    from giveback.accounting.usage import GuestSnapshot

_EVASIONS = 2
"""An agent that starts, or is asked too often, may say so this often in a row: then it must answer."""


class GuestState:
    """A guest's last memory report, and how its agent answers."""

    __slots__ = (
        "due_s",
        "evasions",
        "had_agent",
        "line",
        "line_at_s",
        "missed",
        "report",
        "reported_at_s",
        "step",
        "step_at_s",
    )

    def __init__(self) -> None:
        self.report: GuestSnapshot = NO_GUEST
        self.reported_at_s: float | None = None
        self.line = b""
        """The agent's last report as it came, for clients that ask via the daemon."""
        self.line_at_s = 0.0
        """When it came: a later report may be another source's."""
        self.due_s = 0.0
        self.had_agent = False
        self.missed = 0
        """Answers that did not come, in a row."""
        self.evasions = 0
        """How often its agent said something else since it last answered."""
        self.step = ""
        """What the agent does now, in its own words."""
        self.step_at_s: float | None = None

    @property
    def given_at_s(self) -> float | None:
        """When the guest gave its report; a balloon's may have been old when it came."""
        return (
            None if self.reported_at_s is None else self.reported_at_s - (self.report.age_s or 0.0)
        )

    def hear(self) -> None:
        """Note that its agent has sent something that was expected, but no numbers."""
        self.had_agent = True

    def greet(self, now_s: float) -> None:
        """Note that its agent says that it has started, which takes back what it was asked.

        It is asked at once. One that greets again and again has not answered.
        """
        if not self.evasions:
            self.hurry(now_s)
        self.evade()

    def answer(self) -> None:
        """Note that its agent has told its memory, in numbers that can be."""
        self.missed, self.evasions, self.had_agent = 0, 0, True

    def evade(self) -> None:
        """Note that its agent has answered, but without numbers that can be: now and then it may."""
        self.had_agent = True
        self.evasions += 1
        if self.evasions > _EVASIONS:
            self.missed += 1

    def take_step(self, text: str, now_s: float) -> None:
        """Note what its agent does now."""
        self.step, self.step_at_s = text, now_s

    def take_line(self, line: bytes, now_s: float) -> None:
        """Keep a report as its agent sent it."""
        self.line, self.line_at_s = line, now_s

    def take_report(self, report: GuestSnapshot, now_s: float) -> None:
        """Take a new report, from whichever source."""
        self.report, self.reported_at_s = report, now_s

    def connect(self) -> None:
        """Begin again with a new session: its agent is asked at once.

        What it missed before still counts: who hangs up and comes back has not answered.
        """
        self.due_s = 0.0

    def miss(self, now_s: float) -> None:
        """Note that an answer did not come in its time: the next question waits."""
        self.missed += 1
        self.due_s = now_s + schedule.silent_wait_s(self.missed)

    def ask_at(self, at_s: float) -> None:
        """Ask its agent at this time."""
        self.due_s = at_s

    def hurry(self, at_s: float) -> None:
        """Ask its agent at this time, unless it is to be asked sooner."""
        self.due_s = min(self.due_s, at_s)

    def aged(self, now_s: float) -> tuple[GuestSnapshot, float]:
        """Return the report with its age of now, and when it passes the next limit of age."""
        if self.reported_at_s is None:
            return self.report, math.inf
        age_s = (self.report.age_s or 0.0) + now_s - self.reported_at_s
        left_s = schedule.until_limit_s(age_s, (FRESH_S, STALE_S))
        return replace(self.report, age_s=age_s), now_s + left_s
