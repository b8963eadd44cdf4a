"""The channel to a guest's agent: what ends it, what opens it again, what its agent knows."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from giveback.guest import protocol
from giveback.guest.session import Ended, Session
from giveback.manager.decide import schedule
from giveback.manager.fleet.channel_state import ChannelState


class Listener:
    """Counts what a channel tells."""

    def __init__(self) -> None:
        self.events: list[protocol.Event] = []
        self.errors: list[str] = []
        self.changes = 0

    def agent_said(self, event: protocol.Event, now_s: float) -> None:
        del now_s
        self.events.append(event)

    def count_error(self, word: str) -> None:
        self.errors.append(word)

    def changed(self) -> None:
        self.changes += 1


class Open:
    """A session that takes what it is told, or does not."""

    connected_at_s = 0.0

    def __init__(self, *, takes: bool = True) -> None:
        self.takes = takes
        self.closed = 0

    def send_urgency(
        self, urgency: int, lease_s: float, goal: protocol.Goal | None = None, by: str = ""
    ) -> bool:
        del urgency, lease_s, goal, by
        return self.takes

    def close(self) -> None:
        self.closed += 1


def scene(*, takes: bool = True) -> tuple[ChannelState, Listener, Open]:
    listener, session = Listener(), Open(takes=takes)
    channel = ChannelState(listener, 0.0)
    channel.take(cast("Session", session))
    return channel, listener, session


def test_an_urgency_counts_as_sent_only_where_it_was_taken() -> None:
    channel, _, _ = scene()
    assert channel.send_urgency(2, 30.0, 1.0)
    assert (channel.sent_urgency, channel.sent_until_s) == (2, 31.0)
    full, _, _ = scene(takes=False)
    assert not full.send_urgency(2, 30.0, 1.0)
    assert full.sent_urgency is None
    full.close()
    assert not full.send_urgency(2, 30.0, 1.0)


def test_an_agent_that_starts_knows_nothing_and_its_steps_change_nothing() -> None:
    async def live() -> None:
        channel, listener, _ = scene()
        channel.wait_in_queue()
        channel.send_urgency(1, 120.0, 0.0)
        channel.heard(protocol.StepEvent("compacts"))
        assert (channel.sent_urgency, channel.held_by_another) == (1, True)
        channel.heard(protocol.Hello("0"))
        assert (channel.sent_urgency, channel.held_by_another) == (None, False)
        assert len(listener.events) == 2

    asyncio.run(live())


def test_who_waits_for_the_port_gets_it_for_a_while() -> None:
    channel, listener, session = scene()
    channel.send_urgency(1, 120.0, 0.0)
    channel.leave_to_another(7.0)
    assert (channel.session, channel.sent_urgency, session.closed) == (None, None, 1)
    assert channel.connect_at_s == 7.0 + schedule.PORT_LEFT_S
    assert listener.errors == ["channel lent to another"]
    channel.wait_for_another(9.0)
    assert channel.connect_at_s == 9.0 + schedule.PORT_LEFT_S
    assert channel.held_by_another


@given(st.lists(st.sampled_from(Ended), max_size=12))
def test_no_end_opens_a_channel_at_once(ends: list[Ended]) -> None:
    async def live() -> None:
        channel, listener, _ = scene()
        for why in ends:
            now_s = asyncio.get_running_loop().time()
            channel.ended(why)
            least_s = schedule.HOSTILE_S[0] if why.is_hostile else schedule.RECONNECT_S[0]
            assert channel.connect_at_s >= now_s + least_s / 2
            assert channel.session is None
            assert channel.why_closed == str(why)
        assert listener.errors == [str(why) for why in ends]
        assert (channel.hostile_at_s is not None) == any(why.is_hostile for why in ends)

    asyncio.run(live())


def test_a_guest_that_behaves_is_forgiven_and_waits_less_the_next_time() -> None:
    async def live() -> None:
        channel, _, _ = scene()
        for _ in range(6):
            channel.ended(Ended.FLOOD)
        hostile_at_s = channel.hostile_at_s or 0.0
        seen = []
        for later_s in (schedule.FORGIVEN_S - 1, schedule.FORGIVEN_S + 1):
            channel.forgive(hostile_at_s + later_s)
            seen.append(channel.hostile_at_s)
        assert seen == [hostile_at_s, None]
        channel.ended(Ended.FLOOD)
        now_s = asyncio.get_running_loop().time()
        assert channel.hostile_until_s - now_s <= schedule.HOSTILE_S[0] * 1.5

    asyncio.run(live())
