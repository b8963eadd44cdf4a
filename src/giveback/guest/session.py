"""One lasting connection to a guest's agent, over whichever channel the VM has.

Every byte is the guest's: lines are bounded and rate-limited, a flood ends the session. Answers are
taken only to what was asked, once. Nothing waits: what the guest does not read is not sent.
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
"""What the agent gives itself for an answer."""
_UNREAD_LIMIT_BYTES = 16 << 10
_LINES_A_SECOND, _LINES_BURST = 20.0, 300.0
_BYTES_A_SECOND, _BYTES_BURST = 128 << 10, 1 << 20
_RUBBISH_A_SECOND, _RUBBISH_BURST = 1.0, 64.0

_REST_S = 1.0
"""How long nothing is read of a guest whose owner's guests together send more than they may."""


class Ended(StrEnum):
    """Why a session ended: a bounded set of words, counted per VM."""

    CLOSED = "channel closed"
    FLOOD = "flood"
    LONG_LINE = "line too long"
    RUBBISH = "rubbish"
    NO_LISTENER = "nobody listens in the guest"

    @property
    def is_hostile(self) -> bool:
        return self in (Ended.FLOOD, Ended.LONG_LINE, Ended.RUBBISH)


class Owner(Protocol):
    """Who is told what a session hears."""

    def heard(self, event: protocol.Event) -> None: ...

    def wrong(self, word: str) -> None:
        """One thing that was not as it should be, as one of few words."""
        ...

    def ended(self, why: Ended) -> None: ...


class Session(asyncio.BufferedProtocol):
    """A connection and what is outstanding on it: at most one question, one for pages, and one urgency.

    `buffer` may be shared by all sessions of a loop: it is emptied before anybody else may fill it.
    """

    __slots__ = (
        "_answer_id", "_asked_at_s", "_buffer", "_bytes", "_greeting", "_lines", "_owner", "_pace", "_pages",
        "_rubbish", "_splitter", "_told", "_transport", "answers", "connected_at_s", "heard_at_s",
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
        self._told: tuple[int, int, float] | None = None
        self._pages: PageAnswer | None = None

    @property
    def is_connected(self) -> bool:
        """Not closed; the VMM may still have to take the greeting."""
        return self._transport is not None

    @property
    def is_open(self) -> bool:
        """Connected, and the VMM has taken the greeting where it wants one."""
        return self._transport is not None and not self._greeting

    @property
    def waits_for_answer(self) -> bool:
        return self._answer_id is not None

    def overdue(self, now_s: float) -> bool:
        """Whether the question that is out has had its time; it is then no longer out.

        One for pages has more time, and is then no longer out either.
        """
        if self._pages is not None and now_s - self._pages.asked_at_s >= page_answer.TIMEOUT_S:
            self._end_pages("no answer in time")
        if self._answer_id is None or now_s - self._asked_at_s < ANSWER_TIMEOUT_S:
            return False
        self._answer_id = None
        return True

    def ask(self, now_s: float, by_cgroup: bool = False) -> bool:
        """Ask for the guest's memory, unless that is out already; False where it cannot be sent.

        Nor while its pages are: the agent makes one answer at a time.
        """
        if self._answer_id is not None or self._pages is not None or not self._has_room():
            return False
        self._answer_id = protocol.new_id()
        self._asked_at_s = now_s
        self._write(protocol.ask("memory", self._answer_id, by_cgroup))
        return True

    def ask_pages(self) -> PageAnswer | None:
        """Ask what each page is used for; None where a question is out already, or it cannot be sent."""
        if self._answer_id is not None or self._pages is not None or not self._has_room():
            return None
        self._pages = PageAnswer(protocol.new_id(), _now_s())
        self._write(protocol.ask("pages", self._pages.number, by_cgroup=True))
        return self._pages

    def tell(
        self, urgency: int, lease_s: float, goal_bytes: int | None = None, by: str = ""
    ) -> bool:
        """Say how badly the host needs memory, how much, and who says so; False where it cannot be sent."""
        if not self._has_room():
            return False
        number = protocol.new_id()
        self._told = (number, urgency, lease_s)
        self._write(protocol.urgency(urgency, lease_s, number, goal_bytes, by))
        return True

    def close(self) -> None:
        """Let go of the channel; the owner is not told."""
        self._end_pages("the connection to the agent was closed")
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self.connected_at_s = _now_s()
        if self._greeting:
            self._write(protocol.GREETING)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._transport is None:
            return
        now_s = _now_s()
        # What was asked for may be larger than what a guest may send unasked.
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
        """Read nothing for a moment: the guests of one owner send too much together."""
        if self._transport is not None:
            self._transport.pause_reading()
            asyncio.get_running_loop().call_later(_REST_S, self._go_on)

    def _go_on(self) -> None:
        if self._transport is not None:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
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
            self._owner.wrong("rubbish" if event is None else "answer to nothing asked")
            if not self._rubbish.take(1, now_s):
                self._end(Ended.RUBBISH)
            return
        self.heard_at_s = now_s
        if not isinstance(event, protocol.Pages):
            self._owner.heard(event)

    def _is_expected(self, event: protocol.Event) -> bool:
        """Whether it may be said unasked, or answers what is out: each number serves once."""
        if isinstance(event, protocol.Hello):
            self._answer_id = self._told = None
            self._end_pages("the agent was started again")
            return True
        if isinstance(event, protocol.StepEvent):
            return True
        if isinstance(event, protocol.Taken):
            told, self._told = self._told, None
            if told is not None and told[0] != event.id:
                self._told = told
            return told is not None and told[:2] == (event.id, event.urgency)
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

    def _has_room(self) -> bool:
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
    """Return an open session. Raises VmError that says why there is none.

    `pace` is shared by all sessions that belong to one owner.
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
