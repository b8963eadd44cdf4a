"""How `reclaim` asks the guests."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from manager_hosts import AMOUNTS, MIB, guest_of, guest_views, unique

from giveback.manager.decide import reclaim_plan
from giveback.manager.decide.allocation import Asked, sane
from giveback.manager.decide.reclaim_plan import asks_of_reclaim
from giveback.manager.model import GuestView

GUESTS = st.lists(guest_views(), max_size=8).map(unique)
ASKED = st.builds(Asked, st.floats(0, 100), st.integers(1, 3), AMOUNTS, AMOUNTS)


@settings(deadline=None)
@given(
    AMOUNTS,
    st.sampled_from([2, 3]),
    GUESTS,
    st.dictionaries(st.sampled_from([f"vm{n}" for n in range(12)]), ASKED, max_size=6),
)
def test_no_more_is_asked_for_than_is_missing(
    missing_bytes: int, urgency: int, guests: list[GuestView], asked: dict[str, Asked]
) -> None:
    views = sane(guests)
    asks = asks_of_reclaim(missing_bytes, urgency, views, asked, 100.0)
    assert sum(ask.goal_bytes for ask in asks) <= missing_bytes
    assert {ask.key for ask in asks} <= set(views)
    assert all(not views[ask.key].pressed and views[ask.key].fresh for ask in asks)


def test_warm_cache_is_asked_for_at_once_where_cheap_memory_does_not_suffice() -> None:
    views = sane([guest_of("a", cold=100, warm=400)])
    (cheap,) = asks_of_reclaim(100 * MIB, 2, views, {}, 0.0)
    assert (cheap.urgency, cheap.goal_bytes) == (1, 100 * MIB)
    (all_of_it,) = asks_of_reclaim(500 * MIB, 2, views, {}, 0.0)
    assert (all_of_it.urgency, all_of_it.goal_bytes) == (3, 500 * MIB)


def test_what_is_on_its_way_is_not_asked_for_again() -> None:
    held = sane([guest_of("a", cold=200), guest_of("b", cold=200)])
    asked = {"a": Asked(0.0, 1, 200 * MIB, held["a"].resident_bytes)}
    assert asks_of_reclaim(200 * MIB, 3, held, asked, 1.0) == ()
    (other,) = asks_of_reclaim(300 * MIB, 3, held, asked, 1.0)
    assert (other.key, other.goal_bytes) == ("b", 100 * MIB)


@given(st.floats(0, 3600), st.floats(0, 3600))
def test_a_third_of_the_time_is_for_cheap_memory(within_s: float, waited_s: float) -> None:
    urgency = reclaim_plan.urgency_at(waited_s, 0.0, within_s)
    assert urgency == (3 if waited_s > within_s / 3 else 2) or abs(waited_s - within_s / 3) < 1e-6
    assert 0 <= reclaim_plan.answers_until_s(0.0, within_s) <= min(3.0, within_s / 5)
    assert reclaim_plan.urgency_until_s(within_s) > within_s


def test_a_report_of_five_seconds_is_not_old() -> None:
    assert reclaim_plan.is_report_old(None, 0.0)
    assert not reclaim_plan.is_report_old(10.0, 15.0)
    assert reclaim_plan.is_report_old(10.0, 15.1)
