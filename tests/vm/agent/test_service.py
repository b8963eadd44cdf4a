"""The agent in real guests: its effects by the kernel's files and by the host's count.

Each test has a service of its own and can be run alone. During a pass the guest is only observed from
outside: by the host, the stream of samples, and the service's own lines. A program started in the guest
makes it busy, which ends the pass on a slow machine.
"""

from __future__ import annotations

import json
import re
import signal
from typing import TYPE_CHECKING, Any

import pytest
from agent_guest import (
    BURN,
    DEEP,
    EDITOR,
    HOG,
    HOLD,
    HOLD_FEW,
    KILLS,
    MIB,
    SOON,
    UNPACKED,
    AgentGuest,
    agent_guest,
)

from giveback_agent.release import percpu_lists
from giveback_agent.service.pass_log import CLASSIC_LINE
from giveback_agent.settings.table import AgentSettings
from giveback_lab.vms.vm import VmSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.lab import Lab

RAM_BYTES = 768 * MIB
FLOOR_BYTES = AgentSettings().cache_floor_bytes
SCALE = 0.6
# The figure that the service promises for an idle guest; how soon is for the benchmark to say.
RESIDUE_BYTES = 40 * MIB
ACTIONS = ("sync", "reclaim", "compact", "drain", "lower", "trigger", "slab", "drop")
ACTION_LINES = tuple(f"giveback-agent: {action}" for action in ACTIONS)
LOOKS = 4


@pytest.fixture(scope="module")
def guest(lab: Lab, accel: Accel) -> Iterator[AgentGuest]:
    """A guest with page reporting, idle after its workload."""
    with agent_guest(VmSpec("agent", RAM_BYTES, 1, accel.name), lab, accel) as booted:
        booted.work(SCALE)
        yield booted


@pytest.fixture(scope="module")
def first(guest: AgentGuest) -> dict[str, Any]:
    """Run the first pass of the service, started like a user does, and then all commands."""
    found: dict[str, Any] = {"before": guest.vm.resident_bytes()}
    residue_bytes = guest.residue_bytes()
    with guest.service(packed=True) as agent:
        took_s = guest.wait(lambda: guest.residue_bytes() < RESIDUE_BYTES, "residue < 40 MiB")
        agent.wait_until_a_pass_is_whole()
        found["after"] = guest.vm.resident_bytes()
        found["residue"] = guest.residue_bytes()
        found["pid"] = agent.pid
        found["lines"] = tuple(agent.lines)
        found["published"] = guest.status()
        found["second"] = guest.agent("run")
        found["status"] = guest.agent("status")
        found["json"] = guest.agent("status", "--json")
        found["picture"] = guest.agent("picture")
        # As a user watches: until the reader of its lines has seen enough.
        watch = f"{' '.join(UNPACKED)} status --watch 0.1"
        found["watch"] = guest.sh(f"{watch} --json 2>&1 | head -n 3")
        found["watched"] = guest.sh(f"{watch} 2>&1 | head -n 12")
        found["published again"] = guest.status()
        for command in ("status", "doctor", "config"):
            found[f"user's {command}"] = guest.agent_as_nobody(command)
        found["user's urgency"] = guest.agent_as_nobody("urgency", "3")
    found["stopped"] = guest.agent("status")
    print(
        f"residue {residue_bytes // MIB} -> {found['residue'] // MIB} MiB, "
        f"below 40 MiB {took_s:.0f} s after the service's start"
    )
    return found


def test_a_watched_status_shows_the_four_parts_again_and_again(first: dict[str, Any]) -> None:
    seen = [json.loads(line) for line in first["watch"].splitlines()]
    assert len(seen) == 3
    assert seen[0]["wall_s"] < seen[1]["wall_s"] < seen[2]["wall_s"]
    for one in seen:
        assert one["running_pid"] == first["pid"]
        parts = [one[f"{part}_bytes"] for part in ("needed", "cache", "trapped", "returned")]
        assert sum(parts) <= one["mem_total_bytes"]
        assert sum(parts) >= 0.95 * one["mem_total_bytes"]
        assert one["trapped_bytes"] < RESIDUE_BYTES
    assert f"agent     pid {first['pid']}, mode " in first["watched"]
    assert "Traceback" not in first["watched"]
    for part in ("needed", "cache", "trapped", "returned"):
        assert part in first["watched"]


def says_nothing_of_acting(lines: list[str]) -> bool:
    return not any(line.startswith(ACTION_LINES) for line in lines)


def is_as_found(guest: AgentGuest) -> bool:
    return guest.order() == 9 and not guest.has_state()


def test_an_idle_guest_has_little_residue(guest: AgentGuest, first: dict[str, Any]) -> None:
    assert first["residue"] < RESIDUE_BYTES
    assert any("lower the report order to 0" in line for line in first["lines"])
    assert is_as_found(guest)


def test_a_pass_is_written_to_the_kernel_log_and_to_status(
    guest: AgentGuest, first: dict[str, Any]
) -> None:
    assert CLASSIC_LINE in guest.sh("dmesg")
    published = first["published"]
    assert published["pid"] == first["pid"]
    assert published["passes"] == len(published["last_passes"]) >= 1
    # On a slow machine, the guest's own start may have stopped a pass, which then began again.
    kinds = [step["kind"] for one in published["last_passes"] for step in one["steps"]]
    assert list(dict.fromkeys(kinds)) == ["sync", "reclaim cold", "drain", "compact"]
    assert "done" in [one["end"] for one in published["last_passes"]]
    assert first["status"].code == 0
    assert f"runs, pid {first['pid']}" in first["status"].text
    in_all = re.search(r"(\d+) in all", first["status"].text)
    assert in_all is not None
    assert int(in_all[1]) >= published["passes"]
    said = json.loads(first["json"].text)
    assert said["running_pid"] == first["pid"]
    assert said["guest"]["report_order"] is not None
    assert said["agent"]["passes"] >= int(in_all[1])


def test_one_moment_is_told_alike_everywhere(guest: AgentGuest, first: dict[str, Any]) -> None:
    """About the last pass and the next amount: the kernel log, `status`, its JSON, the host's report."""
    last = first["published again"]["last_passes"][-1]
    freed_mib, small_mib = last["freed_bytes"] // MIB, last["small_after_bytes"] // MIB
    log = [line for line in guest.sh("dmesg").splitlines() if "giveback: " in line]
    rest = (
        "in small blocks also reported" if last["small_reported"] else "left in small free blocks"
    )
    assert any(
        f": {freed_mib} MiB of cache and slab freed" in line and f"{small_mib} MiB {rest}" in line
        for line in log
    ), (log, last)
    shown = json.loads(first["json"].text)["guest"]
    if first["published again"]["passes"] == first["published"]["passes"]:
        assert f"{freed_mib} MiB freed, {small_mib} MiB {rest}" in first["status"].text
        # The host has back the memory in small blocks that the pass has reported.
        assert shown["trapped_bytes"] < 16 * MIB + shown["small_free_bytes"] // 4
    picture = json.loads(first["picture"].text)
    # Two samples of a guest that runs two commands meanwhile.
    assert abs(picture["would_take_bytes"] - shown["cold_cache_bytes"]) < 16 * MIB
    for floor in ("cache_floor_bytes", "learned_floor_bytes"):
        assert picture[floor] == shown[floor] == first["published again"][floor]


def test_a_stopped_service_is_told(first: dict[str, Any]) -> None:
    assert first["stopped"].code == 3
    assert "does not run" in first["stopped"].text


def test_without_rights_all_is_shown_and_what_is_missing_is_said(first: dict[str, Any]) -> None:
    assert first["user's status"].code == 0
    assert f"runs, pid {first['pid']}" in first["user's status"].text
    assert "not root" in first["user's doctor"].text
    assert "Traceback" not in first["user's doctor"].text
    assert first["user's config"].code == 0
    assert "giveback.mode" in first["user's config"].text
    assert first["user's urgency"].code == 1
    assert "run this as root" in first["user's urgency"].text


def test_a_second_service_refuses_with_the_firsts_pid(first: dict[str, Any]) -> None:
    # Not 2: a manual pass may hold the lock, and systemd is to try again.
    assert first["second"].code == 1
    assert f"pid {first['pid']}" in first["second"].text


def test_a_kill_at_any_step_is_repaired_by_the_next_start(guest: AgentGuest) -> None:
    guest.unpack()
    done = guest.exec("python3", "-c", KILLS, *UNPACKED, *SOON, "run", timeout_s=1200)
    assert done.code == 0, done.text
    kills = [json.loads(line) for line in done.lines]
    print(*(str(kill) for kill in kills), sep="\n")
    assert {(k["signal"], k["at"]) for k in kills if k["lowered"]} == {
        (9, "lowered"), (9, "trigger"), (9, "hold"),
    }  # fmt: skip
    for kill in kills:
        assert kill["next"] == {"order": 9, "state": False, "told": kill["lowered"]}, kill
        assert kill["code"] == (-9 if kill["signal"] == 9 else 0), kill
    assert is_as_found(guest)
    assert guest.sh("ls -A /work/.state") == ""


@pytest.fixture
def fragments(guest: AgentGuest) -> Iterator[None]:
    """Memory in small free blocks."""
    with guest.running("python3", "-c", HOLD) as held:
        held.wait_until_it_says("held")
        yield


@pytest.mark.usefixtures("fragments")
def test_repair_does_what_the_next_start_would(guest: AgentGuest) -> None:
    with guest.service(*DEEP) as agent:
        agent.wait_until_it_says("trigger")
        agent.end(signal.SIGKILL)
    assert guest.order() == 0
    assert "restored: report order 9" in guest.agent("repair").text
    assert is_as_found(guest)
    assert "nothing to repair" in guest.agent("repair").text


@pytest.mark.usefixtures("fragments")
def test_work_that_comes_back_ends_the_pass(guest: AgentGuest) -> None:
    with guest.running("python3", "-c", BURN) as work:
        work.wait_until_it_says("ready")
        with guest.service(*DEEP) as agent:
            agent.wait_until_it_says("trigger")
            work.signal(signal.SIGUSR1)
            took_s = agent.wait_until_it_says("stopped: the guest got busy")
            print(f"the pass ended {took_s:.1f} s after work came back")
            assert is_as_found(guest)


@pytest.mark.usefixtures("fragments")
def test_a_guest_short_of_memory_is_left_alone(guest: AgentGuest) -> None:
    with guest.running("python3", "-c", HOG, "24") as hog:
        hog.wait_until_it_says("full")
        with guest.service(*SOON) as agent:
            agent.wait_looks(LOOKS)
            assert says_nothing_of_acting(agent.lines), agent.lines
            hog.end(signal.SIGKILL)
            agent.wait_until_it_says(*ACTION_LINES)


def test_disabled_does_nothing(guest: AgentGuest) -> None:
    with guest.service("--set", "giveback.mode=disabled") as agent:
        agent.wait_looks(1)
        assert says_nothing_of_acting(agent.lines), agent.lines


def wait_for_urgency(guest: AgentGuest, urgency: int) -> None:
    """Set the urgency, and wait until the service's status shows it."""
    assert guest.agent("urgency", str(urgency), "--for", "3600").code == 0
    guest.wait(lambda: guest.status()["urgency"] == urgency, f"urgency {urgency} in the status")


def test_urgency_3_takes_the_cache_and_urgency_0_does_not(guest: AgentGuest) -> None:
    guest.warm_file("warm", 120)
    with guest.running("python3", "-c", BURN) as work:
        work.wait_until_it_says("ready")
        work.signal(signal.SIGUSR1)
        with guest.service(*SOON) as agent:
            # Nothing is done until the guest's own workload ends.
            before_bytes = guest.cache_bytes()
            wait_for_urgency(guest, 0)
            work.end(signal.SIGKILL)
            guest.wait(lambda: guest.status()["level"] == "idle", "an idle guest", poll_s=3)
            agent.wait_looks(LOOKS)
            assert not agent.says(": reclaim"), agent.lines
            assert guest.cache_bytes() > before_bytes - 16 * MIB
            wait_for_urgency(guest, 3)
            took_s = guest.wait(
                lambda: guest.cache_bytes() < FLOOR_BYTES + 40 * MIB, "the cache's end"
            )
            agent.wait_until_a_pass_ends()
            taken = [line for line in agent.lines if ": reclaim" in line and "cache " in line]
            assert all("urgency 3" in line for line in taken), agent.lines
    cache_bytes = guest.cache_bytes()
    print(f"cache {before_bytes // MIB} -> {cache_bytes // MIB} MiB in {took_s:.1f} s")


@pytest.mark.usefixtures("fragments")
def test_release_deep_prints_each_step_and_ctrl_c_restores(guest: AgentGuest) -> None:
    guest.cold_file("cold", 100)
    guest.unpack()
    release = guest.spawn(*UNPACKED, "release", "--deep")
    release.wait_until_it_says("report order 9 -> 0")
    release.end(signal.SIGINT)
    assert is_as_found(guest)
    assert "Traceback" not in "\n".join(release.lines)
    done = guest.agent("release", "--deep")
    assert done.code == 0, done.text
    for words in (
        "MiB made contiguous",
        "report order 9 -> 0",
        "in small free blocks",
        CLASSIC_LINE,
    ):
        assert words in done.text
    assert is_as_found(guest)
    print(*release.lines, *done.lines, sep="\n")


@pytest.mark.usefixtures("fragments")
def test_without_cgroups_and_debugfs_trapped_memory_still_goes(guest: AgentGuest) -> None:
    guest.unpack()
    guest.sh("umount /sys/fs/cgroup; umount /sys/kernel/debug")
    guest.cold_file("cold", 100)
    try:
        with guest.service(*DEEP) as agent:
            agent.wait_until_it_says("trigger")
            assert not agent.says(": reclaim")
    finally:
        guest.sh(
            "mount -t cgroup2 cgroup2 /sys/fs/cgroup; mount -t debugfs debugfs /sys/kernel/debug"
        )
    assert is_as_found(guest)


def test_memory_on_per_cpu_lists_begins_a_pass_and_goes(guest: AgentGuest) -> None:
    guest.sh("rm -f /work/warm /work/cold /work/churn; echo 3 > /proc/sys/vm/drop_caches")
    with guest.running("python3", "-c", HOLD_FEW) as held:
        held.wait_until_it_says("held")
        with guest.service(*SOON) as agent:
            agent.wait_until_it_says("giveback-agent: drain")
            agent.wait_until_a_pass_ends()
        taken = guest.lists_bytes()
    print(f"{taken // MIB} MiB are left on per-CPU lists")
    assert taken <= 16 * MIB
    assert guest.read(percpu_lists.PATH) == "0"


def test_an_editor_keeps_the_agent_from_little(guest: AgentGuest, first: dict[str, Any]) -> None:
    guest.sh("rm -f /work/warm /work/cold /work/churn")
    guest.work(SCALE)
    before_bytes = guest.vm.resident_bytes()
    most_bytes = first["after"] + (before_bytes - first["after"]) // 5
    with guest.running("python3", "-c", EDITOR), guest.service() as agent:
        took_s = guest.wait(lambda: guest.vm.resident_bytes() <= most_bytes, "80 %")
        agent.wait_until_a_pass_ends()
    after_bytes = guest.vm.resident_bytes()
    print(
        f"resident {before_bytes // MIB} -> {after_bytes // MIB} MiB, 80 % after {took_s:.0f} s; "
        f"idle {first['before'] // MIB} -> {first['after'] // MIB}"
    )
