"""Guests that together send too much are not read for a moment, and lose nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from scripted_guests import until

from giveback.guest import protocol, session
from giveback.guest.rate_limits import Pace
from giveback.guest.session import Ended, connect
from giveback.vmm.base import Channel, ChannelKind

if TYPE_CHECKING:
    import pytest

STEPS = 100


class Heard:
    """An implementation of `session.Owner`."""

    def __init__(self) -> None:
        self.events: list[protocol.Event] = []
        self.why: list[Ended] = []

    def heard(self, event: protocol.Event) -> None:
        self.events.append(event)

    def wrong(self, word: str) -> None:
        raise AssertionError(word)

    def ended(self, why: Ended) -> None:
        self.why.append(why)


def test_guests_that_together_send_too_much_are_paused_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_REST_S", 0.05)
    path = tmp_path / "port"
    line = json.dumps({"v": 1, "event": "step", "step": "idle", "text": "waits"}).encode() + b"\n"

    left = asyncio.Event()

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            for _n in range(STEPS):
                writer.write(line)
                await writer.drain()
                await asyncio.sleep(0)
            await reader.read()
        writer.close()
        left.set()

    async def scene() -> None:
        nonlocal left
        left = asyncio.Event()
        owner, pace = Heard(), Pace(1.0, 1e9, burst_s=1.0)
        rests = 0
        rest = session.Session._rest

        def counted(self: session.Session) -> None:
            nonlocal rests
            rests += 1
            rest(self)

        monkeypatch.setattr(session.Session, "_rest", counted)
        server = await asyncio.start_unix_server(speak, path)
        buffer = memoryview(bytearray(len(line) * 10))
        channel = Channel(ChannelKind.VIRTIO_SERIAL, str(path), pid=os.getpid())
        opened = await connect(channel, owner, buffer, pace)
        await until(lambda: len(owner.events) >= STEPS)
        assert rests >= STEPS // 10 - 1
        assert owner.why == []
        opened.close()
        await left.wait()
        server.close()

    asyncio.run(scene())
