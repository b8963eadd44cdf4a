"""The adaptive policy, with simulated guests."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from agent_guests import ABLE, MIB, observation, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.policy import actions as act
from giveback_agent.policy import adaptive, cache_goal, thresholds
from giveback_agent.policy.actions import Action
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.adaptive import PolicyState
from giveback_agent.policy.cache_goal import FloorState
from giveback_agent.policy.compaction import Compacting
from giveback_agent.policy.observation import (
    URGENCY_ALONE,
    URGENCY_STARVING,
    URGENCY_TIGHT,
    KernelCapabilities,
    Snapshot,
    StepOutcome,
)
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.buddyinfo import BuddyInfo, ZoneBlocks
from giveback_kernel.record import replace

SETTINGS = AgentSettings()
LEVELS = st.sampled_from(
    (idleness.IDLE, idleness.IDLE, idleness.IDLE, idleness.SPARE, idleness.BUSY)
)
CAN = st.builds(
    KernelCapabilities,
    reporting=st.sampled_from((True, True, False, None)),
    order=st.just(9),
    order_settable=st.booleans(),
    reclaim=st.booleans(),
    drop_caches=st.booleans(),
    compaction=st.booleans(),
    cold_method=st.sampled_from(("none", "lists", "generations")),
    drain=st.booleans(),
)


@dataclass
class Guest:
    """A guest that executes actions with or without success, driven step by step."""

    can: KernelCapabilities = ABLE
    settings: AgentSettings = SETTINGS
    state: PolicyState = field(default_factory=PolicyState)
    cache: int = 600
    trapped: int = 300
    free: int = 800
    pcp: int = 0
    drains: bool = True
    running: Action | None = None
    queue: list[Action] = field(default_factory=list)
    outcome: StepOutcome | None = None
    lowered: bool = False
    log: list[Action] = field(default_factory=list)

    def tick(
        self, now_s: float, level: str, urgency: int = 1, works: bool = True, done: bool = True
    ) -> None:
        """Decide once: the running worker ends if `done`, with success if `works`."""
        if self.running is not None and done:
            self._obey(self.running, works)
            self.outcome = StepOutcome(self.running.kind, works)
            self.running = None
        # In a pass the service takes snapshots without detail.
        pcp = None if self.state.in_pass else self.pcp
        now = snapshot(now_s, self.free, self.cache, self.trapped, pcp=pcp)
        seen = observation(
            now,
            level,
            urgency,
            None if self.running is None else self.running.kind,
            self.outcome,
            self.lowered,
        )
        if self.running is None:
            self.outcome = None
        if self.running is not None or not self.queue:
            actions, self.state = adaptive.decide(seen, self.state, self.settings, self.can)
            self.take(actions)
        self.start_next()

    def start_next(self) -> None:
        """Start the queued steps if none runs; lowering the order takes no time."""
        while self.running is None and self.queue:
            self.running = self.queue.pop(0)
            if isinstance(self.running, act.LowerOrder):
                self.lowered, self.running = True, None

    def take(self, actions: tuple[Action, ...]) -> None:
        """Return the kinds of the decided actions."""
        for action in actions:
            self._take(action)

    def _take(self, action: Action) -> None:
        self.log.append(action)
        if isinstance(action, act.Abandon):
            self.running, self.outcome = None, StepOutcome("any", ok=False, abandoned=True)
            self.queue.clear()
        elif isinstance(action, act.RestoreOrder):
            self.lowered = False
            self.queue.clear()
        elif isinstance(action, act.DrainLists) and self.drains:
            self.free, self.trapped, self.pcp = self.free + self.pcp, self.trapped + self.pcp, 0
        elif isinstance(action, (act.WorkerStep, act.LowerOrder)):
            self.queue.append(action)

    def _obey(self, action: Action, works: bool) -> None:
        if not works:
            return
        if isinstance(action, (act.ReclaimCold, act.Reclaim)):
            taken = min(self.cache, action.amount_bytes // MIB)
            self.cache -= taken
            self.free += taken
            self.trapped += taken
        if isinstance(action, act.Compact):
            self.trapped //= 4

    def kinds(self) -> list[type[Action]]:
        return [type(action) for action in self.log]


def run_idle(guest: Guest, seconds: int = 200) -> Guest:
    for second in range(seconds):
        guest.tick(float(second), idleness.IDLE)
    return guest


def test_a_pass_goes_cache_compact_deep_and_restores() -> None:
    guest = run_idle(Guest())
    kinds = guest.kinds()
    wanted = [
        act.BeginPass,
        act.Sync,
        act.ReclaimCold,
        act.DrainLists,
        act.Compact,
        act.LowerOrder,
        act.RestoreOrder,
    ]
    assert [k for k in dict.fromkeys(kinds) if k != act.TriggerReporting] == [*wanted, act.EndPass]
    assert not guest.lowered


@given(st.integers(0, 400), st.integers(0, 400), st.integers(0, 3), CAN)
def test_a_manual_pass_leaves_out_no_step_that_frees_little(
    cache: int, trapped: int, urgency: int, can: KernelCapabilities
) -> None:
    guest = Guest(can=can, cache=cache, trapped=trapped)
    seen = observation(snapshot(0.0, guest.free, cache, trapped), urgency=urgency)
    actions, guest.state = adaptive.begin_manually(seen, SETTINGS, can)
    guest.take(actions)
    guest.start_next()
    second = 0
    while guest.state.in_pass:
        second += 1
        assert second < 200
        guest.tick(float(second), idleness.IDLE, urgency)
    kinds = guest.kinds()
    assert kinds.count(act.BeginPass) == kinds.count(act.EndPass) == 1
    assert (act.Compact in kinds) == (bool(can.reporting) and can.compaction)
    assert (act.LowerOrder in kinds) == (bool(can.reporting) and can.order_settable)
    assert not guest.lowered


def test_a_manual_pass_is_refused_if_the_guest_is_short_of_memory() -> None:
    now = snapshot(1.0, available=50)
    actions, state = adaptive.begin_manually(observation(now), SETTINGS, ABLE)
    assert [(type(a), a.why) for a in actions] == [(act.EndPass, "the guest is short of memory")]
    assert not state.in_pass


def test_a_quiet_guest_is_left_alone_after_its_pass() -> None:
    guest = run_idle(Guest())
    assert guest.kinds().count(act.BeginPass) == 1


@given(st.integers(0, 64), st.integers(0, 64), CAN, st.booleans())
def test_memory_on_per_cpu_lists_begins_one_pass_if_it_can_be_drained(
    pcp: int, trapped: int, can: KernelCapabilities, drains: bool
) -> None:
    """48 MiB once stayed there permanently: free, but in no free list and so not counted."""
    guest = run_idle(Guest(can=can, cache=0, trapped=trapped, pcp=pcp, drains=drains))
    stuck_bytes = (trapped + (pcp if can.drain else 0)) * MIB
    worth_it = can.reporting and stuck_bytes >= thresholds.least_bytes(snapshot(0.0).meminfo)
    assert guest.kinds().count(act.BeginPass) == int(bool(worth_it))
    if act.DrainLists in guest.kinds() and drains and can.order_settable:
        assert guest.pcp == 0
        # All drained memory can be reported in small blocks.
        assert (act.LowerOrder in guest.kinds()) == (guest.trapped * MIB >= 8 * MIB)


def test_lists_that_fill_again_are_drained_again() -> None:
    guest = run_idle(Guest(cache=0, trapped=0, pcp=40))
    guest.pcp = 30
    for second in range(300, 400):
        guest.tick(float(second), idleness.IDLE)
    assert guest.kinds().count(act.BeginPass) == 2
    assert guest.pcp == 0


def test_lists_that_fill_with_trapped_memory_are_drained_too() -> None:
    """Memory that `make clean` freed was on the lists, and offset a decrease of trapped memory for 100 s."""
    guest = run_idle(Guest(cache=0, trapped=60, pcp=10))
    trapped = guest.trapped
    guest.pcp, guest.trapped = 34, trapped - 30
    for second in range(300, 400):
        guest.tick(float(second), idleness.IDLE)
    assert guest.kinds().count(act.BeginPass) == 2
    assert guest.pcp == 0


def test_what_was_in_use_and_is_stuck_now_begins_a_pass() -> None:
    """After drop_caches 55 MiB more were free: for 40 s too little of it counted as newly trapped."""
    last = snapshot(0.0, 800, 64, 90, pcp=18)
    now = snapshot(100.0, 855, 9, 100, pcp=18)
    assert thresholds.newly_stuck_bytes(now, last, ABLE) == 55 * MIB
    state = PolicyState(after_pass=last, rest_until_s=10.0)
    actions, _ = adaptive.decide(observation(now), state, SETTINGS, ABLE)
    assert isinstance(actions[0], act.BeginPass)
    # Memory that has merged into large blocks is reported by the kernel itself.
    assert thresholds.newly_stuck_bytes(snapshot(100.0, 855, 9, 5, pcp=2), last, ABLE) == 7 * MIB


@pytest.mark.parametrize(("idle_since_s", "begins"), [(None, False), (5.0, False), (60.0, True)])
def test_a_burst_makes_reported_memory_stale_sooner_than_a_little_work_all_the_time(
    idle_since_s: float | None, begins: bool
) -> None:
    last = snapshot(50.0, 800, 64, 90, pcp=10)
    seen = observation(snapshot(100.0, 795, 69, 85, pcp=20), work_cpu_s=1.5)
    seen = replace(seen, activity=replace(seen.activity, idle_since_s=idle_since_s))
    actions, _ = adaptive.decide(seen, PolicyState(after_pass=last), SETTINGS, ABLE)
    assert bool(actions) is begins


def test_the_lists_are_drained_before_and_after_compaction() -> None:
    kinds = run_idle(Guest(cache=0)).kinds()
    at = kinds.index(act.Compact)
    assert kinds[at - 1 : at + 3] == [act.DrainLists, act.Compact, act.DrainLists, act.LowerOrder]


def test_the_floor_of_the_settings_is_never_touched() -> None:
    guest = run_idle(Guest(settings=replace(SETTINGS, cache_floor_bytes=200 * MIB)))
    assert guest.cache >= 200


@given(
    st.lists(st.tuples(LEVELS, st.integers(0, 3), st.booleans(), st.booleans()), max_size=120),
    CAN,
    st.booleans(),
)
def test_always_one_worker_at_a_time_and_the_order_is_restored(
    course: list[tuple[str, int, bool, bool]], can: KernelCapabilities, reporting: bool
) -> None:
    guest = Guest(can=can, settings=replace(SETTINGS, page_reporting=reporting))
    for second, (level, urgency, works, done) in enumerate(course):
        before = len(guest.log)
        guest.tick(float(second), level, urgency, works, done)
        new = guest.log[before:]
        assert len(guest.queue) <= 1
        if level == idleness.BUSY and urgency < URGENCY_STARVING:
            assert not [a for a in new if isinstance(a, act.WorkerStep)]
            assert not guest.lowered
        for action in new:
            _check_permitted(action, can, reporting, urgency)
    assert guest.cache >= SETTINGS.cache_floor_bytes // MIB
    guest.tick(1e6, idleness.BUSY)
    guest.tick(1e6 + 1, idleness.BUSY)
    assert not guest.lowered


def _check_permitted(
    action: Action, can: KernelCapabilities, reporting: bool, urgency: int
) -> None:
    if isinstance(action, (act.Compact, act.LowerOrder, act.TriggerReporting, act.DrainLists)):
        assert can.reporting
        assert reporting
    if isinstance(action, act.Compact):
        assert can.compaction
    if isinstance(action, act.LowerOrder):
        assert can.order_settable
    if isinstance(action, act.DrainLists):
        assert can.drain
    if isinstance(action, act.Reclaim):
        assert can.reclaim
        assert action.amount_bytes > 0
    if isinstance(action, (act.Reclaim, act.DropCaches)):
        assert urgency > URGENCY_ALONE
    if isinstance(action, act.ReclaimCold):
        assert can.cold_method != "none"
    if isinstance(action, act.BeginPass):
        assert urgency >= 0


def test_at_urgency_0_caches_stay() -> None:
    guest = Guest()
    for second in range(100):
        guest.tick(float(second), idleness.IDLE, urgency=0)
    assert guest.cache == 600
    assert act.Compact in guest.kinds()


def test_at_urgency_3_all_above_the_floor_goes() -> None:
    guest = Guest()
    guest.state = replace(guest.state, floor=FloorState(learned_bytes=400 * MIB))
    for second in range(100):
        guest.tick(float(second), idleness.IDLE, urgency=3)
    assert guest.cache == SETTINGS.cache_floor_bytes // MIB


def test_need_that_grows_within_a_pass_is_met_after_it() -> None:
    state, settings = PolicyState(), AgentSettings()
    now, asked = 100.0, []
    for second in range(120):
        urgency = URGENCY_ALONE if second < 5 else URGENCY_STARVING
        seen = observation(snapshot(now + second, cache=600, trapped=300), urgency=urgency)
        seen = replace(seen, lowered=state.current is not None and state.current.hold is not None)
        actions, state = adaptive.decide(seen, state, settings, ABLE)
        asked += [type(action) for action in actions]
    assert act.Reclaim in asked


def test_a_guest_that_stalls_for_memory_returns_none_at_urgency_3() -> None:
    seen = observation(snapshot(100.0), level=idleness.BUSY, urgency=URGENCY_STARVING)
    assert adaptive.decide(seen, PolicyState(), AgentSettings(), ABLE)[0]
    seen = replace(seen, activity=replace(seen.activity, short_of_memory=True))
    assert not adaptive.decide(seen, PolicyState(), AgentSettings(), ABLE)[0]


def test_the_whole_cache_is_dropped_only_at_urgency_3() -> None:
    """On a kernel before 5.19 only the whole cache can be dropped; at urgency 2 half of it is wanted."""
    can = replace(ABLE, reclaim=False, cold_method="none")
    for urgency, dropped in ((URGENCY_TIGHT, False), (URGENCY_STARVING, True)):
        state, kinds = PolicyState(), []
        for second in range(5):
            seen = observation(snapshot(100.0 + second), urgency=urgency)
            actions, state = adaptive.decide(seen, state, SETTINGS, can)
            kinds += [type(action) for action in actions]
        assert (act.DropCaches in kinds) is dropped


def test_a_busy_guest_begins_a_pass_only_at_urgency_3() -> None:
    guest = Guest()
    for urgency in (0, 1, 2):
        for second in range(60):
            guest.tick(1000.0 * urgency + second, idleness.BUSY, urgency)
    assert not guest.log
    for second in range(100):
        guest.tick(5000.0 + second, idleness.BUSY, urgency=3)
    assert guest.cache == SETTINGS.cache_floor_bytes // MIB
    assert guest.lowered or any(isinstance(a, act.RestoreOrder) for a in guest.log)
    guest.tick(5101.0, idleness.BUSY, urgency=1)
    guest.tick(5102.0, idleness.BUSY, urgency=1)
    assert not guest.lowered


def test_a_host_that_needs_memory_does_not_wait_for_idleness() -> None:
    guest = Guest()
    guest.tick(0.0, idleness.SPARE, urgency=2)
    assert any(isinstance(a, act.BeginPass) for a in guest.log)


def test_a_guest_short_of_memory_is_not_touched() -> None:
    for now in (snapshot(1.0, low=True), snapshot(1.0, available=50)):
        actions, state = adaptive.decide(observation(now), PolicyState(), SETTINGS, ABLE)
        assert actions == ()
        assert not state.in_pass


def test_work_coming_back_stops_the_pass_at_once() -> None:
    guest = Guest()
    guest.tick(0.0, idleness.IDLE)
    assert guest.running is not None
    guest.tick(9.0, idleness.BUSY, done=False)
    guest.tick(10.0, idleness.BUSY)
    assert guest.kinds()[-2:] == [act.Abandon, act.EndPass] or guest.kinds()[-1] == act.EndPass
    assert guest.running is None


def test_compaction_that_frees_nothing_is_tried_later_and_later() -> None:
    begun = Compacting(before_bytes=300 * MIB)
    state = PolicyState(compaction=begun)
    waits = []
    for round_s in (1000.0, 2000.0, 4000.0):
        seen = observation(
            snapshot(round_s, trapped=300), outcome=StepOutcome(act.Compact.kind, ok=True)
        )
        _, state = adaptive.decide(seen, state, SETTINGS, ABLE)
        waits.append(state.compaction.after_s - round_s)
        state = replace(state, compaction=replace(state.compaction, before_bytes=300 * MIB))
    assert waits == sorted(set(waits))


def _floor_after(
    taken_pages: int, came_back_pages: int, quiet_s: float = 0.0
) -> tuple[FloorState, FloorState]:
    """Return the floor after a step and its refaults, and again after a quiet time."""
    state, course = PolicyState(), [
        (0.0, 0, 0, None, None),
        (1.0, 1000, 500, act.ReclaimCold.kind, None),
        (2.0, taken_pages, 1500, None, StepOutcome(act.ReclaimCold.kind, ok=True)),
        (5.0, taken_pages, 1500 + came_back_pages, None, None),
        (5.0 + quiet_s, taken_pages, 1500 + came_back_pages, None, None),
    ]  # fmt: skip
    floors = []
    for at_s, stolen, refaults, running, outcome in course:
        now = snapshot(at_s, refaults=refaults)
        assert now.vmstat is not None
        now = replace(now, vmstat=replace(now.vmstat, pgsteal_file=stolen))
        seen = observation(now, idleness.BUSY, running=running, outcome=outcome)
        _, state = adaptive.decide(seen, state, SETTINGS, ABLE)
        floors.append(state.floor)
    return floors[-2], floors[-1]


def test_refaults_of_what_was_taken_raise_the_floor_and_quiet_lowers_it() -> None:
    raised, later = _floor_after(50_000, 5000, quiet_s=1000.0)
    assert raised.learned_bytes == 5000 * 4096, "without the agent's own training"
    assert 0 < later.learned_bytes < raised.learned_bytes


@given(st.integers(0, 500_000), st.integers(0, 500_000))
def test_no_more_is_kept_on_suspicion_than_was_taken_and_came_back(
    taken_pages: int, came_back_pages: int
) -> None:
    raised, _ = _floor_after(taken_pages, came_back_pages)
    assert raised.learned_bytes <= min(taken_pages, came_back_pages) * 4096
    assert raised.learned_bytes <= 1024 * MIB
    much = came_back_pages * 4096 >= cache_goal.NOISE_BYTES
    if taken_pages >= came_back_pages and much and came_back_pages * 50 > taken_pages:
        assert raised.learned_bytes == min(came_back_pages * 4096, 1024 * MIB)


def test_the_floor_learns_nothing_from_evictions_by_the_kernel() -> None:
    """A burst of a workload that is larger than its memory once blocked each request of the host."""
    state = PolicyState()
    for second in range(60):
        now = snapshot(float(second), refaults=20_000 * second)
        assert now.vmstat is not None
        now = replace(now, vmstat=replace(now.vmstat, pgsteal_file=20_000 * second))
        _, state = adaptive.decide(observation(now, idleness.BUSY), state, SETTINGS, ABLE)
    assert state.floor.learned_bytes == 0


def test_what_is_learned_is_taken_from_what_is_called_cold() -> None:
    for urgency, taken in ((0, 200), (1, 200), (2, 300)):
        cold = cache_goal.takeable_bytes(300 * MIB, 100 * MIB, 600 * MIB, 64 * MIB, urgency)
        assert cold == taken * MIB
    assert cache_goal.takeable_bytes(300 * MIB, 400 * MIB, 600 * MIB, 64 * MIB, 1) == 0
    assert cache_goal.takeable_bytes(300 * MIB, 0, 100 * MIB, 64 * MIB, 1) == 36 * MIB


@given(st.integers(0, 4096), st.integers(0, 4096), st.integers(0, 3))
def test_the_goal_never_reaches_below_the_floor(cache: int, floor: int, urgency: int) -> None:
    now = snapshot(0.0, cache=cache)
    goal = cache_goal.wanted_bytes(now.cache_bytes, now.cold_cache_bytes, floor * MIB, urgency)
    assert 0 <= goal <= max(0, cache - floor) * MIB


def test_a_guest_that_is_never_idle_gives_cold_cache_in_small_steps() -> None:
    guest = Guest()
    for second in range(60):
        guest.tick(float(second), idleness.SPARE)
    assert act.ReclaimCold in guest.kinds()
    assert set(guest.kinds()) <= {
        act.ReclaimCold, act.LowerOrder, act.TriggerReporting, act.RestoreOrder
    }  # fmt: skip
    cold = [a for a in guest.log if isinstance(a, act.ReclaimCold)]
    assert cold[0].amount_bytes <= 2048 * MIB // 64
    assert all(a.amount_bytes <= 2048 * MIB // 16 for a in cold)


def _lists(now: Snapshot, active: int, inactive: int, dirty: int = 0) -> Snapshot:
    memory = replace(
        now.meminfo,
        active_file_bytes=active * MIB,
        inactive_file_bytes=inactive * MIB,
        dirty_bytes=dirty * MIB,
    )
    return replace(now, meminfo=memory, cold_cache_bytes=max(0, inactive - dirty) * MIB)


@pytest.mark.parametrize(
    ("kept", "active", "inactive", "method", "what"),
    [
        (20, 700, 0, "generations", act.REOPEN),
        (20, 700, 100, "generations", act.TRAINED),
        (300, 700, 0, "generations", None),
        (20, 90, 0, "generations", None),
        (20, 700, 0, "lists", None),
    ],
)
def test_new_cache_among_the_kept_is_taken_where_it_is_much_more(
    kept: int, active: int, inactive: int, method: str, what: int | None
) -> None:
    last = _lists(snapshot(0.0, 800, 64, 0), kept, 2)
    state = PolicyState(after_pass=last, rest_until_s=10.0)
    now = _lists(snapshot(100.0, 800, active + inactive, 0), active, inactive)
    can = replace(ABLE, cold_method=method)
    guest = Guest(can=can, state=state)
    for _ in range(4):
        seen = observation(now, idleness.IDLE, 1, None, guest.outcome, False)
        actions, guest.state = adaptive.decide(seen, guest.state, SETTINGS, can)
        guest.take(actions)
        guest.outcome = StepOutcome(act.Sync.kind, True) if guest.queue else None
        guest.queue.clear()
    cold = [action for action in guest.log if isinstance(action, act.ReclaimCold)]
    assert [action.how for action in cold] == ([] if what is None else [what])
    if what == act.REOPEN:
        assert 0 < cold[0].amount_bytes <= (active - kept) * MIB


@pytest.mark.parametrize(("dirty", "taken"), [(0, True), (100, False)])
def test_small_steps_take_nothing_while_much_is_dirty(dirty: int, taken: bool) -> None:
    now = _lists(snapshot(100.0, 800, 400, 0), 20, 380, dirty)
    seen = observation(now, idleness.SPARE, 1, None, None, False)
    actions, _ = adaptive.decide(seen, PolicyState(), SETTINGS, ABLE)
    assert bool(actions) == taken


def test_refaults_by_training_do_not_raise_the_floor() -> None:
    """Each small step trains three lists: 1536 refaults by the agent while it runs, none by the workload."""
    state, refaults = PolicyState(), 0
    for second in range(100):
        running = act.ReclaimCold.kind if second % 10 == 1 else None
        outcome = StepOutcome(act.ReclaimCold.kind, ok=True) if second % 10 == 2 else None
        refaults += 1536 if running else 0
        seen = observation(
            snapshot(100.0 + second, refaults=refaults),
            idleness.SPARE,
            running=running,
            outcome=outcome,
        )
        _, state = adaptive.decide(seen, state, SETTINGS, ABLE)
    assert state.floor.learned_bytes == 0


def test_only_the_numa_nodes_that_are_worth_it_are_compacted() -> None:
    blocks = (
        ZoneBlocks(0, "Normal", (0, 0, 0, 5000, 0, 0, 0, 0, 0, 0, 100)),
        ZoneBlocks(1, "Normal", (10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 100)),
    )
    now = replace(snapshot(0.0, cache=0), buddy=BuddyInfo(blocks, 4096))
    can = replace(ABLE, drain=False)
    actions, _ = adaptive.decide(observation(now), PolicyState(), SETTINGS, can)
    compact = [action for action in actions if isinstance(action, act.Compact)]
    assert [action.nodes for action in compact] == [(0,)]


@pytest.mark.parametrize(
    ("cache", "dirty", "begins"), [(300, 300, True), (300, 0, True), (8, 8, False)]
)
def test_work_that_ends_with_its_files_dirty_is_answered_at_once(
    cache: int, dirty: int, begins: bool
) -> None:
    """Otherwise its cache stays until a poll after the kernel's own writeback, half a minute later."""
    last = _lists(snapshot(0.0, 800, 64, 0), 64, 0)
    now = _lists(snapshot(100.0, 800, 64 + cache, 0), 64, cache, dirty)
    state = PolicyState(after_pass=last, rest_until_s=10.0)
    actions, _ = adaptive.decide(observation(now), state, SETTINGS, replace(ABLE, drain=False))
    assert ([type(action) for action in actions] == [act.BeginPass, act.Sync]) is begins


@pytest.mark.parametrize(
    ("cache_mib", "at_s", "urgency", "asks"),
    [(300, 200.0, 1, False), (420, 200.0, 1, True), (300, 3800.0, 1, True), (300, 200.0, 2, True)],
)
def test_what_the_last_cold_step_kept_is_asked_for_again_only_with_new_cache_or_much_later(
    cache_mib: int, at_s: float, urgency: int, asks: bool
) -> None:
    """That step cleared its history: the next pass, begun for trapped memory, would reclaim it as cold."""
    kept = cache_goal.JudgedCache(100.0, 300 * MIB)
    last = snapshot(110.0, 1500, cache_mib, 20)
    state = PolicyState(after_pass=last, rest_until_s=120.0, judged=kept)
    now = snapshot(at_s, 1500, cache_mib, 400)
    actions, after = adaptive.decide(observation(now, urgency=urgency), state, SETTINGS, ABLE)
    assert isinstance(actions[0], act.BeginPass)
    assert after.current is not None
    planned = {type(action) for action in actions} | set(after.current.steps)
    assert (act.ReclaimCold in planned) == asks


def test_what_ended_cgroups_left_is_no_new_cache() -> None:
    taken = StepOutcome(act.ReclaimEnded.kind, ok=True)
    seen = replace(observation(snapshot(200.0, 1500, 250, 20)), outcome=taken)
    state = PolicyState(judged=cache_goal.JudgedCache(100.0, 300 * MIB))
    _, after = adaptive.decide(seen, state, SETTINGS, ABLE)
    assert after.judged == cache_goal.JudgedCache(100.0, 250 * MIB)


@pytest.mark.parametrize("wanted_mib", [60, 600])
def test_what_a_small_request_has_left_is_there_for_the_next(wanted_mib: int) -> None:
    """Of 600 MiB the host wants 60: the other 540 were not judged."""
    before = snapshot(100.0, cache=600, trapped=0)
    seen = replace(observation(before), kept_cache_bytes=(600 - wanted_mib) * MIB)
    _, state = adaptive.decide(seen, PolicyState(), SETTINGS, ABLE)
    assert state.current is not None
    assert state.current.is_cut == (wanted_mib == 60)
    left = snapshot(110.0, free=800 + wanted_mib, cache=640 - wanted_mib, trapped=0)
    taken = StepOutcome(act.ReclaimCold.kind, ok=True)
    state = replace(state, current=replace(state.current, steps=()))
    actions, state = adaptive.decide(observation(left, outcome=taken), state, SETTINGS, ABLE)
    assert isinstance(actions[-1], act.EndPass)
    # The same amount is wanted again.
    again = replace(observation(replace(left, monotonic_s=130.0)), kept_cache_bytes=20 * MIB)
    actions, _ = adaptive.decide(again, state, SETTINGS, ABLE)
    assert any(isinstance(action, act.BeginPass) for action in actions) == (wanted_mib == 60)
