"""What is asked of a VM, done to it by a device, and found out about it afterwards."""

from __future__ import annotations

import asyncio
import math
import os
import time
from dataclasses import replace

from giveback.accounting.observation import Observation
from giveback.accounting.usage import NO_GUEST, GuestSnapshot, GuestSource, HostSnapshot
from giveback.host.memory import HostView
from giveback.manager.daemon import Daemon
from giveback.manager.decide.delivery import Asked
from giveback.manager.decide.promises import GRACE_S
from giveback.manager.decide.resident_counts import Counts
from giveback.manager.fleet.discovery import Found
from giveback.manager.fleet.fleet import Fleet, Watched
from giveback.manager.fleet.reclaim import ReclaimOperation
from giveback.manager.fleet.sampler import Sampler, _inspection_wait_s
from giveback.manager.fleet.urgency import Arbitration
from giveback.manager.history import chart
from giveback.manager.history.records import HistorySpan
from giveback.manager.model import ActionKind, Ask, DaemonStatus, GuestView, ManagerAction
from giveback.manager.settings.load import ArbiterSettings, VmSettings, from_bytes
from giveback.reporters import daemon_status
from giveback.vmm import base
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Answer, Capabilities, VmDescription, VmState

MIB = 1 << 20
STEP = ManagerAction(1, 0.0, "web", ActionKind.BALLOON, 0, 64 * MIB, "balloon: 960 MiB left")
DEFLATED = ManagerAction(
    1, 0.0, "qemu:web:1", ActionKind.DEFLATE, 0, 0, "given back: the manager stops"
)


class Recorded:
    """A recorder that keeps all actions."""

    problems: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.actions: list[ManagerAction] = []

    def action(self, action: ManagerAction) -> None:
        self.actions.append(action)

    def status(self, status: DaemonStatus) -> None:
        del status


NOTHING_SEEN = Observation(VmDescription("qemu", "web", 1, 0, ()), VmState(), None, NO_GUEST, None)


def scene() -> tuple[Watched, Arbitration, Recorded]:
    vm = VmDescription("qemu", "web", os.getpid(), 1024 * MIB, ())
    fleet, recorded = Fleet(), Recorded()
    found = Found(base.key_of(vm), QemuBackend(), vm, 1, -1)
    watched = Watched(found, VmSettings(balloon=True), 0.0)
    fleet.add(watched)
    return watched, Arbitration(fleet, recorded), recorded


def host(available_gib: int) -> HostView:
    return HostView(0.0, 64 << 30, available_gib << 30)


def holding(vm: Watched, resident_mib: int) -> None:
    vm.host.counts = Counts(resident_mib * MIB)


def test_steps_of_a_device_are_verified_as_one() -> None:
    vm, arbitration, recorded = scene()
    holding(vm, 1000)
    for now_s in (0.0, 8.0, 16.0):
        arbitration.take_done(vm, STEP, now_s)
    assert {action.id for action in recorded.actions} == {1}
    assert recorded.actions[-1].expected_bytes == 3 * STEP.expected_bytes
    holding(vm, 800)
    arbitration.check(vm, 16.0 + GRACE_S)
    assert (recorded.actions[-1].measured_bytes, vm.request.promise) == (200 * MIB, None)
    assert recorded.actions[-1].verdict == ""


def test_what_counts_as_delivered_is_nobodys_problem() -> None:
    vm, arbitration, recorded = scene()
    holding(vm, 1000)
    arbitration.take_done(vm, STEP, 0.0)
    holding(vm, 942)
    arbitration.check(vm, GRACE_S)
    assert recorded.actions[-1].verdict == ""
    assert vm.request.doctor == ()


def test_an_ask_leaves_it_to_the_next_look_to_see_what_moved() -> None:
    vm, arbitration, _ = scene()
    holding(vm, 1)
    arbitration.expect(vm, ActionKind.ASK, Ask(vm.key, 1, 64 * MIB, "cold"), 0.0)
    assert vm.request.promise is not None
    assert vm.request.promise.before_bytes > MIB
    # Else the picture of the host's side would not be carried to what is resident now.
    assert vm.host.counts == Counts(MIB)


class Taking:
    """Fallbacks that take what is wanted, 64 MiB at a time; `steps` are the goals."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.eased = 0

    def holds(self, vm: VmDescription) -> bool:
        del vm
        return bool(self.steps)

    async def ease(self, *_: object) -> None:
        self.eased += 1

    async def step(
        self, vm: object, state: object, guest: object, goal: int, _: object
    ) -> ManagerAction | None:
        del vm, state, guest
        self.steps.append(goal)
        return replace(STEP, expected_bytes=min(goal, 64 * MIB)) if goal else None


def test_a_device_takes_what_was_asked_for_and_no_more() -> None:
    async def live() -> None:
        vm, arbitration, _ = scene()
        vm.vmm.due_s = math.inf
        taking = Taking()
        sampler = Sampler(arbitration._fleet, arbitration, taking)  # type: ignore[arg-type]

        async def look(now_s: float) -> None:
            sampler.sample(vm, now_s, arbitration.decision)
            await asyncio.gather(*sampler._tasks)

        await look(0.0)
        assert (taking.steps, taking.eased) == ([], 1)
        vm.request.ask_by_reclaim(Asked(0.0, 1, 100 * MIB, 0), until_s=50.0)
        for now_s in (1.0, 2.0, 3.0):
            await look(now_s)
        # A calm host wants nothing held; `reclaim` does, for its time, and what it wanted is there.
        assert taking.steps == [100 * MIB, 36 * MIB]
        assert taking.eased == 2
        # The VM is looked at often, its statistics too.
        assert vm.host.due_s <= 4.0
        assert vm.vmm.inspected_at_s is not None
        arbitration.decide(host(1), ArbiterSettings(), 4.0)
        await look(4.0)
        assert taking.steps[2:] == [0]
        await sampler.close()

    asyncio.run(live())


def test_a_calm_host_leaves_a_reclaim_its_goals_for_its_time() -> None:
    async def live() -> None:
        vm, arbitration, _ = scene()
        vm.request.ask_by_reclaim(Asked(0.0, 1, 100 * MIB, 0), until_s=50.0)
        arbitration.decide(host(60), ArbiterSettings(), 1.0)
        assert vm.request.device_bytes == 100 * MIB
        arbitration.decide(host(60), ArbiterSettings(), 51.0)
        assert vm.request.device_bytes == 0

    asyncio.run(live())


def test_the_time_of_a_reclaim_that_waits_for_another_runs() -> None:
    async def live() -> None:
        _, arbitration, _ = scene()
        now_s = [0.0]
        reclaim = ReclaimOperation(arbitration._fleet, arbitration, "/", lambda: now_s[0])
        async with reclaim._turn:
            waiting = asyncio.create_task(reclaim.run(1 << 40, 5.0, ()))
            await asyncio.sleep(0)
            now_s[0] = 6.0
        result = await asyncio.wait_for(waiting, 30)
        assert (result.took_s, result.reached) == (6.0, False)
        # No agent answers there: it is not asked, and nothing is waited for.
        assert (result.most_bytes, result.parts[0].expected_bytes) == (0, 0)

    asyncio.run(live())


def test_who_is_not_asked_is_told_why() -> None:
    async def why(settings: VmSettings, reporting: Answer = Answer.NO) -> str:
        vm, arbitration, _ = scene()
        vm.settings, vm.vmm.state = settings, VmState(reporting_negotiated=reporting)
        reclaim = ReclaimOperation(arbitration._fleet, arbitration, "/", time.monotonic)
        (part,) = (await reclaim.run(1 << 40, 0.01, ("web",))).parts
        return part.words

    assert "its settings say ignore" in asyncio.run(why(VmSettings(ignore=True)))
    assert "settings allow no fallback" in asyncio.run(why(VmSettings()))
    barred = asyncio.run(why(VmSettings(balloon=True), Answer.YES))
    assert barred == ("not asked: no agent answers, and it reports its free pages by itself")


def test_what_a_hostile_guest_says_is_shown_only() -> None:
    vm, _, _ = scene()
    guest = GuestSnapshot(GuestSource.AGENT, 0.0, 1024 * MIB, 0, 512 * MIB)
    host_side = HostSnapshot(ram_resident_bytes=1024 * MIB)
    vm.seen = replace(NOTHING_SEEN, guest=guest, host=host_side)
    vm.seen_until_s = math.inf
    assert vm.view_at(0.0).fresh
    vm.channel.hostile_at_s, vm.view = 0.0, None
    assert not vm.view_at(0.0).fresh
    vm.seen, vm.view = replace(vm.seen, guest=replace(guest, source=GuestSource.BALLOON)), None
    assert vm.view_at(0.0).fresh


def test_a_port_that_is_plugged_in_later_is_found_soon() -> None:
    vm, _, _ = scene()
    vm.settings = VmSettings()
    vm.vmm.describe(replace(vm.vmm.description, capabilities=Capabilities(statistics=Answer.NO)))
    assert _inspection_wait_s(vm, is_needed=False) <= 60


def test_many_vms_are_looked_at_in_turn() -> None:
    vm, arbitration, _ = scene()
    looked: list[str] = []
    for number in range(500):
        other = VmDescription("qemu", f"{number}", number + 1, 0, ())
        found = Found(base.key_of(other), QemuBackend(), other, 1, -1)
        arbitration._fleet.add(Watched(found, VmSettings(), 0.0))

    class Counting(Sampler):
        def sample(self, vm: Watched, now_s: float, decision: object) -> None:
            del decision
            looked.append(vm.key)
            vm.host.due_s = now_s + 0.01  # Due again before the others were.

    sampler = Counting(arbitration._fleet, arbitration, None)
    for tick in range(3):
        sampler.step(float(tick))
    assert set(looked) == set(arbitration._fleet.vms)
    assert vm.key in looked


def test_a_floor_ends_what_is_asked_for() -> None:
    async def live() -> None:
        vm, arbitration, _ = scene()
        vm.settings = VmSettings(floor_bytes=512 * MIB)
        arbitration.decide(host(1), ArbiterSettings(), 0.0)
        vm.request.ask_by_arbiter(Asked(0.0, 1, MIB, 600 * MIB))
        for resident_mib, told in ((600, 1), (512, 0)):
            vm.view = GuestView(vm.key, resident_mib * MIB, 0, 0, 0, floor_bytes=512 * MIB)
            vm.seen, vm.seen_until_s = NOTHING_SEEN, math.inf
            assert arbitration.urgency_for(vm, 0.0) == told
            # Of a reclaim, too. A manual urgency is obeyed as given, also while a reclaim runs.
            vm.request.ask_by_reclaim(Asked(0.0, 1, MIB, 600 * MIB), 9.0)
            assert arbitration.urgency_for(vm, 0.0) == told
            vm.request.set_manual(2, 9.0)
            assert arbitration.urgency_for(vm, 0.0) == 2
            vm.request.end_reclaim()
            assert arbitration.urgency_for(vm, 0.0) == 2
            vm.request.set_manual(2, 0.0)

    asyncio.run(live())


class Ending:
    """Fallbacks that give back one lease at the start, and one at the end."""

    problems = ()

    def leases(self) -> tuple[()]:
        return ()

    async def recover(self) -> tuple[ManagerAction, ...]:
        return (replace(DEFLATED, reason="given back: the manager that took it has ended"),)

    async def release_all(self, deadline_s: float) -> tuple[ManagerAction, ...]:
        del deadline_s
        return (DEFLATED,)


def test_what_is_given_back_at_start_and_end_is_recorded() -> None:
    recorded = Recorded()
    daemon = Daemon(
        from_bytes(b"", "test"),
        recorder=recorded,
        fallbacks=Ending(),  # type: ignore[arg-type]
        backends=(),
    )

    async def live() -> None:
        await daemon.run(daemon.stop)

    asyncio.run(live())
    assert [action.reason for action in recorded.actions] == [
        "given back: the manager that took it has ended",
        "given back: the manager stops",
    ]
    assert [action.id for action in recorded.actions] == [1, 2]
    assert list(daemon.fleet.actions) == recorded.actions


def test_a_deflation_waits_for_nothing() -> None:
    assert daemon_status.verdict(DEFLATED) == "deflate: given back: the manager stops"
    history = HistorySpan(0, 10, 10, None, (), (), (DEFLATED,), ())
    shown = chart.actions_text(history)
    assert shown.endswith("deflate  given back: the manager stops")
