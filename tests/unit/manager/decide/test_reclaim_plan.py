"""The plan by which `reclaim` asks the guests."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from manager_hosts import AMOUNTS, GIB, MIB, guest_of, guest_views, unique

from giveback.manager.decide import reclaim_plan
from giveback.manager.decide.allocation import sane
from giveback.manager.decide.delivery import Asked
from giveback.manager.decide.reclaim_plan import asks_of_reclaim, can_give_bytes, most_bytes
from giveback.manager.model import GuestView

GUESTS = st.lists(guest_views(), max_size=8).map(unique)
ASKED = st.builds(Asked, st.floats(0, 100), st.integers(1, 3), AMOUNTS, AMOUNTS)


@settings(deadline=None)
@given(
    AMOUNTS,
    st.sampled_from([1, 2, 3]),
    GUESTS,
    st.dictionaries(st.sampled_from([f"vm{n}" for n in range(12)]), ASKED, max_size=6),
)
def test_no_more_is_asked_for_than_is_missing(
    missing_bytes: int, stage: int, guests: list[GuestView], asked: dict[str, Asked]
) -> None:
    views = sane(guests)
    asks = asks_of_reclaim(missing_bytes, stage, views, asked, 100.0)
    assert sum(ask.goal_bytes for ask in asks) <= missing_bytes
    assert {ask.key for ask in asks} <= set(views)
    assert len({ask.key for ask in asks}) == len(asks)
    assert all(not views[ask.key].pressed and views[ask.key].fresh for ask in asks)
    assert all(0 < ask.goal_bytes <= can_give_bytes(views[ask.key]) for ask in asks)


@given(GUESTS)
def test_the_most_that_can_come_is_above_every_floor(guests: list[GuestView]) -> None:
    views = sane(guests)
    assert most_bytes(views) == sum(can_give_bytes(guest) for guest in views.values())
    for guest in views.values():
        gives = can_give_bytes(guest)
        assert 0 <= gives <= max(0, guest.resident_bytes - guest.floor_bytes)
        if guest.pressed or not guest.fresh:
            assert gives == 0
    # All of it is asked for where more is wanted: of guests that keep what they promise.
    reliable = sane([replace(guest, reliability=1.0, asked_at_s=None) for guest in guests])
    asks = asks_of_reclaim(1 << 50, 1, reliable, {}, 0.0)
    assert sum(ask.goal_bytes for ask in asks) == most_bytes(reliable)


def test_a_manual_urgency_of_0_protects_a_guest() -> None:
    guest = replace(guest_of("a", cold=400), may_press=False)
    assert can_give_bytes(guest) == 0
    assert asks_of_reclaim(100 * MIB, 3, sane([guest]), {}, 0.0) == ()


def test_warm_cache_is_asked_for_at_once_where_cheap_memory_does_not_suffice() -> None:
    views = sane([guest_of("a", cold=100, warm=400)])
    (cheap,) = asks_of_reclaim(100 * MIB, 1, views, {}, 0.0)
    assert (cheap.urgency, cheap.goal_bytes) == (1, 100 * MIB)
    (all_of_it,) = asks_of_reclaim(500 * MIB, 1, views, {}, 0.0)
    assert (all_of_it.urgency, all_of_it.goal_bytes) == (3, 500 * MIB)


def test_what_is_on_its_way_is_not_asked_for_again() -> None:
    held = sane([guest_of("a", cold=200), guest_of("b", cold=200)])
    asked = {"a": Asked(0.0, 1, 200 * MIB, held["a"].resident_bytes)}
    assert asks_of_reclaim(200 * MIB, 1, held, asked, 1.0) == ()
    (other,) = asks_of_reclaim(300 * MIB, 1, held, asked, 1.0)
    assert (other.key, other.goal_bytes) == ("b", 100 * MIB)


def test_a_guest_that_keeps_what_it_promised_is_asked_again_more_urgently() -> None:
    """Its agent keeps a learned floor that it does not tell: urgency 1 never brings it."""
    views = sane([guest_of("a", cold=577)])
    asked = {"a": Asked(0.0, 1, 97 * MIB, views["a"].resident_bytes)}
    for stage, at_s in ((2, 10.0), (3, 20.0)):
        (again,) = asks_of_reclaim(97 * MIB, stage, views, asked, at_s)
        assert (again.key, again.urgency, again.goal_bytes) == ("a", stage, 97 * MIB)
        assert "0 KiB of 97 MiB came" in again.reason
        asked["a"] = Asked(at_s, stage, 97 * MIB, views["a"].resident_bytes)
        assert asks_of_reclaim(97 * MIB, stage, views, asked, at_s + 0.5) == ()


def test_a_guest_that_returned_nothing_is_asked_again_only_for_what_no_other_has() -> None:
    views = sane([guest_of("liar", cold=4000), guest_of("true", cold=300)])
    (first,) = asks_of_reclaim(400 * MIB, 1, views, {}, 0.0)
    assert first.key == "liar"
    asked = {"liar": Asked(0.0, 1, 400 * MIB, views["liar"].resident_bytes)}
    asks = asks_of_reclaim(400 * MIB, 2, views, asked, 10.0)
    assert [(ask.key, ask.goal_bytes // MIB) for ask in asks] == [("true", 300), ("liar", 100)]
    # A guest that has returned a part of it probably has the rest too.
    half = replace(views["liar"], resident_bytes=views["liar"].resident_bytes - 200 * MIB)
    asks = asks_of_reclaim(200 * MIB, 2, views | {"liar": half}, asked, 10.0)
    assert [(ask.key, ask.urgency, ask.goal_bytes // MIB) for ask in asks] == [("liar", 2, 200)]


@dataclass
class Sleeper:
    """An idle guest whose agent keeps its learned floor at urgency 1, and needs `delay_s` for a pass."""

    cache_bytes: int
    floor_bytes: int
    delay_s: float = 3.0
    urgency: int = 0
    goal_bytes: int = 0
    since_s: float = 0.0

    def hear(self, urgency: int, goal_bytes: int, now_s: float) -> None:
        self.urgency, self.goal_bytes, self.since_s = urgency, goal_bytes, now_s

    def live(self, now_s: float) -> None:
        if self.urgency and now_s - self.since_s >= self.delay_s:
            kept = self.floor_bytes if self.urgency == 1 else 64 * MIB
            gives = max(0, min(self.goal_bytes, self.cache_bytes - kept))
            self.cache_bytes -= gives
            self.goal_bytes -= gives


@settings(deadline=None, max_examples=60)
@given(
    st.integers(100, 2000).map(lambda mib: mib * MIB),
    st.floats(0, 1),
    st.booleans(),
    st.sampled_from([10.0, 30.0, 120.0]),
)
def test_an_idle_guest_gives_what_it_can_in_time_whatever_it_has_learned(
    cache_bytes: int, part: float, tells_floor: bool, within_s: float
) -> None:
    sleeper = Sleeper(cache_bytes, int(cache_bytes * part))
    other_bytes = 1 * GIB
    goal_bytes = (cache_bytes - 64 * MIB) * 3 // 4
    asked: dict[str, Asked] = {}
    for tick in range(int(within_s * 2)):
        now_s = tick * 0.5
        sleeper.live(now_s)
        above = max(0, sleeper.cache_bytes - 64 * MIB)
        cold = max(0, sleeper.cache_bytes - max(64 * MIB, sleeper.floor_bytes))
        cold = cold if tells_floor else above
        view = GuestView(
            "a", other_bytes + sleeper.cache_bytes, 0, cold, max(0, above - cold), fresh=True
        )
        missing = goal_bytes - (cache_bytes - sleeper.cache_bytes)
        if missing < 16 * MIB:
            break
        stage = reclaim_plan.stage_at(now_s, 0.0, within_s)
        for ask in asks_of_reclaim(missing, stage, sane([view]), asked, now_s):
            asked["a"] = Asked(now_s, ask.urgency, ask.goal_bytes, view.resident_bytes)
            sleeper.hear(ask.urgency, ask.goal_bytes, now_s)
    came = cache_bytes - sleeper.cache_bytes
    # The last few MiB are not worth another pass.
    assert goal_bytes - 16 * MIB <= came <= goal_bytes


@given(st.floats(0.01, 3600), st.floats(0, 3600))
def test_urgency_rises_with_each_third_of_the_time(within_s: float, waited_s: float) -> None:
    stage = reclaim_plan.stage_at(waited_s, 0.0, within_s)
    part = waited_s / within_s
    assert stage in (1, 2, 3)
    assert abs(part * 3 - round(part * 3)) < 1e-6 or stage == min(3, 1 + int(part * 3))
    assert reclaim_plan.stage_at(waited_s + 1, 0.0, within_s) >= stage
    assert 0 <= reclaim_plan.answers_until_s(0.0, within_s) <= min(3.0, within_s / 5)
    assert reclaim_plan.urgency_until_s(within_s) > within_s


def test_a_report_of_five_seconds_is_not_old() -> None:
    assert reclaim_plan.is_report_old(None, 0.0)
    assert not reclaim_plan.is_report_old(10.0, 15.0)
    assert reclaim_plan.is_report_old(10.0, 15.1)
