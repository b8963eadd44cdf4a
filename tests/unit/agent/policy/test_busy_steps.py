"""Steps in a guest that is never idle: bounded, paced by their cost, and the order always restored."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from agent_guests import ABLE, MIB, observation, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy import actions as act
from giveback_agent.policy import adaptive, busy_steps
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.adaptive import PolicyState
from giveback_agent.policy.busy_steps import BusySteps, Rhythm
from giveback_agent.policy.observation import (
    GuestObservation,
    KernelCapabilities,
    StepOutcome,
)
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.buddyinfo import BuddyInfo, ZoneBlocks
from giveback_kernel.record import replace
from giveback_kernel.vmstat import VmStat

SETTINGS = AgentSettings()
RAM_BYTES = 2048 * MIB
# Blocks free of each order: 60 to 256 MiB a list.
BLOCKS = (20_000, 20_000, 15_000, 8000, 4000, 1000, 500, 200, 80, 20, 30)


@dataclass
class Busy:
    """A guest that is always equally busy; its steps succeed, and their cost can be set."""

    percent: float = 50.0
    can: KernelCapabilities = ABLE
    cost_s: float = 0.0
    stall_percent: float = 0.0
    short: bool = False
    refaults_after: int = 0
    cold: int = 400
    state: PolicyState = field(default_factory=PolicyState)
    now_s: float = 100.0
    refaults: int = 0
    stolen: int = 0
    reports: int = 0
    lowered: bool = False
    silent: bool = False
    own_cpu_s: float = 0.0
    running: act.Action | None = None
    outcome: StepOutcome | None = None
    available: int = 1400
    log: list[tuple[float, act.Action]] = field(default_factory=list)

    def seen(self) -> GuestObservation:
        now = snapshot(self.now_s, 800, self.cold + 100, 300, self.available)
        vm = VmStat(0, workingset_refault_file=self.refaults, pgsteal_file=self.stolen)
        memory = replace(now.meminfo, inactive_file_bytes=self.cold * MIB)
        now = replace(
            now,
            meminfo=memory,
            cold_cache_bytes=self.cold * MIB,
            vmstat=vm,
            buddy=BuddyInfo((ZoneBlocks(0, "Normal", BLOCKS),), 4096),
        )
        level = idleness.BUSY if self.percent > idleness.BUSY_PERCENT else idleness.SPARE
        kind = None if self.running is None else self.running.kind
        seen = observation(now, level, 1, kind, self.outcome, self.lowered)
        has_spare = idleness.has_spare_cpu(self.percent)
        activity = replace(
            seen.activity,
            busy_percent=self.percent,
            spare_since_s=self.now_s - 60 if has_spare else None,
            memory_stall_percent=self.stall_percent,
            short_of_memory=self.short,
        )
        return replace(seen, activity=activity, reports=self.reports, own_cpu_s=self.own_cpu_s)

    def tick(self, seconds: float = 0.5) -> None:
        self.now_s += seconds
        if isinstance(self.running, act.ReclaimCold):
            taken = min(self.cold, self.running.amount_bytes // MIB)
            self.cold -= taken
            self.stolen += taken * 256
            self.own_cpu_s += self.cost_s
            self.outcome = StepOutcome(self.running.kind, ok=True, cpu_s=self.cost_s)
            self.running = None
        elif self.lowered and not self.silent and self.now_s - self.log[-1][0] > 1.5:
            self.reports += 8
        actions, self.state = adaptive.decide(self.seen(), self.state, SETTINGS, self.can)
        if self.outcome is not None:
            self.refaults += self.refaults_after
        self.outcome = None
        for action in actions:
            self.log.append((self.now_s, action))
            if isinstance(action, act.ReclaimCold):
                self.running = action
            elif isinstance(action, act.LowerOrder):
                self.lowered = True
            elif isinstance(action, act.RestoreOrder):
                self.lowered = False
            elif isinstance(action, act.Abandon):
                self.running, self.outcome = None, StepOutcome("any", ok=False, abandoned=True)

    def run(self, seconds: int) -> Busy:
        for _ in range(seconds * 2):
            self.tick()
        return self

    @property
    def busy(self) -> BusySteps:
        assert self.state.busy is not None
        return self.state.busy

    def times(self, kind: type[act.Action]) -> list[float]:
        return [at_s for at_s, action in self.log if isinstance(action, kind)]


@pytest.mark.parametrize("percent", [30.0, 50.0, 70.0])
def test_a_busy_guest_returns_its_cold_cache_within_five_minutes(percent: float) -> None:
    busy = Busy(percent).run(300)
    assert busy.cold <= 400 * 0.1
    assert len(busy.times(act.LowerOrder)) >= 10
    assert act.BeginPass not in [type(action) for _, action in busy.log]


def test_at_ninety_percent_nothing_is_done() -> None:
    assert not Busy(90.0).run(300).log
    words = idleness.why_no_step(Busy(93.0).seen().activity)
    assert words.startswith("busy at 93 %")


def test_a_guest_that_gets_busier_ends_what_was_begun() -> None:
    busy = Busy(can=replace(ABLE, cold_method="none"))
    while not busy.times(act.LowerOrder):
        busy.tick()
    assert busy.lowered
    busy.percent = 95.0
    busy.tick()
    assert busy.times(act.RestoreOrder) == [busy.now_s]
    busy = Busy()
    while busy.running is None:
        busy.tick()
    busy.percent = 95.0
    actions, _ = adaptive.decide(busy.seen(), busy.state, SETTINGS, ABLE)
    assert [type(action) for action in actions] == [act.Abandon]


@given(st.floats(0, 100), st.floats(0, 3), st.booleans(), st.integers(0, 1400))
def test_no_step_without_spare_cpu_and_memory(
    percent: float, stall_percent: float, short: bool, available: int
) -> None:
    busy = Busy(percent, stall_percent=stall_percent, short=short, available=available)
    busy.run(30)
    spare = percent < 90 and stall_percent < idleness.TARGET_STALL_PERCENT and not short
    tight = adaptive.is_tight(busy.seen().snapshot)
    assert bool(busy.log) == (spare and not tight)


@given(st.integers(64 * MIB, 1 << 40), st.integers(0, 1 << 40), st.floats(0, 100))
def test_a_step_is_bounded_and_less_the_more_the_work_stalls(
    ram: int, size: int, stall_percent: float
) -> None:
    step = busy_steps.cold_step_bytes(ram, size, stall_percent)
    assert 0 <= step <= ram // busy_steps.MOST_DIVISOR
    assert step >= busy_steps.cold_step_bytes(ram, size, stall_percent + 0.1)
    if stall_percent >= idleness.TARGET_STALL_PERCENT:
        assert step == 0


@given(
    st.integers(0, 1 << 34), st.floats(0, 100), st.floats(0, 100),
    st.floats(5, 240), st.integers(0, 1 << 30), st.booleans(),
)  # fmt: skip
def test_the_pause_grows_with_the_cost(
    freed: int, cost_s: float, more_s: float, pause_s: float, size: int, is_cold: bool
) -> None:
    before = Rhythm(50.0, pause_s, size)
    cheap = busy_steps.judged(before, 60.0, freed, cost_s, is_cold)
    dear = busy_steps.judged(before, 60.0, freed, cost_s + more_s, is_cold)
    assert cheap.next_s <= dear.next_s
    assert busy_steps.PAUSE_LEAST_S <= cheap.pause_s <= dear.pause_s <= busy_steps.PAUSE_MOST_S
    if freed < busy_steps.LITTLE_BYTES:
        assert dear.pause_s == min(busy_steps.PAUSE_MOST_S, 2 * pause_s)
    if is_cold:
        assert cheap.size >= dear.size
    assert (dear.why != "") == (dear.pause_s > pause_s or dear.next_s > 60.0 + pause_s) or dear.why


def test_costly_steps_come_later_and_later_and_get_smaller() -> None:
    busy = Busy(can=replace(ABLE, reporting=False), cost_s=4.5, cold=2000).run(2400)
    times = busy.times(act.ReclaimCold)
    pauses = [b - a for a, b in pairwise(times)]
    assert pauses == sorted(pauses)
    assert pauses[-1] >= 2 * pauses[0]
    amounts = [a.amount_bytes for _, a in busy.log if isinstance(a, act.ReclaimCold)]
    assert amounts == sorted(amounts, reverse=True)
    assert "the last step cost" in busy.busy.cold.why


@pytest.mark.parametrize("cost_s", [0.05, 0.5, 2.0, 20.0])
def test_the_steps_together_cost_no_more_than_a_small_part_of_the_cpus(cost_s: float) -> None:
    """On a slow machine each step costs more: they come less often, however much they free."""
    busy = Busy(can=replace(ABLE, reporting=False), cost_s=cost_s, cold=20_000).run(600)
    most_s = 600 * 2 * busy_steps.MOST_COST_PERCENT / 100
    longest_s = 600 / busy_steps.PAUSE_MOST_S * cost_s
    assert len(busy.times(act.ReclaimCold)) * cost_s <= max(most_s, longest_s) + cost_s


def test_pages_that_are_read_again_put_the_next_step_off() -> None:
    calm = Busy(can=replace(ABLE, reporting=False), cold=2000).run(120)
    regretted = Busy(can=replace(ABLE, reporting=False), cold=2000, refaults_after=2000).run(120)
    assert len(regretted.times(act.ReclaimCold)) < len(calm.times(act.ReclaimCold)) / 2
    assert "read again" in regretted.busy.cold.why


def test_regret_is_seen_though_a_short_report_comes_between() -> None:
    busy = Busy(cold=2000, refaults_after=2000).run(120)
    assert busy.times(act.LowerOrder)
    assert "read again" in busy.busy.cold.why
    assert len(busy.times(act.ReclaimCold)) < 10


def test_a_short_report_is_short_and_goes_deeper_while_it_is_cheap() -> None:
    busy = Busy(can=replace(ABLE, cold_method="none")).run(200)
    lowered, restored = busy.times(act.LowerOrder), busy.times(act.RestoreOrder)
    assert len(lowered) - len(restored) in (0, 1)
    assert all(
        0 < b - a <= busy_steps.MOST_LOWERED_S + 0.5
        for a, b in zip(lowered, restored, strict=False)
    )
    orders = [a.order for _, a in busy.log if isinstance(a, act.LowerOrder)]
    assert orders[0] == 9 - busy_steps.FIRST_ORDERS
    assert min(orders) == busy_steps.LEAST_REPORT_ORDER


def test_where_nothing_is_reported_the_pause_grows() -> None:
    busy = Busy(can=replace(ABLE, cold_method="none"), silent=True).run(300)
    times = busy.times(act.LowerOrder)
    assert times[-1] - times[-2] > 3 * (times[1] - times[0])
    assert "freed only 0 MiB" in busy.busy.report.why


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 20), st.sampled_from((5.0, 30.0, 50.0, 70.0, 89.0, 95.0)),
            st.booleans(), st.integers(0, 3),
        ), max_size=60,
    ),
)  # fmt: skip
def test_whatever_happens_the_order_is_restored_in_time(
    course: list[tuple[float, float, bool, int]],
) -> None:
    busy, lowered_s = Busy(), None
    for seconds, percent, short, _ in course:
        busy.percent, busy.short = percent, short
        before = len(busy.log)
        busy.tick(seconds)
        new = [action for _, action in busy.log[before:]]
        if percent >= 90:
            steps = (act.WorkerStep, act.LowerOrder)
            assert not [one for one in new if isinstance(one, steps)]
        if lowered_s is not None and busy.now_s - lowered_s >= busy_steps.MOST_LOWERED_S:
            assert not busy.lowered or busy.times(act.LowerOrder)[-1] > lowered_s
        lowered_s = busy.times(act.LowerOrder)[-1] if busy.lowered else None
    busy.percent = 95.0
    busy.tick(0.5)
    busy.tick(3.0)
    assert not busy.lowered


def test_an_order_that_cannot_be_lowered_is_not_waited_for() -> None:
    busy = Busy(can=replace(ABLE, cold_method="none"))
    while not busy.lowered:
        busy.tick()
    busy.lowered = False
    busy.tick()
    assert not busy.state.in_short_report
    assert busy.busy.report.next_s > busy.now_s


def test_compaction_only_where_the_order_is_fixed_and_cpu_is_to_spare() -> None:
    fixed = replace(ABLE, cold_method="none", order_settable=False)
    for percent, wanted in ((40.0, True), (70.0, False)):
        busy = Busy(percent, can=fixed).run(30)
        assert bool(busy.times(act.Compact)) is wanted


def test_a_cycle_takes_a_sixteenth_of_each_list_and_a_report_at_least() -> None:
    now = replace(
        snapshot(0.0), buddy=BuddyInfo((ZoneBlocks(0, "N", (0, 0, 0, 5120, 4, 0)),), 4096)
    )
    assert busy_steps.reported_by_a_cycle(now, 3, 5) == ((320 * 32 + 4 * 64) << 10, 11)
    assert busy_steps.reported_by_a_cycle(now, 4, 5) == (4 * 64 << 10, 1)
    assert busy_steps.reported_by_a_cycle(replace(now, buddy=None), 0, 9) == (0, 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"busy_percent": 95.0}, "busy at 95 %"),
        ({"memory_stall_percent": 1.0}, "wait for memory 1.0 %"),
        ({"spare_since_s": None}, "tasks wait for I/O"),
        ({"idle_since_s": 99.0}, "about to be idle"),
        ({"spare_since_s": 98.0}, "less than 10 s"),
        ({}, ""),
    ],
)
def test_status_says_why_a_busy_guest_waits(change: dict[str, float], words: str) -> None:
    activity = replace(Busy().seen().activity, **change)
    said = idleness.why_no_step(activity)
    assert words in said
    assert bool(said) == bool(words)
    for steps in (None, BusySteps()):
        state = PolicyState(busy=steps)
        assert state.is_step_due(activity, 100.0) is not bool(words)
    later = PolicyState(busy=BusySteps(cold=Rhythm(101.0), report=Rhythm(102.0)))
    assert not later.is_step_due(activity, 100.0)


@pytest.mark.parametrize(
    ("work_s", "calm_s", "begins"),
    [
        (120.0, 5.0, False),
        (600.0, 14.0, False),
        (600.0, 16.0, True),
        (20.0, 3.0, True),
        (None, 5.0, False),
    ],
)
def test_a_pause_that_is_short_beside_the_work_begins_no_pass(
    work_s: float | None, calm_s: float, begins: bool
) -> None:
    """Its compaction once took 5 s of CPU from a workload that had only paused for 3 s."""
    busy = Busy().run(60)
    while busy.state.in_short_report or busy.running is not None:
        busy.tick()
    seen = observation(snapshot(busy.now_s + calm_s, cache=600, trapped=300))
    since_s = None if work_s is None else busy.now_s - work_s
    activity = replace(seen.activity, idle_since_s=busy.now_s, work_since_s=since_s)
    actions, _ = adaptive.decide(replace(seen, activity=activity), busy.state, SETTINGS, ABLE)
    assert any(isinstance(action, act.BeginPass) for action in actions) is begins
