"""When cold memory of programs is swapped out: by settings, by swap-ins, within the free swap."""

from __future__ import annotations

import pytest
from agent_guests import ABLE, observation, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy import adaptive, cold_anon
from giveback_agent.policy.actions import ReclaimColdAnon
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.adaptive import PolicyState
from giveback_agent.policy.cold_anon import ColdAnonState, next_step
from giveback_agent.policy.observation import URGENCY_ALONE, URGENCY_NONE, Snapshot, Tick
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.record import replace
from giveback_kernel.vmstat import VmStat

MIB = 1 << 20
PAGES = MIB // 4096
CAN = replace(ABLE, cold_anon=True)
ALLOWED = AgentSettings(swap=True)


def guest(now_s: float, swapped_in: int = 0, swapped_out: int = 0, room: int = 1024) -> Snapshot:
    """A guest with these swap counters and this much free swap, in MiB."""
    now = snapshot(now_s, cache=0, trapped=0)
    vmstat = VmStat(
        0, workingset_refault_file=0, pswpin=swapped_in * PAGES, pswpout=swapped_out * PAGES
    )
    return replace(now, vmstat=vmstat, meminfo=replace(now.meminfo, swap_free_bytes=room * MIB))


def tick(
    now: Snapshot, level: str = idleness.IDLE, urgency: int = URGENCY_ALONE,
    settings: AgentSettings = ALLOWED,
) -> Tick:  # fmt: skip
    return Tick(observation(now, level, urgency), settings, CAN)


def test_the_first_step_is_modest_and_the_next_one_later() -> None:
    step, state = next_step(tick(guest(1000.0)), ColdAnonState())
    assert step == ReclaimColdAnon(amount_bytes=cold_anon.FIRST_STEP_BYTES)
    assert next_step(tick(guest(1001.0)), state) == (None, state)
    step, _ = next_step(tick(guest(1000.0 + cold_anon.PERIOD_S)), state)
    assert step is not None


@pytest.mark.parametrize(
    ("level", "urgency", "settings", "can"),
    [
        (idleness.BUSY, URGENCY_ALONE, ALLOWED, CAN),
        (idleness.IDLE, URGENCY_NONE, ALLOWED, CAN),
        (idleness.IDLE, URGENCY_ALONE, AgentSettings(), CAN),
        (idleness.IDLE, URGENCY_ALONE, ALLOWED, ABLE),
    ],
)
def test_nothing_is_taken_where_one_of_settings_kernel_host_or_guest_does_not_agree(
    level: str, urgency: int, settings: AgentSettings, can: object
) -> None:
    one = replace(tick(guest(1000.0), level, urgency, settings), can=can)
    assert next_step(one, ColdAnonState())[0] is None


def test_what_comes_back_makes_it_smaller_and_later_and_silence_larger() -> None:
    _, state = next_step(tick(guest(1000.0)), ColdAnonState())
    step, quiet = next_step(tick(guest(2000.0, 0, 64)), state)
    assert step == ReclaimColdAnon(amount_bytes=2 * cold_anon.FIRST_STEP_BYTES)
    step, sorry = next_step(tick(guest(3000.0, 10, 192)), quiet)
    assert step == ReclaimColdAnon(amount_bytes=cold_anon.FIRST_STEP_BYTES)
    assert sorry.period_s == 2 * cold_anon.PERIOD_S
    _, forgiven = next_step(tick(guest(9000.0, 10, 256)), sorry)
    assert forgiven.period_s == cold_anon.PERIOD_S


def test_half_of_what_is_free_in_swap_bounds_it_and_too_little_is_nothing() -> None:
    step, _ = next_step(tick(guest(1000.0, room=100)), ColdAnonState())
    assert step == ReclaimColdAnon(amount_bytes=50 * MIB)
    assert next_step(tick(guest(1000.0, room=31)), ColdAnonState())[0] is None


@given(
    st.lists(
        st.tuples(
            st.floats(0, 1e4),
            st.integers(0, 1 << 20),
            st.integers(0, 1 << 20),
            st.integers(0, 1 << 20),
        ),
        max_size=30,
    )
)
def test_whatever_the_counters_do_it_stays_in_its_bounds(
    looks: list[tuple[float, int, int, int]],
) -> None:
    state, now_s = ColdAnonState(), 0.0
    for later_s, swapped_in, swapped_out, room in looks:
        now_s += later_s
        step, state = next_step(tick(guest(now_s, swapped_in, swapped_out, room)), state)
        assert cold_anon.PERIOD_S <= state.period_s <= cold_anon.MOST_PERIOD_S
        if step is not None:
            assert cold_anon.LEAST_STEP_BYTES <= step.amount_bytes <= room * MIB // 2
            assert step.amount_bytes <= 2048 * MIB // cold_anon.STEP_DIVISOR


def test_the_adaptive_policy_takes_it_between_passes_only_where_swap_is_set() -> None:
    now = guest(1000.0)
    actions, state = adaptive.decide(observation(now), PolicyState(), ALLOWED, CAN)
    assert [type(action) for action in actions] == [ReclaimColdAnon]
    assert state.anon is not None
    again, _ = adaptive.decide(observation(guest(1001.0)), state, ALLOWED, CAN)
    assert again == ()
    assert adaptive.decide(observation(now), PolicyState(), AgentSettings(), CAN)[0] == ()
