"""One guest's last memory report, and whether its agent answers.

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
"""The most messages in a row without usable numbers, such as a greeting or a refusal, that do not count as
missed answers."""


class GuestState:
    """A guest's last memory report, and the state of its agent."""

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
        """The agent's last report as received, for clients that ask through the daemon."""
        self.line_at_s = 0.0
        """The time of `line`; `report` may be newer, from another source."""
        self.due_s = 0.0
        self.had_agent = False
        self.missed = 0
        """Missed answers in a row."""
        self.evasions = 0
        """Messages without usable numbers since the last answer."""
        self.step = ""
        """The agent's current step, in its own text."""
        self.step_at_s: float | None = None

    @property
    def given_at_s(self) -> float | None:
        """The time of the report's numbers; balloon statistics may have been old when they came."""
        return (
            None if self.reported_at_s is None else self.reported_at_s - (self.report.age_s or 0.0)
        )

    def hear(self) -> None:
        """Record that an agent has sent an expected message."""
        self.had_agent = True

    def greet(self, now_s: float) -> None:
        """Record that the agent says that it has started: an earlier question to it is lost.

        It is asked again at once. Repeated greetings count as missed answers.
        """
        if not self.evasions:
            self.hurry(now_s)
        self.evade()

    def answer(self) -> None:
        """Record that the agent has sent its memory, in plausible numbers."""
        self.missed, self.evasions, self.had_agent = 0, 0, True

    def evade(self) -> None:
        """Record that the agent has answered without plausible numbers; twice in a row is accepted."""
        self.had_agent = True
        self.evasions += 1
        if self.evasions > _EVASIONS:
            self.missed += 1

    def take_step(self, text: str, now_s: float) -> None:
        """Store the agent's current step."""
        self.step, self.step_at_s = text, now_s

    def take_line(self, line: bytes, now_s: float) -> None:
        """Store a report as its agent sent it."""
        self.line, self.line_at_s = line, now_s

    def take_report(self, report: GuestSnapshot, now_s: float) -> None:
        """Store a new report, from any source."""
        self.report, self.reported_at_s = report, now_s

    def connect(self) -> None:
        """Make its agent be asked at once, after a new session was opened.

        Missed answers still count: an agent that reconnects has not answered.
        """
        self.due_s = 0.0

    def miss(self, now_s: float) -> None:
        """Record that an answer did not come in time, and delay the next question."""
        self.missed += 1
        self.due_s = now_s + schedule.silent_wait_s(self.missed)

    def ask_at(self, at_s: float) -> None:
        """Ask its agent at this time."""
        self.due_s = at_s

    def hurry(self, at_s: float) -> None:
        """Ask its agent at this time, unless it is due sooner."""
        self.due_s = min(self.due_s, at_s)

    def aged(self, now_s: float) -> tuple[GuestSnapshot, float]:
        """Return the report with its present age, and the time when it passes the next age limit."""
        if self.reported_at_s is None:
            return self.report, math.inf
        age_s = (self.report.age_s or 0.0) + now_s - self.reported_at_s
        left_s = schedule.until_limit_s(age_s, (FRESH_S, STALE_S))
        return replace(self.report, age_s=age_s), now_s + left_s
