"""What is asked of a VM, done to it by a device, and found out about it afterwards."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace

from giveback.commands import status as status_command
from giveback.manager import discovery, history_chart, sampling
from giveback.manager.asking import Asking
from giveback.manager.daemon import Daemon
from giveback.manager.discovery import Found
from giveback.manager.documents import document
from giveback.manager.fleet import Fleet, Watched
from giveback.manager.model import Action, ActionKind, DaemonStatus
from giveback.manager.settings import VmSettings, from_bytes
from giveback.manager.verify import GRACE_S
from giveback.vmm.base import VmDescription
from giveback.vmm.qemu import QemuBackend

MIB = 1 << 20
STEP = Action(1, 0.0, "web", ActionKind.BALLOON, 0, 64 * MIB, "balloon: 960 MiB left")
DEFLATED = Action(1, 0.0, "qemu:web:1", ActionKind.DEFLATE, 0, 0, "given back: the manager ends")


class Recorded:
    """A recorder that keeps all actions."""

    problems: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.actions: list[Action] = []

    def action(self, action: Action) -> None:
        self.actions.append(action)

    def status(self, status: DaemonStatus) -> None:
        del status


def scene() -> tuple[Watched, Asking, Recorded]:
    vm = VmDescription("qemu", "web", os.getpid(), 1024 * MIB, ())
    fleet, recorded = Fleet(), Recorded()
    found = Found(discovery.key_of(vm), QemuBackend(), vm, 1, -1)
    watched = Watched(found, VmSettings(balloon=True), 0.0)
    fleet.add(watched)
    return watched, Asking(fleet, recorded), recorded


def holding(vm: Watched, resident_mib: int) -> None:
    vm.counts = sampling.Counts(resident_mib * MIB)


def test_steps_of_a_device_are_verified_as_one() -> None:
    vm, asking, recorded = scene()
    holding(vm, 1000)
    for now_s in (0.0, 8.0, 16.0):
        asking.take_done(vm, STEP, now_s)
    assert {action.id for action in recorded.actions} == {1}
    assert recorded.actions[-1].expected_bytes == 3 * STEP.expected_bytes
    holding(vm, 800)
    asking.check(vm, 16.0 + GRACE_S)
    assert (recorded.actions[-1].measured_bytes, vm.promise) == (200 * MIB, None)
    assert recorded.actions[-1].verdict == ""


def test_what_counts_as_delivered_is_nobodys_problem() -> None:
    vm, asking, recorded = scene()
    holding(vm, 1000)
    asking.take_done(vm, STEP, 0.0)
    holding(vm, 942)
    asking.check(vm, GRACE_S)
    assert recorded.actions[-1].verdict == ""
    assert vm.doctor == ()


def test_an_ask_leaves_it_to_the_next_look_to_see_what_moved() -> None:
    vm, asking, _ = scene()
    holding(vm, 1)
    asking.promise(vm, ActionKind.ASK, 1, 64 * MIB, "cold", 0.0)
    assert vm.promise is not None
    assert vm.promise.before_bytes > MIB
    # Else the picture of the host's side would not be carried to what is resident now.
    assert vm.counts == sampling.Counts(MIB)


class Ending:
    """Fallbacks that give back one lease at the start, and one at the end."""

    problems = ()

    def leases(self) -> tuple[()]:
        return ()

    async def recover(self) -> tuple[Action, ...]:
        return (replace(DEFLATED, reason="given back: the manager that took it has ended"),)

    async def release_all(self, deadline_s: float) -> tuple[Action, ...]:
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
        "given back: the manager ends",
    ]
    assert [action.id for action in recorded.actions] == [1, 2]
    assert list(daemon.fleet.actions) == recorded.actions


def test_a_deflation_waits_for_nothing() -> None:
    said = document(DEFLATED)
    assert isinstance(said, dict)
    assert status_command.verdict(said) == "deflate: given back: the manager ends"
    shown = history_chart.actions_text({"actions": [said]})
    assert shown.endswith("deflate  given back: the manager ends")
