"""VMs as they come, go and are called; how each stands; what of the settings may change."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback.guest.session import Ended
from giveback.manager import lifecycle
from giveback.manager.decide import schedule
from giveback.manager.decide.promises import Trust
from giveback.manager.fleet import discovery
from giveback.manager.fleet.discovery import Finder, Found
from giveback.manager.fleet.fleet import Errors, Fleet, Watched
from giveback.manager.fleet.status import condition_of, status_of, vm_problems
from giveback.manager.model import ActionKind, ManagerAction, VmCondition
from giveback.manager.settings.load import VmSettings, from_bytes
from giveback.vmm import base
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import Channel, ChannelKind, RamBlock, VmDescription, VmState

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1 << 20
PORT = Channel(ChannelKind.VIRTIO_SERIAL, "/run/web.sock")


def watched(name: str = "web", pid: int = 1, channel: Channel | None = PORT) -> Watched:
    channels = (channel,) if channel else ()
    vm = VmDescription("qemu", name, pid, MIB, (), channels=channels)
    return Watched(Found(base.key_of(vm), QemuBackend(), vm, 1, -1), VmSettings(), 0.0)


@given(st.text(st.characters(), min_size=1, max_size=100))
def test_a_key_is_safe_whatever_the_name(name: str) -> None:
    key = base.key_of(VmDescription("qemu", name, 7, MIB, ()))
    assert key.isascii()
    assert key.isprintable()
    assert "/" not in key
    assert key.count(":") == 2


def test_qemus_guest_agent_is_no_channel_to_our_agent() -> None:
    guest_agent = Channel(ChannelKind.QEMU_GUEST_AGENT, "/run/qga.sock")
    vm = watched(channel=guest_agent)
    assert vm.vmm.agent_channel is None
    vm.vmm.describe(replace(vm.vmm.description, channels=(guest_agent, PORT)))
    assert vm.vmm.agent_channel == PORT


def test_a_vm_is_chosen_by_key_name_or_pid() -> None:
    fleet = Fleet()
    for pid, name in ((1, "web"), (2, "db"), (3, "db")):
        fleet.add(watched(name, pid))
    assert fleet.chosen("web").pid == 1
    assert fleet.chosen("3").pid == 3
    assert fleet.chosen("qemu:db:2").pid == 2
    with pytest.raises(InputError, match="several VMs are called 'db'"):
        fleet.chosen("db")
    with pytest.raises(InputError, match="no VM is called"):
        fleet.chosen("mail")
    fleet.remove(fleet.chosen("web"))
    assert set(fleet.pids) == {2, 3}


def of_user(number: int, uid: int | None, blocks: int = 0) -> Watched:
    ram = tuple(RamBlock(f"block-{number}", MIB) for number in range(blocks))
    vm = VmDescription("qemu", f"vm{number}", number, MIB, ram)
    found = Found(base.key_of(vm), QemuBackend(), vm, 1, -1, uid)
    return Watched(found, VmSettings(), 0.0)


def test_one_user_takes_at_most_three_quarters_of_the_places() -> None:
    fleet = Fleet(8)
    added = [fleet.add(of_user(number, 1000)) for number in range(20)]
    assert added == [True] * 6 + [False] * 14
    # A range of subordinate uids is one user's.
    fleet.remove(fleet.chosen("vm0"))
    assert fleet.add(of_user(30, 200_000))
    assert fleet.add(of_user(31, 200_001))
    assert fleet.add(of_user(32, 0))
    assert not fleet.add(of_user(33, 0))
    assert fleet.problems == (
        "14 VMs of uid 1000 are not watched: there are too many, or their command lines are too long",
        "1 VMs of uid 0 are not watched: there are too many, or their command lines are too long",
    )
    fleet.forget_refused({33})
    assert [text.split(" are")[0] for text in fleet.problems] == ["1 VMs of uid 0"]
    fleet.remove(fleet.chosen("vm1"))
    assert fleet.add(of_user(33, 0))
    assert not list(fleet.problems)


def test_what_is_told_of_all_vms_together_is_limited() -> None:
    fleet = Fleet()
    assert not fleet.add(of_user(0, 1000, blocks=50_000))
    added = sum(fleet.add(of_user(number, 1000, blocks=1500)) for number in range(1, 400))
    assert 100 < added < 399
    assert fleet.add(of_user(1000, 1001, blocks=1500))
    other = fleet.chosen("vm1000")
    assert not fleet.charge(other, "x" * (1 << 20))
    for vm in list(fleet):
        fleet.remove(vm)
    assert fleet.add(of_user(1, 1000, blocks=1500))


@given(st.lists(st.integers(0, 4), max_size=30))
def test_each_owner_has_its_turn(owners: list[int]) -> None:
    places = list(range(len(owners)))
    order = schedule.in_turn(places, owners)
    assert sorted(order) == places
    for owner in set(owners):
        first = [owners[place] for place in order[: len(set(owners))]]
        assert owner in first
        mine = [place for place in order if owners[place] == owner]
        assert mine == sorted(mine)


def test_kinds_of_errors_are_bounded() -> None:
    errors = Errors()
    for number in range(100):
        errors.add(f"kind {number}")
    assert len(errors.counts) == 33
    assert sum(errors.counts.values()) == 100


def test_an_action_that_is_known_is_replaced_and_old_ones_go() -> None:
    fleet = Fleet()
    first = ManagerAction(fleet.next_action_id(), 0.0, "a", ActionKind.ASK, 1, 5, "")
    fleet.record(first)
    fleet.record(replace(first, measured_bytes=4))
    assert [a.measured_bytes for a in fleet.actions] == [4]
    for _ in range(500):
        fleet.record(replace(first, id=fleet.next_action_id()))
    assert len(fleet.actions) == 200


def test_how_a_vm_stands_the_worst_first() -> None:
    vm = watched(channel=None)
    assert condition_of(vm)[0] is VmCondition.NO_AGENT
    vm = watched()
    condition, text = condition_of(vm)
    assert condition is VmCondition.NO_AGENT
    assert text == "no giveback-agent in this guest: giveback doctor web says how to install it"
    vm.guest.had_agent = True
    assert condition_of(vm)[0] is VmCondition.SILENT
    vm.channel.held_by_another = True
    assert condition_of(vm)[0] is VmCondition.BUSY_CHANNEL
    vm.vmm.state = VmState(running=False)
    assert condition_of(vm)[0] is VmCondition.PAUSED
    vm.channel.hostile_at_s = 1.0
    assert condition_of(vm)[0] is VmCondition.HOSTILE
    vm.host.unreadable = "no right"
    assert condition_of(vm) == (VmCondition.UNREADABLE, "no right")
    vm.settings = VmSettings(ignore=True)
    assert condition_of(vm) == (VmCondition.IGNORED, "ignored by its settings")
    vm.request.doctor = ("it may be busy",)
    assert vm_problems([status_of(vm, 0.0)]) == ()
    short = watched()
    short.guest.had_agent, short.request.trust = True, Trust(0.2, 3)
    short.channel.session = object()  # type: ignore[assignment]
    assert condition_of(short)[0] is VmCondition.SHORT


def test_a_hostile_guest_is_left_alone_longer_each_time() -> None:
    async def scene() -> None:
        vm, waits = watched(), []
        for _ in range(12):
            vm.channel.ended(Ended.FLOOD)
            waits.append(vm.channel.hostile_until_s - asyncio.get_running_loop().time())
        assert waits[0] >= 14
        assert max(waits) <= 1350
        assert waits[-1] > 400
        assert vm.errors.counts["flood"] == 12

    asyncio.run(scene())


def proc(root: Path, pid: int, *words: str) -> None:
    (root / f"proc/{pid}").mkdir(parents=True, exist_ok=True)
    (root / f"proc/{pid}/cmdline").write_bytes("\0".join(words).encode() + b"\0")
    (root / f"proc/{pid}/stat").write_text(f"{pid} (qemu) " + " ".join(map(str, range(3, 53))))


def scan(finder: Finder, is_known: Callable[[int], bool]) -> list[Found]:
    return list(asyncio.run(finder.scan(is_known)))


def test_a_process_that_becomes_a_vm_is_found_and_an_old_one_is_hardly_looked_at(
    tmp_path: Path,
) -> None:
    me = os.getpid()
    finder = Finder(str(tmp_path), [QemuBackend(str(tmp_path))])
    proc(tmp_path, me, "bash")
    assert scan(finder, lambda _pid: False) == []
    proc(tmp_path, me, "qemu-system-x86_64", "-m", "64M", "-name", "web")
    (found,) = scan(finder, lambda _pid: False)
    os.close(found.pidfd)
    assert found.key == f"qemu:web:{me}"
    assert found.start_ticks == 22
    assert scan(finder, lambda pid: pid == me) == []
    late = Finder(str(tmp_path), [QemuBackend(str(tmp_path))])
    proc(tmp_path, me, "bash")
    for _ in range(4):
        assert scan(late, lambda _pid: False) == []
    proc(tmp_path, me, "qemu-system-x86_64", "-m", "64M", "-name", "web")
    seen = [vm for _ in range(30) for vm in scan(late, lambda _pid: False)]
    assert len(seen) >= 1
    for vm in seen:
        os.close(vm.pidfd)
    assert not discovery.has_ended(str(tmp_path), me, 22)
    assert discovery.has_ended(str(tmp_path), me, 23)


def test_what_changes_only_at_a_restart_is_named() -> None:
    before = from_bytes(b"", "a")
    after = from_bytes(b'[history]\nlimit = "1G"\n[vm.web]\nfloor = "1G"\n', "b")
    assert lifecycle.fixed(before, after) == ["history.limit"]
    assert lifecycle.fixed(before, before) == []
