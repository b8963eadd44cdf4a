"""The daemon's core among real processes with real RAM: finds, looks, decides, tells, checks."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from recorded_daemon import running
from scripted_guests import MIB, Host, until

from giveback.errors import InputError, VmError
from giveback.manager.daemon import Daemon
from giveback.manager.model import VmCondition, VmStatus


def one(daemon: Daemon, name: str) -> VmStatus:
    found = [vm for vm in daemon.status().vms if vm.name == name]
    return found[0] if found else VmStatus(
        "", name, "", 0, VmCondition.NO_AGENT, "not found", 0, None, None, None
    )  # fmt: skip


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_guest_is_found_seen_from_both_sides_and_told_that_all_is_well(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", cache_mib=16) as guest:
            async with running(host) as (daemon, _):
                await until(lambda: one(daemon, "web").condition is VmCondition.OK)
                await until(lambda: one(daemon, "web").residue_bytes is not None)
                seen = one(daemon, "web")
                assert seen.key == f"qemu:web:{guest.pid}"
                assert seen.ram_bytes == 64 * MIB
                # What the process itself takes meanwhile is counted as the guest's until the next look
                # at its mappings.
                assert abs((seen.resident_bytes or 0) - 48 * MIB) < MIB
                assert abs((seen.needed_bytes or 0) - 48 * MIB) < MIB
                assert seen.rows["cache_clean"] == 16 * MIB
                await until(lambda: guest.heard)
                assert guest.heard[0][0] == 0
                await until(lambda: one(daemon, "web").urgency == 0)
                host.hide(guest.pid)
                guest.end()
                await until(lambda: not daemon.status().vms)

    asyncio.run(scene())


def test_a_short_host_gets_memory_and_what_came_is_checked(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", ram_mib=256, held_mib=224, cache_mib=160) as guest:
            async with running(host) as (daemon, recorded):
                await until(lambda: one(daemon, "web").residue_bytes is not None)
                host.set_available(host.total_bytes // 50)
                await until(lambda: any(urgency >= 1 for urgency, *_ in guest.heard))
                await until(lambda: (one(daemon, "web").resident_bytes or 0) < 80 * MIB)
                await until(lambda: any(a.measured_bytes for a in recorded.actions), "verified")
                asked, done = recorded.actions[0], recorded.actions[-1]
                assert asked.id == done.id
                assert 0 < asked.expected_bytes <= 160 * MIB
                # It is verified once what was expected has come; the rest may still be on its way.
                assert asked.expected_bytes <= (done.measured_bytes or 0) < 164 * MIB
                assert done.verdict == ""
                assert one(daemon, "web").reliability == 1.0
                assert daemon.status().decision is not None

    asyncio.run(scene())


def test_a_daemon_that_only_watches_sends_no_guest_anything(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web", ram_mib=256, held_mib=224, cache_mib=160) as guest:
            async with running(host, acts=False) as (daemon, recorded):
                await until(lambda: one(daemon, "web").residue_bytes is not None)
                host.set_available(host.total_bytes // 50)
                await until(lambda: (d := daemon.status().decision) is not None and d.urgency > 0)
                for asked in (daemon.reclaim(MIB, 1.0), daemon.set_urgency("web", 3, 5.0)):
                    with pytest.raises(InputError, match="only watches"):
                        await asked
                plan = await daemon.reclaim(100 * MIB, 5.0, dry_run=True)
                assert plan.most_bytes > 90 * MIB
            # Its whole life is over, its goodbye included.
            assert guest.heard == []
            assert recorded.actions == []

    asyncio.run(scene())


def test_room_is_made_by_those_that_have_it(host: Host) -> None:
    async def scene() -> None:
        with (
            host.guest("big", ram_mib=256, held_mib=224, cache_mib=160),
            host.guest("small", ram_mib=64, held_mib=32) as small,
        ):
            async with running(host) as (daemon, _):
                await until(lambda: one(daemon, "big").residue_bytes is not None)
                result = await daemon.reclaim(64 * MIB, 20.0)
                assert result.reached, result
                assert [part.vm.split(":")[1] for part in result.parts] == ["big"]
                assert all(urgency == 0 for urgency, *_ in small.heard)
                with pytest.raises(InputError, match="no VM is called 'unknown'"):
                    await daemon.reclaim(MIB, 1.0, ["unknown"])

    asyncio.run(scene())


def test_an_urgency_by_hand_holds_for_its_lease(host: Host) -> None:
    async def scene() -> None:
        with host.guest("web") as guest, host.guest("bare", has_agent=False):
            async with running(host) as (daemon, _):
                await until(lambda: one(daemon, "web").urgency == 0)
                await daemon.set_urgency("web", 2, 1.5)
                await until(lambda: guest.heard[-1][0] == 2)
                assert guest.heard[-1][1] <= 1.5
                await until(lambda: guest.heard[-1][0] == 0, "back to the arbiter's")
                await until(lambda: one(daemon, "bare").pid)
                with pytest.raises(
                    VmError, match="no giveback-agent in this guest, and no port for one"
                ):
                    await daemon.set_urgency("bare", 1, 10)
                with pytest.raises(InputError, match="0 to 3"):
                    await daemon.set_urgency("web", 4, 10)

    asyncio.run(scene())
