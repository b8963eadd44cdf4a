"""Ended cgroups are noticed by one count, and their cache is measured and reclaimed."""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest
from agent_guests import ABLE
from agent_kernel_samples import GUEST, plant

from giveback_agent.policy import adaptive
from giveback_agent.policy.actions import BeginPass, ReclaimEnded
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.observation import GuestObservation
from giveback_agent.release.observe import take
from giveback_agent.service import end_watch
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
    assert watch.needs_polling
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
    assert not EndWatch(str(plant(tmp_path, GUEST))).needs_polling


def test_the_kernel_tells_of_an_end_below_each_cgroup_with_children(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dnotify works on any file system: a signal comes if a folder is removed, and only then."""
    mount = guest / "sys/fs/cgroup"
    (mount / "machine.slice/one.scope").mkdir(parents=True)
    (mount / "user.slice").mkdir()
    # Not every file system counts subfolders as links, as the kernel's own do.
    monkeypatch.setattr(end_watch, "_links", lambda path: 2 + len([*Path(path).iterdir()]))
    readable, writable = os.pipe()
    os.set_blocking(writable, False)
    kept = signal.signal(signal.SIGIO, lambda _number, _frame: None)
    kept_fd = signal.set_wakeup_fd(writable)
    watch = EndWatch(str(guest))
    try:
        watch.ask_for_signals(1.0)
        assert not watch.needs_polling
        (mount / "user.slice/later.scope").mkdir(parents=True)
        assert not select.select([readable], [], [], 0)[0], "a new cgroup has not ended"
        (mount / "machine.slice/one.scope").rmdir()
        count(guest, 4)
        watch.wait([readable], readable, 60.0)
        assert watch.rose
        watch.rose = False
        # A new cgroup with children is found at a later sample, as there are more cgroups then.
        (mount / "cgroup.stat").write_text("nr_descendants 19\nnr_dying_descendants 4\n")
        watch.poll()
        watch.ask_for_signals(1.0 + end_watch.SCAN_PERIOD_S)
        (mount / "user.slice/later.scope").rmdir()
        assert select.select([readable], [], [], 60)[0]
    finally:
        watch.close()
        signal.set_wakeup_fd(kept_fd)
        signal.signal(signal.SIGIO, kept)
        os.close(readable)
        os.close(writable)


def test_the_descriptors_of_the_watch_are_bounded(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(end_watch, "WATCHED_LIMIT", 3)
    monkeypatch.setattr(end_watch, "_links", lambda path: 2 + len([*Path(path).iterdir()]))
    for number in range(20):
        (guest / f"sys/fs/cgroup/{number}.slice/one").mkdir(parents=True)
    kept = signal.signal(signal.SIGIO, signal.SIG_IGN)
    watch = EndWatch(str(guest))
    try:
        watch.ask_for_signals(1.0)
        assert len(watch._watched) == 3
        assert not watch.needs_polling
    finally:
        watch.close()
        signal.signal(signal.SIGIO, kept)
    assert not watch._watched


def seen(guest: Path, busy_percent: float, level: str, ended_mib: int) -> GuestObservation:
    activity = idleness.Activity(at_s=100.0, level=level, busy_percent=busy_percent)
    return GuestObservation(take(str(guest), 100.0), activity, ended_bytes=ended_mib * MIB)


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
