"""When VMs are sampled, asked, inspected, connected to and notified: bounds on every wait."""

from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from manager_hosts import GIB, host_of

from giveback.accounting.usage import STALE_S
from giveback.manager.decide import schedule
from giveback.manager.decide.guest_view import FRESH_S
from giveback.manager.model import Decision

CHANCES = st.floats(0, 1, exclude_max=True)
CALM = Decision(0, 0, None, (), "enough", look_again_s=10.0)


@given(CHANCES, st.booleans(), st.booleans())
def test_a_sample_is_at_most_a_period_away_and_need_makes_it_sooner(
    chance: float, is_needed: bool, is_promised: bool
) -> None:
    part = schedule.spread(chance)
    assert 0.8 <= part <= 1
    wait_s = schedule.host_wait_s(is_needed=is_needed, is_promised=is_promised, part=part)
    assert schedule.HOST_PROMISED_S <= wait_s <= schedule.HOST_CALM_S
    assert wait_s <= schedule.host_wait_s(is_needed=False, is_promised=False, part=part)
    assert not is_promised or wait_s == schedule.HOST_PROMISED_S
    needed_s = schedule.guest_wait_s(is_needed=True, part=part)
    assert 0 < needed_s < schedule.guest_wait_s(is_needed=False, part=part) <= 20


@given(st.integers(1, 10_000))
def test_a_silent_agent_is_asked_less_often_within_bounds(missed: int) -> None:
    wait_s = schedule.silent_wait_s(missed)
    assert schedule.GUEST_CALM_S <= wait_s <= schedule.silent_wait_s(missed + 1) <= 120
    assert schedule.is_silent(missed) == (missed >= 2)


@given(st.none() | st.floats(allow_nan=False))
def test_an_agent_that_refused_is_left_alone_for_a_second_to_a_minute(
    retry_s: float | None,
) -> None:
    assert 1 <= schedule.refused_wait_s(retry_s) <= 60
    assert schedule.refused_wait_s(None) == 30


@given(st.integers(0, 10_000))
def test_all_vms_are_sampled_within_seconds_of_a_need(index: int) -> None:
    assert 0 <= schedule.hurried_wait_s(index) < 2


@given(st.booleans(), st.booleans(), st.booleans(), st.integers(0, 5), st.booleans(), st.booleans())
def test_the_vmm_is_asked_often_where_no_agent_tells(
    is_needed: bool,
    may_fall_back: bool,
    had_agent: bool,
    missed: int,
    tells_statistics: bool,
    has_channel: bool,
) -> None:
    wait_s = schedule.inspection_wait_s(
        is_needed=is_needed,
        may_fall_back=may_fall_back,
        had_agent=had_agent,
        missed=missed,
        tells_statistics=tells_statistics,
        has_channel=has_channel,
    )
    assert 5 <= wait_s <= 600
    hears = had_agent and not schedule.is_silent(missed)
    if may_fall_back or (tells_statistics and not hears):
        assert wait_s <= 20
    elif not had_agent and not has_channel:
        assert wait_s == 60


@given(st.floats(0, 200))
def test_a_reports_age_is_looked_at_again_when_it_passes_a_limit(age_s: float) -> None:
    left_s = schedule.until_limit_s(age_s, (FRESH_S, STALE_S))
    if age_s > STALE_S:
        assert left_s == math.inf
    else:
        limit_s = FRESH_S if age_s <= FRESH_S else STALE_S
        assert limit_s < age_s + left_s < limit_s + 0.2


@given(st.integers(0, 3), st.none() | st.floats(-10, 5000))
def test_a_lease_ends_soon_and_with_its_override(urgency: int, left_s: float | None) -> None:
    lease_s = schedule.lease_s(urgency, left_s)
    assert 1 <= lease_s <= (schedule.LEASE_URGENT_S if urgency else schedule.LEASE_CALM_S)
    assert left_s is None or lease_s <= max(1, left_s)
    assert not schedule.is_to_renew(lease_s, lease_s)
    assert schedule.is_to_renew(lease_s * 0.66, lease_s)


def test_a_hostile_guest_is_forgiven_after_five_minutes() -> None:
    assert not schedule.is_forgiven(10.0, 10.0 + schedule.FORGIVEN_S)
    assert schedule.is_forgiven(10.0, 10.1 + schedule.FORGIVEN_S)


def test_a_session_that_heard_nothing_stays_in_the_queue_for_a_while() -> None:
    assert schedule.stays_queued(has_heard=False, connected_at_s=1.0, now_s=3.9)
    assert not schedule.stays_queued(has_heard=False, connected_at_s=1.0, now_s=4.0)
    assert not schedule.stays_queued(has_heard=True, connected_at_s=1.0, now_s=1.0)


def test_all_is_decided_again_in_time_or_at_news() -> None:
    before = host_of(8 * GIB, at_s=0.0)

    def is_due(available: int, at_s: float, stalls: float | None = None) -> bool:
        host = replace(host_of(available, at_s), psi_memory_some_avg10=stalls)
        return schedule.is_decision_due(CALM, before, host)

    assert schedule.is_decision_due(None, None, before)
    assert not is_due(8 * GIB, 9.9)
    assert is_due(8 * GIB, 10.0)
    assert not is_due(8 * GIB - 16 * GIB // 50, 1.0)
    assert is_due(8 * GIB - 16 * GIB // 50 - 1, 1.0)
    assert not is_due(9 * GIB, 1.0, stalls=1.0)
    assert is_due(9 * GIB, 1.0, stalls=1.1)
