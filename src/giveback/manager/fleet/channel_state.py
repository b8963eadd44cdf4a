"""The connection to one guest's agent: its session, the time of the next attempt, the last urgency sent.

Only the methods here assign the fields: tests/unit/manager/test_state_owners.py.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Protocol

from giveback.guest import protocol
from giveback.guest.rate_limits import Backoff
from giveback.manager.decide import schedule

if TYPE_CHECKING:
    from giveback.guest.session import Ended, Session
    from giveback.host.sockets.sock_diag import FileId


class Listener(Protocol):
    """The receiver of a channel's events."""

    def agent_said(self, event: protocol.Event, now_s: float) -> None:
        """Take an event that was expected; the channel has already processed it."""
        ...

    def count_error(self, kind: str) -> None:
        """Count one error of this kind; there are few kinds."""
        ...

    def changed(self) -> None:
        """Discard what was derived from the channel's state."""
        ...


class ChannelState:
    """One VM's channel to its agent. Implements `session.Owner`."""

    __slots__ = (
        "_listener",
        "connect_at_s",
        "connecting",
        "file",
        "held_by_another",
        "hostile_at_s",
        "hostile_until_s",
        "hostility",
        "reconnect",
        "sent_by",
        "sent_until_s",
        "sent_urgency",
        "session",
        "why_closed",
    )

    def __init__(self, listener: Listener, now_s: float) -> None:
        self._listener = listener
        self.session: Session | None = None
        self.file: FileId | None = None
        """The file of the port's socket, on which other clients may wait."""
        self.connecting = False
        self.connect_at_s = now_s
        self.reconnect = Backoff(*schedule.RECONNECT_S)
        self.hostility = Backoff(*schedule.HOSTILE_S)
        self.hostile_until_s = 0.0
        self.hostile_at_s: float | None = None
        """The time of the last disconnection for breaking the protocol; None once that is forgiven."""
        self.why_closed = ""
        """Why there is no session, in words."""
        self.held_by_another = False
        self.sent_urgency: int | None = None
        """The urgency that the agent has; None if it has none."""
        self.sent_until_s = 0.0
        self.sent_by = ""
        """The source of the urgency that was sent last."""

    # session.Owner

    def heard(self, event: protocol.Event) -> None:
        """Take a message of the guest that was parsed and expected."""
        now_s = asyncio.get_running_loop().time()
        if not isinstance(event, protocol.StepEvent):
            self.held_by_another, self.why_closed = False, ""
            self.reconnect.reset()
            if isinstance(event, protocol.Hello):
                # An agent that has just started has no urgency.
                self.sent_urgency = None
        self._listener.agent_said(event, now_s)

    def wrong(self, word: str) -> None:
        """Count one error, such as a message that was not expected."""
        self._listener.count_error(word)

    def ended(self, why: Ended) -> None:
        """Record that the session has ended, and plan the next: much later if the guest was hostile."""
        self.session = self.sent_urgency = None
        self.why_closed = str(why)
        now_s = asyncio.get_running_loop().time()
        if why.is_hostile:
            self.hostile_at_s = now_s
            self.hostile_until_s = now_s + self.hostility.wait_s(_chance())
            self.connect_at_s = self.hostile_until_s
        else:
            self.connect_at_s = now_s + self.reconnect.wait_s(_chance())
        self._listener.count_error(str(why))
        self._listener.changed()

    # Open and close.

    def begin_connecting(self) -> None:
        """Record that a session is being opened."""
        self.connecting = True

    def place(self, file: FileId | None) -> None:
        """Store the file of the port's socket."""
        self.file = file

    def end_connecting(self) -> None:
        """Record that no session is being opened any more, with or without success."""
        self.connecting = False

    def take(self, session: Session) -> None:
        """Store a session that was opened."""
        self.session, self.sent_urgency = session, None
        self.why_closed, self.held_by_another = "", False
        self._listener.changed()

    def fail(self, why: str, now_s: float) -> None:
        """Store why no session could be opened, and plan the next attempt."""
        self.why_closed = why
        self.connect_at_s = now_s + self.reconnect.wait_s(_chance())
        self._listener.count_error("channel cannot be opened")
        self._listener.changed()

    def drop(self) -> None:
        """Close the session of a VM that the settings ignore."""
        self.close()
        self.sent_urgency = None
        self._listener.changed()

    def close(self) -> None:
        """Close the session, if there is one; the agent keeps the urgency that was sent."""
        if self.session is not None:
            self.session.close()
            self.session = None

    # The agent's port, which serves one client at a time.

    def wait_in_queue(self) -> None:
        """Record that the port serves another client; the session stays in the port's queue."""
        self.held_by_another = True
        self._listener.changed()

    def wait_for_another(self, now_s: float) -> None:
        """Wait until the client that the port serves has gone."""
        self._leave_to_another("channel held by another", now_s)

    def leave_to_another(self, now_s: float) -> None:
        """Close the session for two seconds, because another client waits for the port."""
        self.close()
        self.sent_urgency = None
        self._leave_to_another("channel lent to another", now_s)

    def _leave_to_another(self, error: str, now_s: float) -> None:
        self.held_by_another = True
        self.connect_at_s = now_s + schedule.PORT_LEFT_S
        self._listener.count_error(error)
        self._listener.changed()

    # The urgency that was sent, and hostility.

    def send_urgency(
        self,
        urgency: int,
        lease_s: float,
        now_s: float,
        goal: protocol.Goal | None = None,
        by: str = "",
    ) -> bool:
        """Send an urgency, the bytes wanted and their source; return False if it cannot be sent."""
        if self.session is None or not self.session.send_urgency(urgency, lease_s, goal, by):
            return False
        self.sent_urgency, self.sent_until_s, self.sent_by = urgency, now_s + lease_s, by
        return True

    def forget_sent(self) -> None:
        """Make the next urgency be sent, even if it equals the last one."""
        self.sent_urgency = None

    def forgive(self, now_s: float) -> None:
        """Stop calling the guest hostile, if it has kept to the protocol for long enough."""
        if self.hostile_at_s is not None and schedule.is_forgiven(self.hostile_at_s, now_s):
            self.hostile_at_s = None
            self.hostility.reset()


def _chance() -> float:
    return os.urandom(1)[0] / 256
