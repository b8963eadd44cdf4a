"""The service on a fake root: no file and no errno may end it, and it restores its changes."""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from agent_guests import snapshot
from agent_kernel_samples import BALLOON_FEATURES, GUEST, plant

from giveback_agent.host_link.link import UrgencyMessage
from giveback_agent.policy import actions as act
from giveback_agent.policy import adaptive, busy_steps, report_hold, thresholds, wsl_modes
from giveback_agent.policy.activity import idleness, polling
from giveback_agent.policy.observation import (
    URGENCY_ALONE,
    URGENCY_STARVING,
    StepOutcome,
)
from giveback_agent.policy.release_pass import Pass
from giveback_agent.release import report_order, steps
from giveback_agent.runtime import run_dir
from giveback_agent.runtime.worker import CRASHED, DONE, FAILED, Worker
from giveback_agent.service import pass_log, status_file
from giveback_agent.service.loop import PROBE_PERIOD_S, Service
from giveback_agent.service.status_file import LEVEL_PUBLISH_S, URGENCY_PUBLISH_S
from giveback_agent.settings.table import AgentSettings
from giveback_kernel import files, page_reporting, reclaim, swaps
from giveback_kernel.errors import KernelFileError
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.record import replace

MIB = 1 << 20


@pytest.fixture
def guest(tmp_path: Path) -> Path:
    """A fake root with a real guest's files."""
    plant(tmp_path, GUEST)
    run_dir.make_folder(str(tmp_path))
    return tmp_path


def service_of(guest: Path, said: list[str] | None = None) -> Service:
    lines: list[str] = [] if said is None else said
    return Service(str(guest), AgentSettings(), lines.append)


def tick(service: Service) -> None:
    service._tick()


def wait_for(worker: Worker) -> int:
    code = None
    while code is None:
        code = worker.poll()
    return code


def test_it_survives_a_guest_without_any_file(tmp_path: Path) -> None:
    said: list[str] = []
    service = service_of(tmp_path, said)
    for _ in range(5):
        tick(service)
    assert len([line for line in said if "No such file" in line]) == 1


@pytest.mark.parametrize(
    "content", [b"", b"\xff\x00", b"cpu", b"MemTotal: -1 kB\n", b"9" * 2_000_000]
)
def test_it_survives_any_content(guest: Path, content: bytes) -> None:
    service = service_of(guest)
    for path in [p for p in guest.rglob("*") if p.is_file()]:
        kept = path.read_bytes()
        path.write_bytes(content)
        tick(service)
        path.write_bytes(kept)
    tick(service)


def test_it_starts_where_the_order_is_unset_and_no_block_order_is_told(guest: Path) -> None:
    (guest / page_reporting.ORDER_PATH[1:]).write_text("-1\n")
    (guest / "proc/pagetypeinfo").write_text("a format to come\n")
    assert service_of(guest)._can.order is None


def test_the_service_survives_a_lack_of_descriptors(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = service_of(guest)

    def refuse() -> tuple[int, int]:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(os, "pipe", refuse)
    service._steps.queue = [act.TriggerReporting()]
    tick(service)
    assert service._steps.queue == []


def test_a_closed_stderr_is_survived(monkeypatch: pytest.MonkeyPatch) -> None:
    from giveback_agent.commands.run import say

    monkeypatch.setattr("sys.stderr", None)
    say("lost")


@pytest.mark.parametrize("number", sorted(errno.errorcode))
def test_every_write_may_fail_with_any_errno(
    guest: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(root: str, path: str, text: str) -> None:
        raise KernelFileError(path, os.strerror(number), number)

    monkeypatch.setattr(files, "write", refuse)
    said: list[str] = []
    service = service_of(guest, said)
    service._do(act.LowerOrder(order=0), _snapshot(service))
    service._start_next(0.0)
    assert not service._steps.lowered
    for step in (act.ReclaimSlab(), act.Reclaim(amount_bytes=1 << 20), act.Compact()):
        service._steps.outcome = None
        service._steps.queue.append(step)
        service._start_next(0.0)
        worker = service._steps.worker
        assert worker is not None
        wait_for(worker)
        service._steps.worker = None
    service._close()


def _snapshot(service: Service):  # type: ignore[no-untyped-def]
    from giveback_agent.release.observe import take

    return take(service._root, 1.0)


def test_a_pass_under_way_is_restored_when_the_service_stops(guest: Path) -> None:
    order = guest / page_reporting.ORDER_PATH[1:]
    order.parent.mkdir(parents=True, exist_ok=True)
    order.write_text("9\n")
    service = service_of(guest)
    service._steps.queue.append(act.LowerOrder(order=0))
    service._start_next(0.0)
    assert order.read_text().strip() == "0"
    service._close()
    assert order.read_text().strip() == "9"


def test_an_order_that_could_not_be_restored_is_restored_later(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = guest / page_reporting.ORDER_PATH[1:]
    service = service_of(guest)
    service._steps.start(act.LowerOrder(order=0), 0.0)
    snapshot = _snapshot(service)
    with monkeypatch.context() as broken:

        def refuse(root: str, path: str, text: str) -> None:
            raise KernelFileError(path, os.strerror(errno.EIO), errno.EIO)

        broken.setattr(files, "write", refuse)
        for kind in (act.RestoreOrder, act.EndPass):
            service._do(kind("the guest got busy"), snapshot)
        assert order.read_text().strip() == "0"
    tick(service)
    assert order.read_text().strip() == "9"


def test_a_guest_that_cannot_be_seen_gets_its_order_back(guest: Path) -> None:
    order = guest / page_reporting.ORDER_PATH[1:]
    service = service_of(guest)
    service._steps.start(act.LowerOrder(order=0), 0.0)
    service._state = replace(service._state, current=Pass())
    (guest / "proc/meminfo").unlink()
    tick(service)
    assert order.read_text().strip() == "9"


def test_a_closed_terminal_stops_it_in_order(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Not for the rest of the tests in this process.
    monkeypatch.setattr("giveback_agent.service.loop.become_idle_class", lambda: True)
    service, kept = service_of(guest), signal.getsignal(signal.SIGHUP)
    service._steps.start(act.LowerOrder(order=0), 0.0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    service._greet = lambda: os.kill(os.getpid(), signal.SIGHUP)  # type: ignore[method-assign]
    restored = {
        n: signal.getsignal(n)
        for n in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGCHLD)
    }
    try:
        assert service.run() == 0
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGHUP, kept)
        for number, handler in restored.items():
            signal.signal(number, handler)
    assert (guest / page_reporting.ORDER_PATH[1:]).read_text().strip() == "9"


def test_a_balloon_that_comes_late_is_found(guest: Path) -> None:
    said: list[str] = []
    service = service_of(guest, said)
    device = guest / "sys/bus/virtio/devices/virtio3"
    (device / "driver").mkdir(parents=True)
    (device / "device").write_bytes(b"0x0005\n")
    (device / "features").write_bytes(BALLOON_FEATURES)
    service._probe_again(time.monotonic())
    assert said == []
    service._probe_again(time.monotonic() + PROBE_PERIOD_S)
    assert service._can.reporting
    assert said == ["giveback-agent: page reporting is active now"]


def test_after_a_killed_agent_the_kernels_own_order_counts(guest: Path) -> None:
    order = guest / page_reporting.ORDER_PATH[1:]
    report_order.lower(str(guest), 0)
    service = service_of(guest)
    service._greet()
    assert order.read_text().strip() == "9"
    assert service._can.order == 9


def test_sigusr1_without_a_written_urgency_means_urgency_3_for_a_minute(guest: Path) -> None:
    service = service_of(guest)
    service._on_urgency(signal.SIGUSR1, None)
    now_s = time.monotonic()
    assert service._need.urgency(now_s) == URGENCY_STARVING
    assert service._need.urgency(now_s + 61) == URGENCY_ALONE


def test_a_goal_of_the_hosts_keeps_the_rest_of_the_cache(guest: Path) -> None:
    service = service_of(guest)
    cache_bytes = read_meminfo(str(guest)).file_bytes
    service._need.hear(UrgencyMessage(2, 9.0, 10 * MIB), 1e9, service._totals)
    assert service._need.kept_cache_bytes == cache_bytes - 10 * MIB
    service._need.hear(UrgencyMessage(2, 9.0, cache_bytes + 1), 1e9, service._totals)
    assert service._need.kept_cache_bytes == 0
    service._need.hear(UrgencyMessage(2, 9.0, 10 * MIB), 1e9, service._totals)
    # A request from the guest itself has no amount.
    service._on_urgency(signal.SIGUSR1, None)
    assert service._need.kept_cache_bytes == 0


def test_an_urgency_that_was_written_counts_until_its_end(guest: Path) -> None:
    service = service_of(guest)
    now_s = time.monotonic()
    run_dir.write_urgency(str(guest), 2, now_s + 30)
    service._on_urgency(signal.SIGUSR1, None)
    assert service._need.urgency(now_s) == 2
    assert service._need.urgency(now_s + 31) == URGENCY_ALONE


@pytest.mark.parametrize("mode", ["disabled", "dropcache", "gradual"])
def test_wsls_modes_poll_as_seldom_as_wsl(guest: Path, mode: str) -> None:
    service = Service(str(guest), AgentSettings(mode=mode), lambda _: None)
    assert service._period_s() == wsl_modes.POLL_PERIOD_S


def test_a_quiet_guest_gets_a_snapshot_at_once_if_its_memory_has_changed(guest: Path) -> None:
    """`make clean` and `drop_caches` use little CPU, and once went unnoticed for up to a minute."""
    service = service_of(guest)
    service._decide(time.monotonic())
    assert service._last is not None
    service._activity = replace(service._activity, level=idleness.IDLE)
    service._pace = polling.Pace(polls=polling.QUIET_SNAPSHOT_EVERY)
    assert not service._is_decision_due(time.monotonic())
    memory = service._last.meminfo
    much_bytes = thresholds.least_bytes(memory)
    for moved in (
        replace(memory, mem_free_bytes=memory.mem_free_bytes - much_bytes),
        replace(memory, active_file_bytes=memory.active_file_bytes + much_bytes),
    ):
        service._last = replace(service._last, meminfo=moved)
        service._pace = polling.Pace(polls=polling.QUIET_SNAPSHOT_EVERY)
        assert service._is_decision_due(time.monotonic())


def test_cheap_files_are_read_once_per_tick(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service, read = service_of(guest), files.read
    service._decide(time.monotonic())
    paths: list[str] = []

    def count(root: str, path: str, *limit: int) -> bytes:
        paths.append(path)
        return read(root, path, *limit)

    monkeypatch.setattr(files, "read", count)
    monkeypatch.setattr(adaptive.PolicyState, "is_step_due", lambda *_: True)
    monkeypatch.setattr(polling, "is_turn", lambda *_: False)
    monkeypatch.setattr(polling, "has_moved", lambda *_: True)
    for ticks in (1, 2):
        tick(service)
        assert [paths.count(one) for one in ("/proc/stat", "/proc/meminfo")] == [ticks, ticks]
        assert paths.count("/proc/buddyinfo") == ticks


def test_a_busy_guest_is_only_sampled(guest: Path) -> None:
    service = service_of(guest)
    service._activity = replace(service._activity, level=idleness.BUSY)
    assert not service._is_decision_due(0.0)


def test_while_the_kernel_reports_snapshots_are_taken_at_its_pace_only(guest: Path) -> None:
    service = service_of(guest)
    hold = report_hold.Hold.begin(100.0, None)
    service._state = replace(service._state, current=Pass(hold=hold))
    service._activity = replace(service._activity, level=idleness.IDLE)
    service._last = replace(_snapshot(service), monotonic_s=100.0)
    assert not service._is_decision_due(101.0)
    assert service._is_decision_due(102.0)
    service._activity = replace(service._activity, level=idleness.BUSY)
    assert service._is_decision_due(101.0)
    service._activity = replace(service._activity, level=idleness.SPARE)
    assert service._is_decision_due(101.0)
    service._activity = replace(service._activity, level=idleness.IDLE)
    service._need.lease = (URGENCY_STARVING, 200.0)
    assert service._is_decision_due(101.0)


def test_a_worker_says_how_it_ended() -> None:
    assert wait_for(Worker("a", lambda: None, 0.0, 1.0)) == DONE

    def fail() -> None:
        raise KernelFileError("/proc/x", "no")

    def crash() -> None:
        raise RuntimeError

    assert wait_for(Worker("a", fail, 0.0, 1.0)) == FAILED
    assert wait_for(Worker("a", crash, 0.0, 1.0)) == CRASHED


def test_a_worker_that_hangs_can_be_abandoned() -> None:
    worker = Worker("a", signal.pause, 10.0, 5.0)
    assert worker.poll() is None
    assert worker.overdue(15.1)
    assert not worker.overdue(14.9)
    worker.abandon()
    assert wait_for(worker) == -signal.SIGKILL


def test_steps_exist_for_all_that_runs_in_a_worker() -> None:
    for kind in act.WorkerStep.__subclasses__():
        assert callable(steps.EXECUTE[kind])
        assert kind.deadline_s > 0


def test_every_step_can_be_executed_and_nothing_else_can() -> None:
    every = {*act.ReleaseStep.__subclasses__(), *act.WorkerStep.__subclasses__()}
    assert set(steps.EXECUTE) == every - {act.WorkerStep}
    kinds = [kind.kind for kind in every - {act.WorkerStep}]
    assert all(kinds)
    assert len(set(kinds)) == len(kinds)


@pytest.mark.parametrize(
    ("step", "event", "words"),
    [
        (act.Sync(), "sync", "sync"),
        (act.ReclaimSlab(), "slab", "slab"),
        (act.ReclaimCold("cold cache", 5 << 20), "reclaim", "reclaim 5 MiB: cold cache"),
        (act.Reclaim("the host needs it", 7 << 20), "reclaim", "reclaim 7 MiB: the host needs it"),
        (act.DropCaches("the host needs it"), "reclaim", "drop: the host needs it"),
        (act.Compact("9 MiB are trapped"), "compact", "compact: 9 MiB are trapped"),
        (act.DrainLists(), "drain", "drain: per-CPU lists"),
        (act.LowerOrder("it is left", 3), "deep", "lower the report order to 3: it is left"),
        (act.TriggerReporting(), "trigger", "trigger: start a reporting cycle"),
    ],
)
def test_a_step_is_sent_to_the_host_and_logged_in_the_journal(
    guest: Path, monkeypatch: pytest.MonkeyPatch, step: act.ReleaseStep, event: str, words: str
) -> None:
    said: list[str] = []
    sent: list[dict[str, object]] = []
    service = Service(str(guest), AgentSettings(dry_run=True), said.append)
    monkeypatch.setattr(service._link, "send", lambda **event: sent.append(event))
    service._steps.queue.append(step)
    service._start_next(1.0)
    assert said == [f"giveback-agent: {words}"]
    assert sent == [{"event": "step", "step": event, "text": words}]
    assert service._steps.outcome == StepOutcome(step.kind, ok=True)


def record_of(*kinds_and_ends: tuple[str, str]) -> pass_log.PassRecord:
    """Return the record of a pass in which each of these steps freed 5 MiB."""
    log = pass_log.PassLog()
    log.start(snapshot(0.0), "idle")
    for kind, end in kinds_and_ends:
        free = 805 if kind != act.Compact.kind else 800
        trapped = 295 if kind == act.Compact.kind else 300
        outcome = StepOutcome(kind, end == "done")
        log.note(outcome, snapshot(1.0), snapshot(2.0, free=free, trapped=trapped))
    record = log.finish(snapshot(12.0), "done")
    assert record is not None
    return record


def test_the_kernel_logs_line_has_the_words_users_grep_for() -> None:
    record = record_of((act.ReclaimCold.kind, "done"), (act.Compact.kind, "done"))
    line = pass_log.words(record, pass_log.CLASSIC_LINE)
    assert line.startswith("giveback: performing memory compaction: 5 MiB of cache and slab freed")
    assert "5 MiB made contiguous" in line
    assert pass_log.words(record, pass_log.WSL_LINE).startswith(
        "WSL2: Performing memory compaction"
    )


def test_what_came_from_per_cpu_lists_is_told_apart() -> None:
    record = record_of((act.ReclaimCold.kind, "done"), (act.DrainLists.kind, "done"))
    line = pass_log.words(record, pass_log.CLASSIC_LINE)
    assert "5 MiB of cache and slab freed, 5 MiB taken from per-CPU lists" in line


def test_drained_lists_have_an_outcome(guest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    for refused in ("", "no such setting"):
        monkeypatch.setattr(steps, "drain_lists", lambda _, refused=refused: refused)
        service = service_of(guest, said)
        service._steps.queue.append(act.DrainLists())
        service._start_next(time.monotonic())
        outcome = service._steps.outcome
        assert outcome is not None
        assert outcome.ok == (not refused)
    assert said[-1].endswith("the per-CPU lists are not drained: no such setting")


@pytest.mark.parametrize(
    "steps", [(), ((act.ReclaimCold.kind, "done"),), ((act.Compact.kind, "failed"),)]
)
def test_a_pass_that_compacted_nothing_does_not_say_so(steps: tuple[tuple[str, str], ...]) -> None:
    line = pass_log.words(record_of(*steps), pass_log.WSL_LINE)
    freed_mib = 5 if act.ReclaimCold.kind in dict(steps) else 0
    assert line.startswith(f"giveback: giving memory back: {freed_mib} MiB of cache and slab freed")
    assert "compaction" not in line
    assert "contiguous" not in line


def published(guest: Path) -> tuple[int, str]:
    said = json.loads((guest / status_file.STATUS_PATH[1:]).read_text())
    return said["urgency"], said["level"]


def test_urgency_and_level_are_published_when_they_change_and_no_oftener(guest: Path) -> None:
    service = service_of(guest)
    service._greet()
    assert published(guest) == (URGENCY_ALONE, idleness.BUSY)
    now_s = service._published.at_s
    service._need.lease = (3, now_s + 3600)
    service._publish_changes(now_s + 0.5 * URGENCY_PUBLISH_S)
    assert published(guest)[0] == URGENCY_ALONE
    service._publish_changes(now_s + URGENCY_PUBLISH_S + 0.01)
    assert published(guest)[0] == 3
    now_s = service._published.at_s
    service._activity = replace(service._activity, level=idleness.IDLE)
    service._publish_changes(now_s + 0.5 * LEVEL_PUBLISH_S)
    assert published(guest)[1] == idleness.BUSY
    service._publish_changes(now_s + LEVEL_PUBLISH_S + 0.01)
    assert published(guest) == (3, idleness.IDLE)


def test_what_has_not_changed_is_not_published_again(guest: Path) -> None:
    service = service_of(guest)
    service._greet()
    (guest / status_file.STATUS_PATH[1:]).unlink()
    service._publish_changes(service._published.at_s + 10 * LEVEL_PUBLISH_S)
    assert not (guest / status_file.STATUS_PATH[1:]).exists()


def test_a_dry_run_says_that_nothing_was_done(guest: Path) -> None:
    said: list[str] = []
    service = Service(str(guest), AgentSettings(dry_run=True), said.append)
    service._do(act.BeginPass("idle"), _snapshot(service))
    service._do(act.EndPass("done"), _snapshot(service))
    assert said[-1].endswith("dry run: nothing was changed")


def test_without_swappiness_and_with_swap_the_cache_is_dropped_and_nothing_swapped(
    guest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[tuple[str, str]] = []

    def old_kernel(root: str, path: str, text: str) -> None:
        written.append((path, text))
        if "swappiness" in text:
            raise KernelFileError(path, "Invalid argument", errno.EINVAL)

    monkeypatch.setattr(files, "write", old_kernel)
    monkeypatch.setattr(reclaim, "root_reclaim_path", lambda _: "/sys/fs/cgroup/memory.reclaim")
    monkeypatch.setattr(swaps, "may_swap", lambda _: True)
    steps.reclaim_in_chunks(str(guest), 1 << 30, swap=False)
    assert [text for _, text in written if "swappiness" not in text] == []
    steps.reclaim_in_chunks(str(guest), 1 << 30, swap=False, may_drop=True)
    assert [text for _, text in written if "swappiness" not in text] == ["1"]
    written.clear()
    monkeypatch.setattr(swaps, "may_swap", lambda _: False)
    steps.reclaim_in_chunks(str(guest), 64 << 20, swap=False)
    assert all("drop_caches" not in path for path, _ in written)


def test_in_a_pass_our_system_time_hides_no_work(guest: Path) -> None:
    """4 CPUs: the worker compacts on one (system), the work uses three (user): that is busy."""
    service = service_of(guest)
    (guest / "proc/77").mkdir()

    class Compacting:
        pid = 77

    service._steps.worker = Compacting()  # type: ignore[assignment]
    for second in range(3):
        stat = f"cpu  {300 * second} 0 {100 * second} 0 0 0 0 0\n"
        (guest / "proc/stat").write_text(stat + "cpu0\ncpu1\ncpu2\ncpu3\n")
        words = ["77", "(agent)"] + ["0"] * 50
        words[14] = str(100 * second)
        (guest / "proc/77/stat").write_text(" ".join(words))
        service._sample(float(second), ours=True)
    service._steps.worker = None
    assert service._activity.level == idleness.BUSY


def test_a_worker_that_cannot_be_killed_does_not_end_all_work(guest: Path) -> None:
    class Stuck:
        """As one in an uninterruptible sleep: a signal is sent and nothing comes of it."""

        kind, pid, started_s, deadline_s, abandoned, cpu_s = (
            act.Sync.kind,
            1 << 22,
            0.0,
            20.0,
            False,
            0.0,
        )
        overdue, is_lost = Worker.overdue, Worker.is_lost
        user_s, ended = 0.0, False

        def poll(self) -> int | None:
            return 0 if self.ended else None

        def abandon(self) -> None:
            self.abandoned = True

    stuck = Stuck()
    service = service_of(guest)
    service._steps.worker = stuck  # type: ignore[assignment]
    for second in range(40):
        service._steps.reap(float(second))
    assert service._steps.worker is None
    assert service._steps.outcome == StepOutcome(act.Sync.kind, False, True, 31.0)
    service._steps.outcome = None
    service._steps.queue = [act.Sync()]
    service._start_next(41.0)
    assert service._steps.worker is None
    assert service._steps.outcome == StepOutcome(act.Sync.kind, ok=False)
    stuck.ended = True
    service._steps.reap(50.0)
    assert service._steps._lost == []


def test_looks_while_it_rests_are_not_the_quick_ones(guest: Path) -> None:
    """A pass that the workload stopped begins again when the rest is over, not a minute later."""
    service = service_of(guest)
    service._activity = replace(service._activity, level=idleness.IDLE)
    service._state = replace(service._state, rest_until_s=100.0)
    assert not any(service._is_decision_due(float(second)) for second in range(80, 100, 2))
    assert service._is_decision_due(100.0)


def test_a_poll_does_not_count_while_a_guest_settles_again(guest: Path) -> None:
    """A snapshot was once taken 3 s before a pass may begin, and the next came 30 s later."""
    service = service_of(guest)
    service._pace = polling.Pace(polls=11)
    settling = replace(service._activity, level=idleness.SPARE, at_s=100.0, idle_since_s=100.0)
    service._activity = replace(settling, spare_since_s=0.0, work_cpu_s=5.0)
    assert not service._is_decision_due(100.0)
    service._activity = replace(service._activity, level=idleness.IDLE, at_s=103.0)
    assert service._is_decision_due(103.0)


@pytest.mark.parametrize(("busy_ticks", "looks"), [(600, 0), (0, 41)])
def test_a_burst_between_two_distant_polls_is_followed_by_quick_ones(
    guest: Path, busy_ticks: int, looks: int
) -> None:
    """10 s of two CPUs are less than 60 % of such an interval: its cache once stayed for a minute."""
    service = service_of(guest)
    stat = guest / "proc/stat"
    user = 0

    def look(now_s: float, ticks: int) -> None:
        nonlocal user
        user += ticks
        idle = int(now_s * 200) - user
        stat.write_text(f"cpu {user} 0 0 {idle} 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n"
                        "cpu1 0 0 0 0 0 0 0 0 0 0\n")  # fmt: skip
        service._sample(now_s, False)

    look(1000.0, 0)
    look(1010.0, 0)
    service._pace = polling.Pace(polls=41)
    look(1020.0, busy_ticks)
    assert service._activity.level != idleness.BUSY
    look(1022.0, 0)
    assert service._pace.polls == looks


@pytest.mark.parametrize(
    ("busy_percent", "since_s", "lowered"),
    [(50.0, 0.0, True), (95.0, 0.0, False), (50.0, busy_steps.MOST_LOWERED_S, False)],
)
def test_a_short_report_of_a_guest_at_work_is_held_no_longer_than_it_may(
    guest: Path, busy_percent: float, since_s: float, lowered: bool
) -> None:
    order, service = guest / page_reporting.ORDER_PATH[1:], service_of(guest)
    service._steps.start(act.LowerOrder(order=3), 0.0)
    now_s = time.monotonic()
    begun = busy_steps.Begun(act.LowerOrder.kind, busy_steps.Counts(now_s - since_s))
    service._state = replace(service._state, busy=busy_steps.BusySteps(begun=begun))
    # A sample as young as this is not judged again.
    activity = replace(service._activity, at_s=now_s, cpustat=service._totals.cpustat())
    service._activity = replace(activity, level=idleness.SPARE, busy_percent=busy_percent)
    assert service._period_s() == polling.REPORT_POLL_S
    tick(service)
    assert order.read_text().strip() == ("3" if lowered else "9")
    assert service._state.in_short_report is lowered
    service._close()
    assert order.read_text().strip() == "9"


def test_a_goal_that_is_sent_again_asks_for_nothing_more(guest: Path) -> None:
    service = service_of(guest)
    meminfo = guest / "proc/meminfo"
    text, cache_bytes = meminfo.read_text(), read_meminfo(str(guest)).file_bytes
    kept_bytes = cache_bytes - 40 * MIB

    def hear(goal_bytes: int, number: int | None, urgency: int = 1) -> int:
        message = UrgencyMessage(urgency, 9.0, goal_bytes, "reclaim", number)
        service._need.hear(message, 1e9, service._totals)
        return service._need.kept_cache_bytes

    assert hear(40 * MIB, 7) == kept_bytes
    # 10 MiB are taken, and the host has not seen them yet.
    files = re.compile(r"^Inactive\(file\): *([0-9]+)", re.MULTILINE)
    meminfo.write_text(files.sub(lambda m: f"Inactive(file): {int(m[1]) - (10 << 10)}", text))
    assert read_meminfo(str(guest)).file_bytes == cache_bytes - 10 * MIB
    assert hear(40 * MIB, 7, urgency=2) == kept_bytes
    # It has seen more than was taken: the guest itself needed less.
    assert hear(5 * MIB, 7) == cache_bytes - 15 * MIB
    assert hear(40 * MIB, 8) == kept_bytes - 10 * MIB
    assert hear(40 * MIB, None) == kept_bytes - 10 * MIB


def test_status_names_the_setter_of_the_urgency_and_its_end(guest: Path) -> None:
    service = Service(str(guest), AgentSettings(), print)
    now_s = time.monotonic()
    assert service._need.fields(now_s) == {
        "urgency": URGENCY_ALONE, "urgency_by": "", "urgency_until_s": None,
    }  # fmt: skip
    for by in ("host", "reclaim", "manual"):
        service._need.hear(UrgencyMessage(2, 30.0, None, by), now_s + 30, service._totals)
        assert service._need.fields(now_s) == {
            "urgency": 2, "urgency_by": by, "urgency_until_s": now_s + 30,
        }  # fmt: skip
    assert service._need.fields(now_s + 31)["urgency_by"] == ""
    service._on_urgency(signal.SIGUSR1, None)
    assert service._need.fields(now_s)["urgency_by"] == "signal"
    run_dir.write_urgency(str(guest), 3, time.monotonic() + 30)
    service._on_urgency(signal.SIGUSR1, None)
    assert service._need.fields(now_s)["urgency_by"] == "command"
    service._close()


@pytest.mark.parametrize(
    ("step", "left_bytes"),
    [
        (act.ReclaimCold("cold", 1 << 20, with_ended=False), 90 << 20),
        (act.Sync(), 90 << 20),
        (act.ReclaimCold("cold", 1 << 20), 0),
        (act.ReclaimEnded(), 0),
    ],
)
def test_what_ended_cgroups_left_is_remembered_until_a_step_takes_it(
    guest: Path, step: act.ReleaseStep, left_bytes: int
) -> None:
    """After a regretted reclaim of ended cgroups' cache, a pass for cold cache leaves that cache alone."""
    service = Service(str(guest), AgentSettings(dry_run=True), print)
    service._ended.left_bytes = 90 << 20
    service._steps.queue.append(step)
    service._start_next(1.0)
    assert service._ended.left_bytes == left_bytes
    service._close()
