"""How far a claim is believed: as far as its VM has proven it, then by the record of all VMs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lying_guests import HONEST, Claims, Lie, losing_host
from manager_hosts import AMOUNTS, MIB, guest_of

from giveback.manager.decide.allocation import plan, sane, still_expected
from giveback.manager.decide.delivery import (
    GRACE_S,
    Asked,
    Belief,
    Deliveries,
    belief,
    closed,
    is_late,
)
from giveback.manager.model import GuestView

URGENCIES = st.integers(1, 3)
OPEN = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.builds(Asked, st.floats(0, 50), URGENCIES, AMOUNTS, AMOUNTS),
)


def missed(urgency: int, goal_mib: int, came_mib: int = 0) -> Deliveries:
    """Return the deliveries after one ask whose grace is over."""
    guest = guest_of("a", cold=20_000)
    ask = Asked(0.0, urgency, goal_mib * MIB, guest.resident_bytes + came_mib * MIB)
    return closed(Deliveries(open_asks={"a": ask}), {"a": ask}, {"a": guest}, GRACE_S[urgency])


@given(OPEN, st.dictionaries(st.sampled_from(["a", "b"]), AMOUNTS), URGENCIES, st.floats(0, 200))
def test_a_belief_is_a_part_and_no_ask_is_counted_twice(
    asks: Mapping[str, Asked], resident: Mapping[str, int], urgency: int, now_s: float
) -> None:
    guests = {key: replace(guest_of(key), resident_bytes=held) for key, held in resident.items()}
    once = closed(Deliveries(open_asks=asks), asks, guests, now_s)
    for deliveries in (Deliveries(open_asks=asks), once):
        believed = belief(deliveries, guests, urgency, now_s)
        assert 0 < believed.at_one <= 1
        assert 0 < believed.at_more <= 1
    assert closed(once, asks, guests, now_s) == once
    assert set(once.open_asks) <= set(guests)


@given(AMOUNTS, AMOUNTS, st.floats(0, 1), URGENCIES)
def test_a_vm_is_believed_for_what_it_has_proven_and_never_for_more_than_it_says(
    goal: int, proven: int, part: float, urgency: int
) -> None:
    guest = replace(guest_of("a"), proven_bytes=proven)
    believed = Belief(part, part).bytes_of(guest, goal, urgency)
    assert min(goal, proven) <= believed <= goal
    assert Belief().bytes_of(guest, goal, urgency) == goal


def test_a_miss_of_one_lowers_what_all_others_are_believed() -> None:
    before, after = Deliveries(), missed(1, 4096)
    assert belief(before, {}, 1, 0.0) == Belief()
    believed = belief(after, {}, 1, 20.0)
    assert believed.at_one < 0.1
    # What a busy guest does not return at urgency 1 says nothing of the others at 3.
    assert believed.at_more == 1
    assert belief(missed(3, 4096), {}, 1, 20.0).at_more < 0.1
    assert belief(missed(1, 4096, came_mib=4096), {}, 1, 20.0) == Belief()


def test_a_guest_that_has_gone_has_returned_nothing_whatever_its_next_name() -> None:
    ask = Asked(0.0, 1, 4096 * MIB, 8192 * MIB)
    gone = closed(Deliveries(open_asks={"a": ask}), {}, {"b": guest_of("b")}, 1.0)
    assert belief(gone, {}, 1, 1.0).at_one < 0.1


def test_what_is_late_counts_before_its_time_is_over() -> None:
    guest = guest_of("a", cold=4096)
    deliveries = Deliveries(open_asks={"a": Asked(0.0, 1, 4096 * MIB, guest.resident_bytes)})
    ask = deliveries.open_asks["a"]
    for urgency in (1, 2, 3):
        half_s = GRACE_S[urgency] / 2
        assert not is_late(ask, guest, urgency, half_s - 0.1)
        assert is_late(ask, guest, urgency, half_s)
        assert belief(deliveries, {"a": guest}, urgency, half_s).at_one < 0.1
        assert still_expected({"a": guest}, {"a": ask}, half_s, urgency) == 0
    quarter = replace(guest, resident_bytes=guest.resident_bytes - 1024 * MIB)
    assert not is_late(ask, quarter, 3, GRACE_S[3] / 2)


def test_after_a_miss_several_are_asked_at_once() -> None:
    guests = sane([guest_of(f"{number:03}", cold=400) for number in range(100)])
    asked: dict[str, Asked] = {}
    first = plan(400 * MIB, 1, guests, asked, 0.0)
    after = plan(400 * MIB, 1, guests, asked, 0.0, belief=Belief(1 / 8, 1.0))
    assert len(first) == 1
    assert len(after) == 8
    assert len(plan(100_000 * MIB, 1, guests, asked, 0.0)) == 8
    assert len(plan(100_000 * MIB, 1, guests, asked, 0.0, belief=Belief(1 / 8, 1.0))) == 64


def test_who_has_proven_its_word_is_asked_first_after_a_miss() -> None:
    proven = replace(guest_of("proven", cold=400), proven_bytes=400 * MIB)
    guests = sane([guest_of("large", cold=4000), guest_of("other", cold=900), proven])
    asks = plan(400 * MIB, 1, guests, {}, 0.0, belief=Belief(1 / 16, 1.0))
    assert [(ask.key, ask.goal_bytes) for ask in asks] == [("proven", 400 * MIB)]


def seconds(
    liars: int, lie: Lie = Lie.NOTHING, claims: Claims = "cold", claimed: int = 8192
) -> float:
    host = losing_host(liars, lie, claims=claims, claimed_mib=claimed)
    return host.seconds_to_oom(256 * MIB, 140.0)


@pytest.mark.parametrize("lie", list(Lie))
def test_no_lie_of_128_guests_brings_the_end_sooner(lie: Lie) -> None:
    assert seconds(0) == 128
    assert seconds(128, lie) >= 128


@settings(max_examples=10, deadline=None)
@given(
    liars=st.integers(1, 40),
    lie=st.sampled_from(Lie),
    claims=st.sampled_from(["trapped", "cold", "warm"]),
    claimed_mib=st.integers(16, 16384),
    real_mib=st.integers(0, 128),
    parts_mib=st.tuples(*[st.integers(0, 600)] * 3),
    left_s=st.integers(6, 20),
    lost_mib_per_s=st.sampled_from([64, 256, 1024]),
)
def test_the_end_comes_never_sooner_with_liars_than_without(
    liars: int,
    lie: Lie,
    claims: Claims,
    claimed_mib: int,
    real_mib: int,
    parts_mib: tuple[int, int, int],
    left_s: int,
    lost_mib_per_s: int,
) -> None:
    cold, trapped, warm = parts_mib
    # A lie is known after 2.5 s at the worst: a host that has less than that and 128 liars may end sooner.
    available_mib = left_s * lost_mib_per_s
    honest: GuestView = guest_of(HONEST.key, cold=cold, trapped=trapped, warm=warm)
    alone = losing_host(0, honest=honest, available_mib=available_mib)
    among = losing_host(
        liars,
        lie,
        claims=claims,
        claimed_mib=claimed_mib,
        real_mib=real_mib,
        honest=honest,
        available_mib=available_mib,
    )
    rate = lost_mib_per_s * MIB
    # Half a second: the simulated clock moves by 1/8 s, and the last guests may begin some steps later.
    assert among.seconds_to_oom(rate, 120.0) >= alone.seconds_to_oom(rate, 120.0) - 0.5
