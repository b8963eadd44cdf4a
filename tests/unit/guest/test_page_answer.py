"""An answer with pages over a lasting connection: complete, in order, bounded; the connection stays."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from session_ends import Owner, Wire

from giveback.guest import page_answer
from giveback.guest.page_answer import PAGES_LIMIT_CHARS
from giveback.guest.session import Ended, Session

if TYPE_CHECKING:
    from collections.abc import Callable


class Scene:
    """A session whose guest is this test."""

    def __init__(self) -> None:
        self.owner, self.wire = Owner(), Wire()
        self.buffer = memoryview(bytearray(64 << 10))
        self.session = Session(self.owner, self.buffer, greets=False)
        self.session.connection_made(self.wire)

    def asked(self) -> int:
        """The id of the last request."""
        return int(json.loads(self.wire.sent.splitlines()[-1])["id"])

    def says(self, **message: object) -> None:
        line = json.dumps({"v": 1, **message}).encode() + b"\n"
        for at in range(0, len(line), len(self.buffer)):
            part = line[at : at + len(self.buffer)]
            self.session.get_buffer(-1)
            self.buffer[: len(part)] = part
            self.session.buffer_updated(len(part))

    def says_pages(self, parts: list[str], number: int | None = None) -> None:
        number = self.asked() if number is None else number
        self.says(event="memory", id=number, meminfo="m")
        for at, text in enumerate(parts):
            self.says(event="pages", id=number, part=at, of=len(parts), data=text)


def run(scene: Callable[[Scene], object]) -> None:
    async def go() -> None:
        outcome = scene(Scene())
        if asyncio.iscoroutine(outcome):
            await outcome

    asyncio.run(go())


def test_a_requested_answer_may_exceed_the_rate_limits() -> None:
    async def scene(of: Scene) -> None:
        pages = of.session.ask_pages()
        assert pages is not None
        # One request at a time: the agent makes one answer at a time.
        assert of.session.ask_pages() is None
        assert not of.session.ask(0.0)
        parts = [f"{at:04}" * 500 for at in range(1500)]
        of.says_pages(parts)
        said = await pages.wait()
        assert said["pages"] == "".join(parts)
        assert said["meminfo"] == "m"
        # The daemon takes the report, too, but not the pages.
        assert len(of.owner.events) == 1
        assert of.owner.ends == of.owner.wrongs == []
        assert of.session.ask(0.0)

    run(scene)


def test_the_rest_of_a_cancelled_answer_is_ignored() -> None:
    async def scene(of: Scene) -> None:
        pages = of.session.ask_pages()
        assert pages is not None
        waiting = asyncio.create_task(pages.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert of.session.ask_pages() is None
        of.says_pages(["x" * 1000] * 400)
        assert of.owner.ends == of.owner.wrongs == []
        assert of.session.ask_pages() is not None

    run(scene)


@pytest.mark.parametrize(
    "order", [[1], [0, 0], [0, 2], [0, 1, 2, 2]], ids=["no first", "twice", "a gap", "one more"]
)
def test_parts_out_of_order_are_refused(order: list[int]) -> None:
    async def scene(of: Scene) -> None:
        pages = of.session.ask_pages()
        assert pages is not None
        number = of.asked()
        of.says(event="memory", id=number, meminfo="m")
        for part in order:
            of.says(event="pages", id=number, part=part, of=3, data="x")
        said = await pages.wait()
        assert ("error" in said) is (len(order) < 4)
        assert of.owner.wrongs == ["answer to no request"]

    run(scene)


def test_a_guest_that_sends_more_than_an_answer_is_disconnected() -> None:
    async def scene(of: Scene) -> None:
        pages = of.session.ask_pages()
        assert pages is not None
        of.says_pages(["x" * 30_000] * (PAGES_LIMIT_CHARS // 30_000 + 60))
        assert "incomplete or too long" in str((await pages.wait())["error"])
        for _ in range(60):
            of.says(event="step", text="x" * 30_000)
        assert of.owner.ends == [Ended.FLOOD]

    run(scene)


@pytest.mark.parametrize("end", ["closed", "hello", "refused", "late"])
def test_a_missing_answer_has_a_reason(end: str) -> None:
    async def scene(of: Scene) -> None:
        pages = of.session.ask_pages()
        assert pages is not None
        if end == "closed":
            of.session.connection_lost(None)
        elif end == "hello":
            of.says(event="hello", agent="x")
        elif end == "refused":
            of.says(event="error", id=of.asked(), text="asked too often", retry_s=4.0)
        else:
            assert not of.session.overdue(pages.asked_at_s + page_answer.TIMEOUT_S)
        said = await pages.wait()
        assert said["error"]
        assert said["again_s"] == (4.0 if end == "refused" else None)
        assert end == "closed" or of.session.ask_pages() is not None

    run(scene)
