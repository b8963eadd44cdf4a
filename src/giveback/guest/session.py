"""A lasting connection to a guest's agent, over any kind of channel.

The guest controls every received byte: lines are bounded and rate-limited, and a flood ends the session.
An answer is accepted once, and only to an outstanding request. Sending never waits: if the guest does not
read, nothing more is sent.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, cast

from giveback.errors import VmError
from giveback.guest import page_answer, protocol
from giveback.guest.channel import open_socket, where
from giveback.guest.page_answer import PageAnswer
from giveback.guest.rate_limits import Bucket, Pace
from giveback.vmm.base import ChannelKind
from giveback.vmm.clients.sockets import reason

if TYPE_CHECKING:
    from giveback.vmm.base import Channel

ANSWER_TIMEOUT_S = 15.0
"""The agent's own time limit for an answer."""
_UNREAD_LIMIT_BYTES = 16 << 10
_LINES_A_SECOND, _LINES_BURST = 20.0, 300.0
_BYTES_A_SECOND, _BYTES_BURST = 128 << 10, 1 << 20
_RUBBISH_A_SECOND, _RUBBISH_BURST = 1.0, 64.0

_REST_S = 1.0
"""Pause of reading from a guest when all guests of its owner together exceed their rate."""


class Ended(StrEnum):
    """Reasons why a session ended: few and fixed, because they are counted per VM."""

    CLOSED = "channel closed"
    FLOOD = "flood"
    LONG_LINE = "line too long"
    RUBBISH = "rubbish"
    NO_LISTENER = "no program listens in the guest"

    @property
    def is_hostile(self) -> bool:
        """Whether the guest broke the protocol, rather than closed the channel."""
        return self in (Ended.FLOOD, Ended.LONG_LINE, Ended.RUBBISH)


class Owner(Protocol):
    """The receiver of a session's events."""

    def heard(self, event: protocol.Event) -> None:
        """Take an event of the guest."""
        ...

    def wrong(self, word: str) -> None:
        """Count a violation of the protocol; `word` is one of a few fixed texts."""
        ...

    def ended(self, why: Ended) -> None:
        """Take note that the session has ended by itself."""
        ...


class Session(asyncio.BufferedProtocol):
    """A connection and its outstanding requests: at most one for memory or pages, and one urgency.

    All sessions of an event loop may share one `buffer`: each session empties it before another fills it.
    """

    __slots__ = (
        "_answer_id", "_asked_at_s", "_buffer", "_bytes", "_greeting", "_lines", "_owner", "_pace", "_pages",
        "_rubbish", "_sent_urgency", "_splitter", "_transport", "answers", "connected_at_s", "heard_at_s",
    )  # fmt: skip

    def __init__(
        self, owner: Owner, buffer: memoryview, *, greets: bool, pace: Pace | None = None
    ) -> None:
        self.connected_at_s = 0.0
        self.heard_at_s: float | None = None
        self.answers = 0
        self._owner = owner
        self._buffer = buffer
        self._pace = pace
        self._greeting = greets
        self._transport: asyncio.Transport | None = None
        self._splitter = protocol.LineSplitter()
        self._lines = Bucket(_LINES_A_SECOND, _LINES_BURST)
        self._bytes = Bucket(_BYTES_A_SECOND, _BYTES_BURST)
        self._rubbish = Bucket(_RUBBISH_A_SECOND, _RUBBISH_BURST)
        self._answer_id: int | None = None
        self._asked_at_s = 0.0
        self._sent_urgency: tuple[int, int, float] | None = None
        self._pages: PageAnswer | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the connection is not closed; the VMM may not have answered the greeting yet."""
        return self._transport is not None

    @property
    def is_open(self) -> bool:
        """Whether it is connected, and the VMM has accepted the greeting if it needs one."""
        return self._transport is not None and not self._greeting

    @property
    def waits_for_answer(self) -> bool:
        """Whether a request for memory is outstanding."""
        return self._answer_id is not None

    def overdue(self, now_s: float) -> bool:
        """Tell whether the outstanding request for memory has timed out, and drop it if so.

        A request for pages has a longer timeout of its own, and is dropped likewise.
        """
        if self._pages is not None and now_s - self._pages.asked_at_s >= page_answer.TIMEOUT_S:
            self._end_pages("no answer in time")
        if self._answer_id is None or now_s - self._asked_at_s < ANSWER_TIMEOUT_S:
            return False
        self._answer_id = None
        return True

    def ask(self, now_s: float, by_cgroup: bool = False) -> bool:
        """Send a request for the guest's memory; return False if it was not sent.

        It is not sent while one for memory or pages is outstanding: the agent makes one answer at a time.
        """
        if self._answer_id is not None or self._pages is not None or not self._can_send():
            return False
        self._answer_id = protocol.new_id()
        self._asked_at_s = now_s
        self._write(protocol.ask("memory", self._answer_id, by_cgroup))
        return True

    def ask_pages(self) -> PageAnswer | None:
        """Send a request for the use of each page; None if one is outstanding, or it was not sent."""
        if self._answer_id is not None or self._pages is not None or not self._can_send():
            return None
        self._pages = PageAnswer(protocol.new_id(), _now_s())
        self._write(protocol.ask("pages", self._pages.number, by_cgroup=True))
        return self._pages

    def send_urgency(
        self, urgency: int, lease_s: float, goal: protocol.Goal | None = None, by: str = ""
    ) -> bool:
        """Send the urgency (0 to 3) with its lease, goal and origin; return False if it was not sent."""
        if not self._can_send():
            return False
        number = protocol.new_id()
        self._sent_urgency = (number, urgency, lease_s)
        self._write(protocol.urgency(urgency, lease_s, number, goal, by))
        return True

    def close(self) -> None:
        """Close the channel; the owner is not notified."""
        self._end_pages("the connection to the agent was closed")
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement asyncio.BufferedProtocol."""
        self._transport = cast("asyncio.Transport", transport)
        self.connected_at_s = _now_s()
        if self._greeting:
            self._write(protocol.GREETING)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Implement asyncio.BufferedProtocol."""
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Implement asyncio.BufferedProtocol: take `nbytes` received bytes."""
        if self._transport is None:
            return
        now_s = _now_s()
        # An answer that was requested may be larger than a guest may send unasked.
        is_of_pages = self._pages is not None and self._pages.allows_bytes(nbytes)
        if not is_of_pages and not self._bytes.take(nbytes, now_s):
            self._end(Ended.FLOOD)
            return
        lines = self._splitter.feed(bytes(self._buffer[:nbytes]))
        if lines is None:
            self._end(Ended.LONG_LINE)
            return
        for line in lines:
            if not self.is_connected:
                return
            if line.strip():
                self._take(line, now_s)
        if self._pace is not None and not self._pace.take(len(lines), nbytes, now_s):
            self._rest()

    def _rest(self) -> None:
        """Pause reading: the guests of one owner together send too much."""
        if self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_REST_S, self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Implement asyncio.BufferedProtocol: close the transport."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement asyncio.BufferedProtocol."""
        del exc
        if self._transport is not None:
            self._end(Ended.NO_LISTENER if self._greeting else Ended.CLOSED)

    def _take(self, line: bytes, now_s: float) -> None:
        is_of_pages = self._pages is not None and self._pages.allows_line()
        if not is_of_pages and not self._lines.take(1, now_s):
            self._end(Ended.FLOOD)
            return
        if self._greeting:
            self._greeting = False
            if not protocol.is_greeted(line):
                self._end(Ended.NO_LISTENER)
            return
        event = protocol.parse(line)
        if event is None or not self._is_expected(event):
            self._owner.wrong("rubbish" if event is None else "answer to no request")
            if not self._rubbish.take(1, now_s):
                self._end(Ended.RUBBISH)
            return
        self.heard_at_s = now_s
        if not isinstance(event, protocol.Pages):
            self._owner.heard(event)

    def _is_expected(self, event: protocol.Event) -> bool:
        """Tell whether the event may come unasked, or is the one answer to an outstanding request."""
        if isinstance(event, protocol.Hello):
            self._answer_id = self._sent_urgency = None
            self._end_pages("the agent has restarted")
            return True
        if isinstance(event, protocol.StepEvent):
            return True
        if isinstance(event, protocol.Taken):
            sent, self._sent_urgency = self._sent_urgency, None
            if sent is not None and sent[0] != event.id:
                self._sent_urgency = sent
            return sent is not None and sent[:2] == (event.id, event.urgency)
        if self._pages is not None and event.id == self._pages.number:
            is_next = self._pages.take(event)
            if self._pages.is_over:
                self._pages = None
            if not is_next:
                return False
        elif isinstance(event, protocol.Pages) or event.id != self._answer_id:
            return False
        else:
            self._answer_id = None
        self.answers += isinstance(event, protocol.MemoryReport)
        return True

    def _end_pages(self, why: str) -> None:
        pages, self._pages = self._pages, None
        if pages is not None:
            pages.fail(why)

    def _can_send(self) -> bool:
        if self._transport is None or self._greeting:
            return False
        if self._transport.get_write_buffer_size() > _UNREAD_LIMIT_BYTES:
            self._owner.wrong("the guest does not read")
            return False
        return True

    def _write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _end(self, why: Ended) -> None:
        self.close()
        self._owner.ended(why)


def _now_s() -> float:
    return asyncio.get_running_loop().time()


async def connect(
    channel: Channel, owner: Owner, buffer: memoryview, pace: Pace | None = None
) -> Session:
    """Return an open session. Raises VmError with the reason if the channel cannot be opened.

    `pace` is shared by all sessions of one owner.
    """
    opened = await open_socket(channel)
    greets = channel.kind is ChannelKind.HYBRID_VSOCK
    loop = asyncio.get_running_loop()
    try:
        _, session = await loop.create_connection(
            lambda: Session(owner, buffer, greets=greets, pace=pace), sock=opened
        )
    except OSError as error:
        opened.close()
        raise VmError(f"{where(channel)}: {reason(error)}") from error
    return session
