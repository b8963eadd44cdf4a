"""`reclaim` among real processes with real RAM: who is asked, how urgently, and what it says came."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from recorded_daemon import running
from scripted_guests import GIB, MIB, Host, until

from giveback.manager.daemon import Daemon
from giveback.manager.decide import reclaim_plan
from giveback.manager.model import ActionKind, VmCondition, VmStatus
from giveback.reporters import daemon_status


def one(daemon: Daemon, name: str) -> VmStatus:
    return next(vm for vm in daemon.status().vms if vm.name == name)


def is_lent(daemon: Daemon, name: str) -> bool:
    return daemon.fleet.chosen(name).is_port_lent


async def known(daemon: Daemon, *names: str) -> None:
    """Until both sides of these VMs are known."""

    def are() -> bool:
        found = {vm.name: vm for vm in daemon.status().vms}
        return all(name in found and found[name].residue_bytes is not None for name in names)

    await until(are, f"{names} are known")


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


@pytest.mark.parametrize("kind", ["keeps", "tells floor"])
def test_an_idle_guest_that_keeps_a_learned_floor_gives_when_urgency_rises(
    host: Host, kind: str
) -> None:
    async def scene() -> None:
        with host.guest("web", kind, ram_mib=512, held_mib=448, cache_mib=384) as guest:
            async with running(host) as (daemon, recorded):
                await known(daemon, "web")
                result = await daemon.reclaim(100 * MIB, 12.0, ["web"])
                assert result.reached, result
                assert result.parts[0].words == "as promised"
                told = [urgency for urgency, *_ in guest.heard]
                # Who tells its floor is not asked in vain first.
                assert (1 in told) == (kind == "keeps")
                assert 2 in told
                assert 3 not in told
                # No more than was wanted, and the pages around it.
                assert result.returned_bytes <= 108 * MIB
                assert one(daemon, "web").condition is VmCondition.OK
                # So much has moved that the report of before is not used: there is a new one.
                assert one(daemon, "web").cache_bytes is not None
                (whole,) = recorded.of(ActionKind.RECLAIM)
                assert (whole.expected_bytes, whole.verdict) == (100 * MIB, "")
                assert whole.measured_bytes == result.returned_bytes
                floor = one(daemon, "web").learned_floor_bytes
                assert (floor is None) == (kind == "keeps")

    asyncio.run(scene())


def test_no_more_is_taken_than_is_wanted(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", "exact", ram_mib=512, held_mib=448, cache_mib=420) as guest:
            async with running(host) as (daemon, _):
                await known(daemon, "web")
                result = await daemon.reclaim(60 * MIB, 20.0)
                assert result.reached, result
                assert 60 * MIB <= result.returned_bytes <= 68 * MIB
                assert guest.goals[0] == 60 * MIB
                # The goal ends with the reclaim.
                await until(lambda: guest.heard[-1][0] == 0)

    asyncio.run(scene())


def test_who_has_less_gives_all_of_it_and_it_is_said_at_once(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", "exact", ram_mib=512, held_mib=448, cache_mib=384):
            async with running(host) as (daemon, recorded):
                await known(daemon, "web")
                plan = await daemon.reclaim(8 * GIB, 30.0, dry_run=True)
                # 64 MiB of cache no agent takes.
                assert abs(plan.most_bytes - 320 * MIB) < MIB
                assert plan.parts[0].expected_bytes == plan.most_bytes
                assert "320 MiB cold: costs little" in plan.parts[0].words
                assert recorded.actions == []
                result = await daemon.reclaim(8 * GIB, 30.0)
                assert not result.reached
                # It did not wait for what cannot come.
                assert result.took_s < 10
                assert plan.most_bytes - MIB <= result.returned_bytes <= plan.most_bytes + MIB

    asyncio.run(scene())


def test_it_refuses_at_once_where_no_vm_can_be_asked(host: Host) -> None:
    async def scene() -> None:
        with (
            host.guest("bare", has_agent=False),
            host.guest("small", ram_mib=64, held_mib=32) as small,
        ):
            async with running(host) as (daemon, recorded):
                await known(daemon, "small")
                result = await daemon.reclaim(4 * GIB, 30.0)
                assert (result.most_bytes, result.returned_bytes) == (0, 0)
                assert result.took_s < 5
                words = {part.vm.split(":")[1]: part.words for part in result.parts}
                assert "no agent answers" in words["bare"]
                assert "too little above its floors" in words["small"]
                assert all(urgency == 0 for urgency, *_ in small.heard)
                # A reclaim that was not begun is not recorded.
                assert recorded.actions == []
                await daemon.set_urgency("small", 0, 60)
                (part,) = (await daemon.reclaim(MIB, 5.0, ["small"])).parts
                assert "a manual urgency of 0 protects its cache" in part.words

    asyncio.run(scene())


def test_what_others_return_by_themselves_is_told_apart(host: Host) -> None:
    async def scene() -> None:
        with (
            host.guest("asked", "keeps", ram_mib=512, held_mib=448, cache_mib=384),
            host.guest("other", "exact", ram_mib=256, held_mib=224, cache_mib=160),
        ):
            async with running(host) as (daemon, _):
                await known(daemon, "asked", "other")
                asking = asyncio.create_task(daemon.reclaim(100 * MIB, 9.0, ["asked"]))
                # On a busy machine it may be at the next urgency before this is seen.
                await until(lambda: (one(daemon, "asked").urgency or 0) >= 1)
                # It gets a manual urgency meanwhile; the reclaim has not asked it.
                await daemon.set_urgency("other", 1, 30)
                result = await asking
                assert result.reached
                assert 100 * MIB <= result.returned_bytes <= 108 * MIB
                assert [part.vm.split(":")[1] for part in result.parts] == ["asked"]
                assert 150 * MIB <= result.others_returned_bytes <= 170 * MIB
                assert result.available_before_bytes == host.total_bytes // 2

    asyncio.run(scene())


def test_a_port_that_another_client_has_for_a_moment_is_waited_for(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine takes longer to come back to the port.
    monkeypatch.setattr(reclaim_plan, "_ANSWERS_S", 30.0)

    async def scene() -> None:
        with host.guest("web", "exact", ram_mib=512, held_mib=448, cache_mib=384) as guest:
            async with running(host) as (daemon, _):
                await known(daemon, "web")
                with socket.socket(socket.AF_UNIX) as other:
                    other.connect(str(guest.port))
                    await until(lambda: is_lent(daemon, "web"))
                    asking = asyncio.create_task(daemon.reclaim(100 * MIB, 90.0))
                    # It has looked at the VM by now.
                    await asyncio.sleep(0)
                    assert is_lent(daemon, "web")
                result = await asking
                assert result.reached, result
                assert result.returned_bytes <= 108 * MIB

    asyncio.run(scene())


def test_what_a_manual_urgency_brings_is_not_the_reclaims(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", "keeps", ram_mib=512, held_mib=448, cache_mib=384) as guest:
            async with running(host) as (daemon, recorded):
                await known(daemon, "web")
                asking = asyncio.create_task(daemon.reclaim(100 * MIB, 60.0, ["web"]))
                await until(lambda: one(daemon, "web").urgency == 1)
                seen = one(daemon, "web")
                assert seen.urgency_by == "reclaim"
                assert seen.urgency_left_s is not None
                assert 60.0 < seen.urgency_left_s < 90.0
                await daemon.set_urgency("web", 2, 300)
                seen = one(daemon, "web")
                assert (seen.urgency, seen.urgency_by) == (2, "manual")
                assert 290.0 < (seen.urgency_left_s or 0.0) <= 300.0
                # Nobody is left to ask: it does not wait for its time to be over.
                result = await asyncio.wait_for(asking, 20.0)
                assert result.returned_bytes < MIB
                # A busy guest may still be at it when the reclaim ends: what comes is not the reclaim's.
                await until(lambda: (one(daemon, "web").resident_bytes or GIB) < 160 * MIB)
                (part,) = result.parts
                assert "a manual urgency replaced the request" in part.words
                assert part.urgency == 1
                (whole,) = recorded.of(ActionKind.RECLAIM)
                assert (whole.measured_bytes or 0) < MIB
                assert guest.setters == ["host", "reclaim", "manual"]
                (part,) = (await daemon.reclaim(MIB, 5.0, ["web"])).parts
                assert "a manual urgency of 2 holds for" in part.words

    asyncio.run(scene())


def test_two_reclaims_are_two_records(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", "exact", ram_mib=512, held_mib=448, cache_mib=384):
            async with running(host) as (daemon, recorded):
                await known(daemon, "web")
                for goal_bytes in (60 * MIB, 90 * MIB):
                    assert (await daemon.reclaim(goal_bytes, 20.0)).reached
                whole = recorded.of(ActionKind.RECLAIM)
                assert [action.expected_bytes for action in whole] == [60 * MIB, 90 * MIB]
                for action in whole:
                    came = action.measured_bytes or 0
                    # A page or two of the interpreter that plays the guest come and go meanwhile.
                    assert action.expected_bytes - MIB < came <= action.expected_bytes + 8 * MIB
                # What each asked of the VM is not merged either.
                asks = recorded.of(ActionKind.ASK)
                assert [ask.expected_bytes for ask in asks] == [60 * MIB, 90 * MIB]
                # Nothing is awaited any more once `reclaim` has ended, nor is it held against the VM.
                assert all(ask.measured_bytes is not None for ask in asks)
                assert "awaited" not in daemon_status.text(daemon.status(), 0.0)
                assert one(daemon, "web").condition is VmCondition.OK

    asyncio.run(scene())


def test_the_record_names_the_vms_that_were_asked_and_no_others(host: Host) -> None:
    async def scene() -> None:
        with (
            host.guest("web", "exact", ram_mib=512, held_mib=448, cache_mib=384),
            host.guest("small", ram_mib=64, held_mib=32),
            host.guest("bare", has_agent=False),
        ):
            async with running(host) as (daemon, recorded):
                await known(daemon, "web", "small")
                asking = asyncio.create_task(daemon.reclaim(60 * MIB, 20.0))
                await until(lambda: recorded.of(ActionKind.RECLAIM))
                (begun,) = recorded.of(ActionKind.RECLAIM)
                assert (await asking).reached
                (whole,) = recorded.of(ActionKind.RECLAIM)
                assert begun.reason == whole.reason or "whichever VM" in begun.reason
                assert whole.vm == one(daemon, "web").key
                assert whole.reason == f"asked of {whole.vm}"
                # Who is named and gives nothing was not asked either.
                result = await daemon.reclaim(40 * MIB, 20.0, ["web", "small", "bare"])
                assert result.reached
                assert recorded.of(ActionKind.RECLAIM)[-1].reason == f"asked of {whole.vm}"

    asyncio.run(scene())


def test_a_vm_that_keeps_all_is_judged_when_the_reclaim_ends(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", "promises", ram_mib=512, held_mib=448, cache_mib=384):
            async with running(host) as (daemon, recorded):
                await known(daemon, "web")
                result = await daemon.reclaim(100 * MIB, 12.0)
                assert not result.reached
                (ask,) = recorded.of(ActionKind.ASK)
                assert ask.measured_bytes is not None
                assert ask.verdict
                assert one(daemon, "web").reliability is not None

    asyncio.run(scene())


def test_a_dry_run_and_the_reclaim_ask_the_same(host: Host) -> None:
    async def scene() -> None:
        with (
            host.guest("big", "exact", ram_mib=512, held_mib=448, cache_mib=384),
            host.guest("mid", "exact", ram_mib=256, held_mib=224, cache_mib=160),
            host.guest("bare", has_agent=False),
        ):
            async with running(host) as (daemon, recorded):
                await known(daemon, "big", "mid")
                plan = await daemon.reclaim(400 * MIB, 20.0, dry_run=True)
                planned = {part.vm: part.expected_bytes for part in plan.parts}
                await daemon.reclaim(400 * MIB, 20.0)
                first: dict[str, int] = {}
                for action in recorded.of(ActionKind.ASK):
                    first.setdefault(action.vm, action.expected_bytes)
                assert {vm: goal for vm, goal in planned.items() if goal} == first
                assert sum(first.values()) == 400 * MIB

    asyncio.run(scene())


def test_a_kernel_that_can_only_drop_all_cache_is_not_asked_for_an_amount(host: Host) -> None:
    async def scene() -> None:
        with host.guest("old", "whole only", ram_mib=512, held_mib=448, cache_mib=420):
            async with running(host) as (daemon, recorded):
                await known(daemon, "old")
                result = await daemon.reclaim(100 * MIB, 30.0)
                assert (result.returned_bytes, result.took_s < 5) == (0, True)
                (part,) = result.parts
                assert "can only drop all of it" in part.words
                assert "`giveback-agent urgency 3`" in part.words
                assert recorded.of(ActionKind.ASK) == []
                # A manual urgency names no amount.
                await daemon.set_urgency("old", 3, 60)
                await until(lambda: (one(daemon, "old").resident_bytes or GIB) < 200 * MIB)

    asyncio.run(scene())
