"""Ends of cgroups are noticed by one count, and what they left is measured and asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_guests import ABLE
from agent_kernel_samples import GUEST, plant

from giveback_agent.policy import adaptive, idleness
from giveback_agent.policy.actions import BeginPass, ReclaimEnded
from giveback_agent.policy.observation import GuestObservation
from giveback_agent.release.observe import take
from giveback_agent.service.end_watch import EndWatch
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.record import replace

MIB = 1 << 20
MOUNTINFO = b"30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def count(root: Path, dying: int) -> None:
    (root / "sys/fs/cgroup/cgroup.stat").write_text(
        f"nr_descendants 9\nnr_dying_descendants {dying}\n"
    )


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    plant(tmp_path, {**GUEST, "/proc/self/mountinfo": MOUNTINFO, "/sys/fs/cgroup/cgroup.stat": b""})
    count(tmp_path, 3)
    return tmp_path


def test_only_a_count_that_rises_is_an_end(guest: Path) -> None:
    watch = EndWatch(str(guest))
    assert watch.is_on
    assert not watch.poll()
    count(guest, 2)
    assert not watch.poll()
    count(guest, 3)
    assert watch.poll()
    count(guest, 1)
    assert watch.poll(), "until it was looked after"
    watch.rose = False
    assert not watch.poll()
    watch.close()
    assert not watch.poll()


@pytest.mark.parametrize("content", [b"", b"\xff", b"nr_dying_descendants -1\n", b"x" * 5000])
def test_any_content_is_survived(guest: Path, content: bytes) -> None:
    watch = EndWatch(str(guest))
    (guest / "sys/fs/cgroup/cgroup.stat").write_bytes(content)
    assert not watch.poll()
    watch.close()


def test_without_cgroups_nothing_is_polled(tmp_path: Path) -> None:
    assert not EndWatch(str(plant(tmp_path, GUEST))).is_on


def seen(guest: Path, busy_percent: float, level: str, ended_mib: int) -> GuestObservation:
    gate = idleness.GateState(at_s=100.0, level=level, busy_percent=busy_percent)
    return GuestObservation(take(str(guest), 100.0), gate, ended_bytes=ended_mib * MIB)


@pytest.mark.parametrize(
    ("busy", "level", "ended_mib", "wanted"),
    [
        (1.0, idleness.IDLE, 300, True),
        (50.0, idleness.BUSY, 300, True),
        (95.0, idleness.BUSY, 300, False),
        (50.0, idleness.BUSY, 5, False),
    ],
)
def test_what_ended_cgroups_left_goes_while_others_work(
    guest: Path, busy: float, level: str, ended_mib: int, wanted: bool
) -> None:
    done = adaptive.PolicyState(after_pass=take(str(guest), 99.0))
    can = replace(ABLE, cold_method="generations")
    actions, state = adaptive.decide(
        seen(guest, busy, level, ended_mib), done, AgentSettings(cache_floor_bytes=1 << 50), can
    )
    assert any(isinstance(one, ReclaimEnded) for one in actions) == wanted
    assert any(isinstance(one, BeginPass) for one in actions) == (level == idleness.IDLE)
    if level == idleness.BUSY and wanted:
        running = replace(seen(guest, busy, level, ended_mib), running=ReclaimEnded.kind)
        assert adaptive.decide(running, state, AgentSettings(), can)[0] == (), "it need not end"
        again, _ = adaptive.decide(seen(guest, busy, level, ended_mib), state, AgentSettings(), can)
        assert again == (), "once in a while"
