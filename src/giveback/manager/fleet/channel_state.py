"""The connection to one guest's agent: its session, when it is opened again, what was sent last.

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
    """Where a channel's news goes."""

    def agent_said(self, event: protocol.Event, now_s: float) -> None:
        """Take an event that was expected; the channel has taken note of it."""
        ...

    def count_error(self, word: str) -> None:
        """Count one thing that went wrong, as one of few words."""
        ...

    def changed(self) -> None:
        """Make again what was made of this."""
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
        """The file of the port's socket, where others may wait."""
        self.connecting = False
        self.connect_at_s = now_s
        self.reconnect = Backoff(*schedule.RECONNECT_S)
        self.hostility = Backoff(*schedule.HOSTILE_S)
        self.hostile_until_s = 0.0
        self.hostile_at_s: float | None = None
        """When the guest was last cut off; None once it has behaved for long enough."""
        self.why_closed = ""
        """Why there is no session, in words."""
        self.held_by_another = False
        self.sent_urgency: int | None = None
        """What the agent knows of the host's need; None where it knows nothing."""
        self.sent_until_s = 0.0
        self.sent_by = ""
        """Who set the urgency that was sent last."""

    # session.Owner

    def heard(self, event: protocol.Event) -> None:
        """Take what the guest said, already understood and expected."""
        now_s = asyncio.get_running_loop().time()
        if not isinstance(event, protocol.StepEvent):
            self.held_by_another, self.why_closed = False, ""
            self.reconnect.reset()
            if isinstance(event, protocol.Hello):
                # An agent that has just started knows of no urgency.
                self.sent_urgency = None
        self._listener.agent_said(event, now_s)

    def wrong(self, word: str) -> None:
        """Count one thing that was not as it should be."""
        self._listener.count_error(word)

    def ended(self, why: Ended) -> None:
        """Note that the session is over: it is tried again later, after a hostile end much later."""
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

    # Opened and closed.

    def begin_connecting(self) -> None:
        """Note that a session is being opened."""
        self.connecting = True

    def place(self, file: FileId | None) -> None:
        """Note at which file the port's socket is."""
        self.file = file

    def end_connecting(self) -> None:
        """Note that none is being opened any more, whatever came of it."""
        self.connecting = False

    def take(self, session: Session) -> None:
        """Take a session that was opened."""
        self.session, self.sent_urgency = session, None
        self.why_closed, self.held_by_another = "", False
        self._listener.changed()

    def fail(self, why: str, now_s: float) -> None:
        """Note why no session could be opened; it is tried again later."""
        self.why_closed = why
        self.connect_at_s = now_s + self.reconnect.wait_s(_chance())
        self._listener.count_error("channel cannot be opened")
        self._listener.changed()

    def drop(self) -> None:
        """Close the session of a VM that is to be left alone."""
        self.close()
        self.sent_urgency = None
        self._listener.changed()

    def close(self) -> None:
        """Close the session, if there is one; the agent keeps what was sent."""
        if self.session is not None:
            self.session.close()
            self.session = None

    # The agent's port, which serves one client at a time.

    def wait_in_queue(self) -> None:
        """Note that another client is served; the session stays in the queue."""
        self.held_by_another = True
        self._listener.changed()

    def wait_for_another(self, now_s: float) -> None:
        """Wait until another client, which is served there, has gone."""
        self._leave_to_another("channel held by another", now_s)

    def leave_to_another(self, now_s: float) -> None:
        """Close the session for a moment: another client waits for the port."""
        self.close()
        self.sent_urgency = None
        self._leave_to_another("channel lent to another", now_s)

    def _leave_to_another(self, word: str, now_s: float) -> None:
        self.held_by_another = True
        self.connect_at_s = now_s + schedule.PORT_LEFT_S
        self._listener.count_error(word)
        self._listener.changed()

    # What it knows, and what is thought of it.

    def send_urgency(
        self,
        urgency: int,
        lease_s: float,
        now_s: float,
        goal_bytes: int | None = None,
        by: str = "",
    ) -> bool:
        """Send an urgency, how many bytes are wanted, and who wants them; False where it cannot be sent."""
        if self.session is None or not self.session.send_urgency(urgency, lease_s, goal_bytes, by):
            return False
        self.sent_urgency, self.sent_until_s, self.sent_by = urgency, now_s + lease_s, by
        return True

    def forget_sent(self) -> None:
        """Send the urgency again the next time, whether it is another or not."""
        self.sent_urgency = None

    def forgive(self, now_s: float) -> None:
        """Call a guest hostile no more that has behaved for long enough."""
        if self.hostile_at_s is not None and schedule.is_forgiven(self.hostile_at_s, now_s):
            self.hostile_at_s = None
            self.hostility.reset()


def _chance() -> float:
    return os.urandom(1)[0] / 256
