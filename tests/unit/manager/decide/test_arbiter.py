"""The arbiter: how badly the host needs memory, and which guests are asked for it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from manager_hosts import (
    AMOUNTS,
    GIB,
    MIB,
    SETTINGS,
    Remembered,
    SimulatedHost,
    arbiter_urgency,
    decide,
    guest_of,
    guest_views,
    host_of,
    unique,
)

from giveback.host.memory import HostView
from giveback.manager.decide.allocation import LEAST_GOAL_BYTES, plan, sane
from giveback.manager.decide.arbiter import ArbiterState, marks_of, urgency_for
from giveback.manager.decide.delivery import GRACE_S, Asked
from giveback.manager.decide.forecast import ForecastSample
from giveback.manager.decide.request import ReclaimRequest
from giveback.manager.model import Decision, GuestView
from giveback.manager.settings.values import MemoryMark

GUESTS = st.lists(guest_views(), max_size=8).map(unique)
HOSTS = st.builds(
    HostView,
    at_s=st.floats(0, 100),
    total_bytes=st.just(16 * GIB),
    available_bytes=st.integers(0, 16 * GIB),
    psi_memory_some_avg10=st.none() | st.floats(0, 100),
    psi_memory_full_avg10=st.none() | st.floats(0, 100),
    swap_in_bytes=st.integers(0, 64 * GIB),
)
ASKED = st.builds(Asked, st.floats(0, 100), st.integers(1, 3), AMOUNTS, AMOUNTS)
ARBITER_STATES = st.builds(
    ArbiterState,
    urgency=st.integers(0, 3),
    samples=st.lists(st.integers(0, 16 * GIB), max_size=6).map(
        lambda amounts: tuple(ForecastSample(-10.0 + n, a) for n, a in enumerate(amounts))
    ),
    swap_in=st.none() | st.tuples(st.floats(-10, 0), st.integers(0, GIB)),
    lower_since_s=st.none() | st.floats(-50, 0),
    lower_most=st.just(0),
)
REQUESTS = st.dictionaries(st.sampled_from([f"vm{n}" for n in range(12)]), ASKED, max_size=6)
STATES = st.builds(Remembered, ARBITER_STATES, REQUESTS)


def look(
    available: int, guests: list[GuestView], state: Remembered | None = None, at_s: float = 0.0
) -> tuple[Decision, Remembered]:
    return decide(host_of(available, at_s), guests, state or Remembered(), SETTINGS)


def goals(decision: Decision) -> dict[str, tuple[int, int]]:
    return {ask.key: (ask.urgency, ask.goal_bytes // MIB) for ask in decision.asks}


# --- properties


@settings(deadline=None)
@given(HOSTS, GUESTS, STATES)
def test_goals_stay_within_the_deficit_and_within_what_each_may_give(
    host: HostView, guests: list[GuestView], state: Remembered
) -> None:
    decision, _ = decide(host, guests, state, SETTINGS)
    assert sum(ask.goal_bytes for ask in decision.asks) <= decision.deficit_bytes
    views = {guest.key: guest for guest in guests}
    for ask in decision.asks:
        guest = views[ask.key]
        gives = guest.trapped_bytes + guest.cold_bytes
        gives += guest.warm_bytes if decision.urgency == 3 else 0
        assert 0 < ask.goal_bytes <= gives
        assert ask.goal_bytes <= guest.resident_bytes - guest.floor_bytes
        assert guest.fresh
        assert not guest.pressed
        assert 1 <= ask.urgency <= max(1, decision.urgency)


@settings(deadline=None)
@given(HOSTS, GUESTS, STATES)
def test_warm_cache_is_only_asked_for_at_the_worst_and_where_nothing_cheaper_does(
    host: HostView, guests: list[GuestView], state: Remembered
) -> None:
    decision, after = decide(host, guests, state, SETTINGS)
    late = set(state.asked)
    warm = [ask for ask in decision.asks if ask.urgency > 1 and ask.key not in late]
    if warm:
        assert decision.urgency == 3
        views = sane(guests)
        asked = {ask.key for ask in decision.asks} | set(state.asked)
        cheap = sum(
            min(
                int(g.trapped_bytes * g.reliability) + int(g.cold_bytes * g.reliability),
                max(0, g.resident_bytes - g.floor_bytes),
            )
            for g in views.values()
            if g.fresh
            and not g.pressed
            and g.key not in asked
            and g.asked_at_s is None
            and min(g.trapped_bytes + g.cold_bytes, g.resident_bytes - g.floor_bytes)
            >= LEAST_GOAL_BYTES
        )
        assert cheap == 0, "a guest with cheap memory was left out while warm cache is taken"
    assert set(after.asked) <= {guest.key for guest in guests}


@settings(deadline=None)
@given(GUESTS, st.integers(6 * GIB, 16 * GIB))
def test_a_calm_host_asks_nothing(guests: list[GuestView], available: int) -> None:
    decision, state = look(available, guests)
    assert (decision.urgency, decision.deficit_bytes, decision.asks) == (0, 0, ())
    assert all(arbiter_urgency(decision, guest, state) == 0 for guest in guests)
    assert 0.5 <= decision.look_again_s <= 10


@settings(deadline=None)
@given(HOSTS, GUESTS, STATES, st.integers(0, 16 * GIB))
def test_less_memory_never_means_less_urgency(
    host: HostView, guests: list[GuestView], state: Remembered, less: int
) -> None:
    more, _ = decide(host, guests, state, SETTINGS)
    lower = replace(host, available_bytes=min(less, host.available_bytes))
    decision, _ = decide(lower, guests, state, SETTINGS)
    assert decision.urgency >= more.urgency
    assert decision.deficit_bytes >= more.deficit_bytes


@settings(deadline=None)
@given(HOSTS, GUESTS, STATES, st.randoms(use_true_random=False))
def test_the_order_of_the_guests_does_not_matter(
    host: HostView, guests: list[GuestView], state: Remembered, random: object
) -> None:
    shuffled = list(guests)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert decide(host, guests, state, SETTINGS) == decide(host, shuffled, state, SETTINGS)


WILD = st.integers() | st.sampled_from([0, -1, 1 << 64, 1 << 2000, -(1 << 2000)])
WILD_FLOATS = st.floats() | st.sampled_from([0.0, -1.0, math.nan, math.inf, -math.inf])


@settings(deadline=None)
@given(
    st.builds(
        HostView,
        at_s=WILD_FLOATS,
        total_bytes=WILD,
        available_bytes=WILD,
        psi_memory_some_avg10=WILD_FLOATS,
        psi_memory_full_avg10=WILD_FLOATS,
        swap_in_bytes=WILD,
        swap_free_bytes=WILD,
    ),
    st.lists(
        st.builds(
            GuestView,
            key=st.text(max_size=3),
            resident_bytes=WILD,
            trapped_bytes=WILD,
            cold_bytes=WILD,
            warm_bytes=WILD,
            floor_bytes=WILD,
            weight=WILD_FLOATS,
            reliability=WILD_FLOATS,
            asked_at_s=st.none() | WILD_FLOATS,
        ),
        max_size=5,
    ),
    STATES,
)
def test_nonsense_crashes_nothing(
    host: HostView, guests: list[GuestView], state: Remembered
) -> None:
    for _ in range(2):
        decision, state = decide(host, guests, state, SETTINGS)
        assert 0 <= decision.urgency <= 3
        assert decision.deficit_bytes >= sum(ask.goal_bytes for ask in decision.asks) >= 0
        assert 0.25 <= decision.look_again_s <= 10


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(["short", "calm", "critical"]),
    st.lists(st.integers(-96 * MIB, 96 * MIB), min_size=200, max_size=200),
)
def test_noise_around_a_mark_does_not_flap(which: str, noise: list[int]) -> None:
    marks = marks_of(16 * GIB, SETTINGS)
    around = getattr(marks, f"{which}_bytes")
    state, urgencies = Remembered(), []
    for number, by in enumerate(noise):
        decision, state = look(around + by, [], state, at_s=float(number))
        urgencies.append(decision.urgency)
    lowered = sum(b < a for a, b in pairwise(urgencies))
    assert lowered <= 1 + len(noise) // SETTINGS.calm_for_s // 2
    assert urgencies[-50:].count(urgencies[-1]) >= 30


# --- what calls for which urgency


@pytest.mark.parametrize(
    ("available_percent", "urgency"), [(60, 0), (16, 0), (12, 0), (9, 2), (6, 2), (4, 3), (0, 3)]
)
def test_the_marks(available_percent: int, urgency: int) -> None:
    decision, _ = look(16 * GIB * available_percent // 100, [])
    assert decision.urgency == urgency


@pytest.mark.parametrize(
    ("some", "full", "available_percent", "urgency"),
    [
        (50.0, 30.0, 60, 0),
        (50.0, 0.0, 20, 2),
        (5.0, 1.0, 12, 0),
        (0.0, 6.0, 12, 2),
        (40.0, 25.0, 12, 3),
        (math.nan, -5.0, 12, 0),
    ],
)
def test_stalls_count_where_memory_is_scarce_enough_to_be_their_cause(
    some: float, full: float, available_percent: int, urgency: int
) -> None:
    host = replace(
        host_of(16 * GIB * available_percent // 100),
        psi_memory_some_avg10=some,
        psi_memory_full_avg10=full,
    )
    decision, _ = decide(host, [], Remembered(), SETTINGS)
    assert decision.urgency == urgency
    assert (decision.deficit_bytes > 0) == (urgency > 0)


@pytest.mark.parametrize(("full", "urgency"), [(0.0, 0), (6.0, 2), (60.0, 3)])
def test_stalls_decide_if_the_hosts_numbers_are_impossible(full: float, urgency: int) -> None:
    # oracle/oracle-linux#218: MemAvailable of 39.8 GB on a host of 32.5 GB.
    wild = replace(host_of(39 * GIB), total_bytes=31 * GIB, psi_memory_full_avg10=full)
    estimated = replace(
        host_of(14 * GIB),
        total_bytes=31 * GIB,
        psi_memory_full_avg10=full,
        remarks=("MemAvailable of 39800000 kB cannot be: 14 GiB assumed",),
    )
    for host in (wild, estimated):
        decision, _ = decide(host, [], Remembered(), SETTINGS)
        assert decision.urgency == urgency
        assert (decision.deficit_bytes > 0) == (urgency > 0)
        assert "cannot be" in decision.reason


@pytest.mark.parametrize(("mib_per_s", "urgency"), [(0, 0), (4, 2), (64, 3)])
def test_swapping_in_counts_as_a_rate(mib_per_s: int, urgency: int) -> None:
    state = Remembered()
    for second in range(2):
        host = replace(
            host_of(2 * GIB, float(second)), swap_in_bytes=5 * GIB + second * mib_per_s * MIB
        )
        decision, state = decide(host, [], state, SETTINGS)
    assert decision.urgency == urgency


@pytest.mark.parametrize(("fall", "urgency"), [(0, 0), (150 * MIB, 1), (300 * MIB, 2), (GIB, 3)])
def test_what_will_run_out_is_trouble_before_it_has(fall: int, urgency: int) -> None:
    state = Remembered()
    for second in range(5):
        available = 5 * GIB + (4 - second) * fall
        decision, state = look(available, [], state, at_s=float(second))
    assert decision.urgency == urgency
    assert (decision.trouble_in_s is not None) == (fall > 0)
    assert (decision.deficit_bytes > 0) == (urgency > 0)


def test_urgency_rises_at_once_and_falls_after_calm_has_lasted() -> None:
    _, state = look(GIB // 2, [])
    assert state.urgency == 3
    by_time = {}
    for second in range(1, 80):
        decision, state = look(12 * GIB, [], state, at_s=float(second))
        by_time[second] = decision.urgency
    assert by_time[int(SETTINGS.calm_for_s)] == 3
    assert "urgency 3 until" in look(12 * GIB, [], look(GIB // 2, [])[1], at_s=1.0)[0].reason
    assert by_time[79] == 0


def test_between_the_marks_a_host_that_was_short_is_still_refilled() -> None:
    _, state = look(GIB, [])
    decision, state = look(2 * GIB, [guest_of("a", cold=900)], state, at_s=60.0)
    assert decision.urgency >= 1
    assert (
        sum(a.goal_bytes for a in decision.asks)
        == marks_of(16 * GIB, SETTINGS).calm_bytes - 2 * GIB
    )


def test_a_clock_that_went_back_starts_the_forecast_again() -> None:
    guests = [guest_of("a", cold=900)]
    _, state = look(GIB, guests, at_s=1e6)
    decision, state = look(GIB, guests, state, at_s=5.0)
    assert goals(decision)["a"][0] == 1
    assert state.asked["a"].at_s == 5.0


def test_the_marks_are_bounded_and_calm_is_above_short() -> None:
    small, huge = marks_of(512 * MIB, SETTINGS), marks_of(4 << 40, SETTINGS)
    assert small.short_bytes == 128 * MIB
    assert (huge.short_bytes, huge.calm_bytes) == (16 * GIB, 24 * GIB)
    mixed = replace(SETTINGS, short=MemoryMark(least_bytes=4 * GIB), calm=MemoryMark(fraction=0.05))
    marks = marks_of(16 * GIB, mixed)
    assert marks.critical_bytes < marks.short_bytes < marks.calm_bytes


# --- who is asked


def ask_for(mib: int, urgency: int, *guests: GuestView) -> dict[str, tuple[int, int]]:
    asks = plan(mib * MIB, urgency, sane(guests), {}, 0.0)
    return {ask.key: (ask.urgency, ask.goal_bytes // MIB) for ask in asks}


def test_trapped_memory_goes_before_cold_cache_and_that_before_warm() -> None:
    guests = guest_of("a", cold=600), guest_of("b", trapped=500), guest_of("c", warm=900)
    assert ask_for(400, 3, *guests) == {"b": (1, 400)}
    assert ask_for(800, 3, *guests) == {"b": (1, 500), "a": (1, 300)}
    assert ask_for(1500, 3, *guests) == {"b": (1, 500), "a": (1, 600), "c": (2, 400)}
    assert ask_for(9999, 3, *guests) == {"b": (1, 500), "a": (1, 600), "c": (3, 900)}
    assert ask_for(9999, 2, *guests) == {"b": (1, 500), "a": (1, 600)}


def test_the_largest_amounts_come_first_so_that_few_are_asked() -> None:
    guests = [guest_of(f"{n:02}", cold=50 + n) for n in range(30)]
    assert set(ask_for(70, 1, *guests)) == {"29"}


def test_a_guest_of_more_weight_keeps_its_cache_longer() -> None:
    dear = replace(guest_of("dear", cold=500), weight=4.0)
    assert ask_for(300, 1, dear, guest_of("cheap", cold=400)) == {"cheap": (1, 300)}


def test_a_floor_is_kept() -> None:
    kept = replace(guest_of("a", cold=1000, warm=1000), floor_bytes=2412 * MIB)
    assert ask_for(5000, 3, kept) == {"a": (1, 100)}
    assert ask_for(5000, 3, replace(kept, floor_bytes=9999 * MIB)) == {}


@pytest.mark.parametrize("change", [{"pressed": True}, {"fresh": False}])
def test_a_guest_in_need_or_of_unknown_state_is_left_alone(change: dict[str, bool]) -> None:
    assert ask_for(100, 3, replace(guest_of("a", cold=500), **change)) == {}  # type: ignore[arg-type]


def test_a_little_is_not_worth_a_pass() -> None:
    assert ask_for(100, 1, guest_of("a", cold=10)) == {}
    assert set(ask_for(305, 1, guest_of("a", cold=300), guest_of("b", cold=200))) == {"a"}


def test_less_is_expected_of_a_guest_that_seldom_delivers() -> None:
    liar = replace(guest_of("liar", cold=1000), reliability=0.25)
    assert ask_for(800, 1, liar) == {"liar": (1, 250)}
    assert ask_for(800, 1, liar, guest_of("true", cold=600)) == {"true": (1, 600), "liar": (1, 200)}
    never = replace(liar, reliability=0.0)
    assert ask_for(800, 1, never) == {"liar": (1, 125)}


def test_never_all_at_once_unless_at_the_worst() -> None:
    guests = [guest_of(f"{n:04}", cold=100) for n in range(1000)]
    assert len(ask_for(10**6, 1, *guests)) == 8
    assert len(ask_for(10**6, 2, *guests)) == 32
    assert len(ask_for(10**6, 3, *guests)) == 128


def test_no_guest_is_asked_again_before_its_grace_is_over_and_expected_bytes_are_awaited() -> None:
    guests = [guest_of(f"{n}", cold=400) for n in range(9)]
    first, state = look(1500 * MIB, guests)
    assert goals(first)
    again, state = look(1500 * MIB, guests, state, at_s=1.0)
    assert not set(goals(first)) & set(goals(again))
    total = sum(ask.goal_bytes for ask in (*first.asks, *again.asks))
    assert total <= max(first.deficit_bytes, again.deficit_bytes)
    later, _ = look(1500 * MIB, guests, state, at_s=1.0 + max(GRACE_S.values()))
    assert set(goals(later)) & set(goals(first))


def test_a_short_host_repeats_more_urgently_what_a_busy_guest_did_not_hear() -> None:
    guest, state, heard = guest_of("a", cold=400), Remembered(), []
    for second in range(12):
        # Its agent waits for idleness at 1, and for a lighter load at 2: nothing comes.
        decision, state = look(1200 * MIB, [guest], state, at_s=float(second))
        heard.append(arbiter_urgency(decision, guest, state))
    late = int(GRACE_S[2])
    assert heard[: late + 1] == [1] * late + [2]
    decision, state = look(500 * MIB, [guest], state, at_s=late + GRACE_S[3])
    assert decision.urgency == 3
    assert arbiter_urgency(decision, guest, state) == 3
    # More urgently, and never for more.
    assert state.asked["a"].goal_bytes <= 400 * MIB


def test_what_comes_is_waited_for_in_peace() -> None:
    state, asked = Remembered(), []
    for second in range(18):
        guest = guest_of("a", cold=400 - 20 * second)
        guest = replace(guest, resident_bytes=2 * GIB - 20 * second * MIB)
        decision, state = look(1200 * MIB + 20 * second * MIB, [guest], state, at_s=float(second))
        asked += [ask.urgency for ask in decision.asks]
    assert asked[0] == 1
    assert max(asked) == 1


def test_a_guest_that_never_delivers_is_asked_less_often() -> None:
    guest = replace(guest_of("a", cold=900), reliability=0.2)
    state, asked_at = Remembered(), []
    for second in range(200):
        decision, state = look(1200 * MIB, [guest], state, at_s=float(second))
        asked_at += [second] if decision.asks else []
    waits = [b - a for a, b in pairwise(asked_at)]
    assert waits
    assert min(waits) >= GRACE_S[1] / 0.2


def test_a_guest_that_has_answered_may_be_asked_again_at_once() -> None:
    guest = guest_of("a", cold=900)
    _, state = look(1200 * MIB, [guest])
    answered = replace(guest_of("a", cold=700), resident_bytes=guest.resident_bytes - 900 * MIB)
    decision, _ = look(1200 * MIB, [answered], state, at_s=4.0)
    assert set(goals(decision)) == {"a"}


def test_at_the_worst_a_guest_is_asked_for_its_warm_cache_before_the_cold_has_come() -> None:
    guest = guest_of("a", cold=300, warm=4000)
    first, state = look(1200 * MIB, [guest])
    assert goals(first) == {"a": (1, 300)}
    worst, state = look(400 * MIB, [guest], state, at_s=1.0)
    assert goals(worst)["a"][0] >= 2
    assert sum(a.goal_bytes for a in worst.asks) <= worst.deficit_bytes - 300 * MIB
    assert state.asked["a"].goal_bytes == worst.asks[0].goal_bytes + 300 * MIB
    # Once asked for warm cache, it has its time.
    assert look(10 * MIB, [guest], state, at_s=2.0)[0].asks == ()
    grace_s = GRACE_S[state.asked["a"].urgency]
    assert look(10 * MIB, [guest], state, at_s=1.0 + grace_s)[0].asks


def test_a_guest_gets_its_asks_urgency_until_the_grace_is_over() -> None:
    guests = [guest_of("a", cold=4000), guest_of("b", cold=10)]
    decision, state = look(1200 * MIB, guests)
    assert [arbiter_urgency(decision, g, state) for g in guests] == [1, 0]
    worst, state = look(200 * MIB, guests, state, at_s=1.0)
    assert [arbiter_urgency(worst, g, state) for g in guests] == [1, 1]
    pressed = replace(guests[0], pressed=True)
    assert arbiter_urgency(decision, pressed, state) == 0
    calm, after = look(
        12 * GIB, guests, replace(state, arbiter=replace(state.arbiter, urgency=0)), at_s=2.0
    )
    assert arbiter_urgency(calm, guests[0], after) == 0


# --- a host, simulated


def simulated(*guests: GuestView, total: int = 16 * GIB, other: int = 2 * GIB) -> SimulatedHost:
    return SimulatedHost(total, {guest.key: guest for guest in guests}, other)


@pytest.mark.parametrize("count", [2, 8, 40])
@pytest.mark.parametrize("hog_mib_per_s", [20, 100, 400])
def test_a_hog_gets_its_memory_from_cold_cache_and_no_warm_is_taken(
    count: int, hog_mib_per_s: int
) -> None:
    each = 8192 // count
    guests = [guest_of(f"{n}", cold=each * 3 // 4, warm=each // 4) for n in range(count)]
    total, wants = 20 * GIB + count * 512 * MIB, 5 * GIB
    resident = sum(guest.resident_bytes for guest in guests)
    host = simulated(*guests, total=total, other=total - resident - total // 5)
    host.run(60, 0)
    assert not any(decision.asks for decision in host.decisions)
    host.run(wants / (hog_mib_per_s * MIB), hog_mib_per_s * MIB)
    host.run(60, 0)
    assert host.least_available_bytes > 0, "no shortage"
    assert host.warm_taken_bytes == 0
    assert max(decision.urgency for decision in host.decisions) >= 1


def test_warm_cache_is_taken_rather_than_the_host_run_out() -> None:
    host = simulated(*(guest_of(f"{n}", cold=100, warm=2000) for n in range(4)))
    host.other_bytes = host.available_bytes + host.other_bytes - 3 * GIB
    host.run(40, 150 * MIB)
    host.run(30, 0)
    assert host.least_available_bytes > 0
    assert host.warm_taken_bytes > GIB


def test_after_the_hog_has_gone_the_guests_keep_their_caches_again() -> None:
    host = simulated(*(guest_of(f"{n}", cold=1000, warm=1000) for n in range(4)))
    host.other_bytes = host.available_bytes + host.other_bytes - 2 * GIB
    host.run(10, 100 * MIB)
    assert host.decisions[-1].urgency >= 1
    host.other_bytes -= 5 * GIB
    host.run(2 * SETTINGS.calm_for_s + 20, 0)
    assert host.decisions[-1].urgency == 0
    assert {urgency for urgency, _ in host.told.values()} == {0}
    assert host.warm_taken_bytes == 0


@settings(max_examples=25, deadline=None)
@given(
    count=st.integers(2, 24),
    hog_mib_per_s=st.integers(10, 400),
    wants_percent=st.integers(5, 60),
    data=st.data(),
)
def test_any_hog_is_fed_from_cold_cache_where_there_is_enough(
    count: int, hog_mib_per_s: int, wants_percent: int, data: st.DataObject
) -> None:
    """Cold cache is 40 % of the host in uneven parts; the hog wants less than that plus free memory."""
    total = 32 * GIB
    parts = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    unit = total * 40 // 100 // MIB // sum(parts)
    guests = [guest_of(f"{n}", cold=unit * part, warm=50) for n, part in enumerate(parts)]
    resident = sum(guest.resident_bytes for guest in guests)
    free = total * 22 // 100
    host = simulated(*guests, total=total, other=total - resident - free)
    host.run(30, 0)
    # At the end 15 % are to be available again, by cold cache alone.
    wants = total * min(wants_percent, 40) // 100
    host.run(wants / (hog_mib_per_s * MIB), hog_mib_per_s * MIB)
    host.run(90, 0)
    assert host.least_available_bytes > 0
    assert host.warm_taken_bytes == 0
    assert host.available_bytes >= marks_of(total, SETTINGS).short_bytes


@given(HOSTS, guest_views(), STATES)
def test_a_calm_host_may_want_cold_cache_all_the_same(
    host: HostView, guest: GuestView, state: Remembered
) -> None:
    cold = replace(SETTINGS, on_calm="cold")
    keeps, kept = decide(host, [guest], state, SETTINGS)
    wants, wanted = decide(host, [guest], state, cold)
    assert replace(wants, calm_urgency=0) == keeps
    assert arbiter_urgency(wants, guest, wanted) == max(1, arbiter_urgency(keeps, guest, kept))


@settings(deadline=None)
@given(
    HOSTS,
    guest_views(),
    STATES,
    st.none() | st.tuples(st.integers(0, 3), st.floats(0, 200)),
    st.floats(0, 200),
    st.floats(0, 200),
)
def test_a_manual_urgency_is_obeyed_and_all_others_stop_at_the_floor(
    host: HostView,
    guest: GuestView,
    state: Remembered,
    override: tuple[int, float] | None,
    reclaim_until_s: float,
    now_s: float,
) -> None:
    decision, after = decide(host, [guest], state, SETTINGS)
    request = ReclaimRequest()
    request.ask_by_arbiter(after.asked.get(guest.key))
    request.ask_by_reclaim(Asked(0.0, 1, MIB, GIB), reclaim_until_s)
    if override is not None:
        request.set_manual(*override)
    urgency = urgency_for(decision, guest, request, after.arbiter, now_s)
    without = urgency_for(None, guest, request, after.arbiter, now_s)
    at_floor = guest.floor_bytes > 0 and 0 < guest.resident_bytes <= guest.floor_bytes
    if override is not None and now_s < override[1]:
        # Also at the floor, and while a reclaim runs.
        assert urgency == without == override[0]
    elif now_s < reclaim_until_s:
        assert urgency == without == (0 if at_floor else 1)
    else:
        assert urgency == (0 if at_floor else arbiter_urgency(decision, guest, after))
        assert without is None
