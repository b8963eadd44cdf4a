"""The service: sample, decide, act, verify and log, until a signal stops it.

Every read and write here may fail. A failure is logged, and never ends the service.
"""

from __future__ import annotations

import os
import time

from giveback_agent.host_link.link import Link, UrgencyMessage
from giveback_agent.policy import adaptive, thresholds
from giveback_agent.policy.actions import (
    Abandon,
    BeginPass,
    EndPass,
    ReleaseStep,
    RestoreOrder,
)
from giveback_agent.policy.activity import idleness, polling
from giveback_agent.policy.observation import (
    NO_METHOD,
    URGENCY_ALONE,
    URGENCY_NONE,
    URGENCY_STARVING,
    GuestObservation,
    why_not_reported,
)
from giveback_agent.release import report_order, steps
from giveback_agent.release.capabilities import probe
from giveback_agent.release.observe import Totals, take
from giveback_agent.runtime import signals
from giveback_agent.runtime.worker import TICKS_PER_S, become_idle_class, cpu_s_of
from giveback_agent.service import cpu_weight, pass_log, status_file
from giveback_agent.service.ended_cache import EndedCache
from giveback_agent.service.executor import Executor
from giveback_agent.service.host_need import HostNeed
from giveback_kernel.errors import KernelFileError
from giveback_kernel.pressure import pressure_or_none
from giveback_kernel.units import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.policy.actions import Action
    from giveback_agent.policy.observation import Snapshot
    from giveback_agent.policy.wsl_modes import WslState
    from giveback_agent.settings.table import AgentSettings

MIB = 1 << 20
# A probe reads the kernel log: at most 0.1 s of CPU, and only in a guest without page reporting.
PROBE_PERIOD_S = 600.0


class Service:
    """The agent's service in a guest. `say` gets lines for the journal."""

    def __init__(
        self,
        root: str,
        settings: AgentSettings,
        say: Callable[[str], None],
        under_wsl: bool = False,
    ) -> None:
        self._root = root
        self._settings = settings
        self._say = say
        self._classic_line = pass_log.WSL_LINE if under_wsl else pass_log.CLASSIC_LINE
        self._link = Link(root)
        self._link.promise = self._promise
        self._can = probe(root, settings.swap)
        self._state = adaptive.PolicyState()
        self._wsl_state: WslState | None = None
        self._activity = idleness.Activity()
        self._is_quiet = False
        self._passes = pass_log.PassLog()
        self._steps = Executor(root, settings, self._passes, self._journal, self._refused)
        self._totals = Totals(root)
        self._own_cpu_s = self._own_cpu()
        self._stop = False
        self._ended = EndedCache(root)
        self._cpu_weight = cpu_weight.CpuWeight(root)
        self._pace = polling.Pace()
        self._need = HostNeed(root)
        self._before: Snapshot | None = None
        self._last: Snapshot | None = None
        self._last_error = ""
        self._started_s = time.monotonic()
        self._published = status_file.Published(self._started_s)
        self._next_probe_s = self._started_s + PROBE_PERIOD_S / 10
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Serve until SIGTERM, SIGINT or SIGHUP; return the exit code. Changed settings are restored."""
        become_idle_class()
        signals.set_wakeup_fd(self._wake_write)
        for number in (signals.SIGTERM, signals.SIGINT):
            signals.signal(number, self._on_stop)
        # SIGHUP: the terminal of a manual start was closed. Under nohup it is ignored.
        if signals.getsignal(signals.SIGHUP) != signals.SIG_IGN:
            signals.signal(signals.SIGHUP, self._on_stop)
        signals.signal(signals.SIGUSR1, self._on_urgency)
        # A worker that ends wakes the service, so that the next step does not wait for the next tick.
        signals.signal(signals.SIGCHLD, lambda _number, _frame: None)
        # A cgroup that ends wakes it too.
        signals.signal(signals.SIGIO, lambda _number, _frame: None)
        self._ended.watch.ask_for_signals(time.monotonic())
        self._ended.begin(self._can.cold_method)
        self._greet()
        try:
            while not self._stop:
                self._tick()
                self._wait(self._period_s())
        finally:
            self._close()
        return 0

    def _greet(self) -> None:
        self._repair()
        self._journal(f"started, mode {self._settings.mode}")
        why_not = why_not_reported(self._can.reporting, self._settings.page_reporting)
        if why_not:
            self._journal(
                f"{why_not}: no memory is compacted or reported; see `giveback-agent doctor`"
            )
        self._publish()

    def _repair(self) -> None:
        """Restore the settings that an earlier agent left changed when it was killed."""
        from giveback_agent.service.repair import repair_all

        self._cpu_weight.give_back()
        done = repair_all(self._root)
        for line in done.restored:
            self._journal(f"{line} restored after a killed agent")
        for line in done.failed:
            self._complain(line)
        if done.order is not None:
            # The first probe saw the order that the killed agent had set.
            self._can = probe(self._root, self._settings.swap)

    def _close(self) -> None:
        self._steps.abandon()
        self._steps.restore_limits()
        self._restore("the agent stops")
        self._cpu_weight.give_back()
        self._publish(running=False)
        self._link.close()
        self._ended.watch.close()

    def _on_stop(self, number: int, frame: object) -> None:
        del number, frame
        self._stop = True

    def _on_urgency(self, number: int, frame: object) -> None:
        """Handle SIGUSR1: read the host's urgency."""
        del number, frame
        self._need.read_written(time.monotonic())
        self._pace = polling.Pace()

    def _wait(self, period_s: float) -> None:
        waited_for = [self._wake_read]
        if self._link.fileno() >= 0:
            waited_for.append(self._link.fileno())
        self._ended.watch.wait(waited_for, self._wake_read, period_s)

    def _hear(self, now_s: float) -> None:
        """Handle the messages from the host."""
        for message in self._link.receive(now_s):
            if isinstance(message, UrgencyMessage):
                until_s = now_s + message.lease_s
                self._need.hear(message, until_s, self._totals)
                self._pace = polling.Pace()

    def _press(self, pressing: bool) -> None:
        """At urgency 3 (`pressing`), compete with the workload for CPU instead of waiting for idle CPU."""
        children = (self._steps.worker and self._steps.worker.pid, self._link.answering_pid)
        pressing = pressing and self._settings.mode == "adaptive" and not self._settings.dry_run
        refused = self._cpu_weight.press(pressing, (os.getpid(), *[pid for pid in children if pid]))
        if refused:
            self._complain(refused)

    def _in_pass(self) -> bool:
        return self._state.in_pass or (self._wsl_state is not None and self._wsl_state.in_pass)

    def _period_s(self) -> float:
        if self._state.in_short_report:
            return polling.REPORT_POLL_S
        acts = self._steps.worker is not None or self._in_pass() or self._steps.queue
        if acts or self._ended.watch.rose:
            return polling.PASS_PERIOD_S
        if self._settings.mode != "adaptive":
            # WSL's own period. With a shorter one, polling alone would use its 0.5 % of a slow CPU.
            return polling.QUIET_PERIOD_S
        return polling.period_s(self._pace, self._activity)

    def _tick(self) -> None:
        """Sample the guest once and act on it."""
        now_s = time.monotonic()
        ours = self._steps.worker is not None or self._in_pass()
        self._steps.reap(now_s)
        self._hear(now_s)
        self._press(self._need.urgency(now_s) >= URGENCY_STARVING)
        try:
            self._sample(now_s, ours)
            self._measure_ended(now_s)
            if self._is_decision_due(now_s):
                self._decide(now_s)
            self._last_error = ""
        except KernelFileError as error:
            self._complain(str(error))
            # The workload may be back unnoticed: the order must not stay lowered.
            self._restore("the guest cannot be seen")
        changed = self._steps.lowered or self._steps.hurried
        if changed and not self._in_pass() and not self._state.in_short_report:
            self._restore("tried again")
        self._start_next(now_s)
        self._probe_again(now_s)
        self._publish_changes(now_s)

    def _complain(self, text: str) -> None:
        """Log a failure once; again only after it was over."""
        if text != self._last_error:
            self._last_error = text
            self._journal(f"{text}")

    def _sample(self, now_s: float, ours: bool) -> None:
        """Judge how busy the guest is. `ours`: a step or a pass is under way, which also causes stalls.

        Then only user time counts as the workload's: the kernel's system time may be for the agent, as it
        reports at a low order or writes for a sync. CPU time of a worker itself is known.
        """
        self._totals.forget()
        if self._activity.at_s and 0 <= now_s - self._activity.at_s < idleness.SHORTEST_INTERVAL_S:
            # The interval would be too short to judge, so nothing is read.
            return
        own = self._own_cpu()
        # In a pass only user time counts, so only the agent's user time is subtracted.
        used_s = own[ours] - self._own_cpu_s[ours]
        stalls = idleness.Stalls()
        cpustat = self._totals.cpustat()
        self._is_quiet = idleness.is_quiet(self._activity, cpustat, used_s, TICKS_PER_S)
        # Reading PSI costs CPU time, which a guest without spare CPU pays only at urgency 3.
        working = (
            not idleness.has_spare_cpu(self._activity.busy_percent)
            and self._activity.at_s is not None
        )
        if not (ours or self._is_quiet) and (not working or self._cpu_weight.pressing):
            stalls = self._stalls()
        before = self._activity
        self._activity = idleness.judge(
            before, now_s, cpustat, max(0.0, used_s), stalls,
            self._settings.idle_busy_percent, self._settings.idle_window_s, TICKS_PER_S, ours,
        )  # fmt: skip
        if self._activity.at_s == now_s:
            self._own_cpu_s = own
        self._pace = polling.after_poll(self._pace, before, self._activity)

    def _stalls(self) -> idleness.Stalls:
        memory, io = pressure_or_none("memory", self._root), pressure_or_none("io", self._root)
        return idleness.stalls_of(memory, io)

    def _own_cpu(self) -> tuple[float, float]:
        """Return the CPU seconds of the agent and all that it started: in total, and user time alone."""
        used, link = os.times(), self._link
        total_s = used.user + used.system + self._steps.cpu_s + link.answer_cpu_s
        user_s = used.user + self._steps.user_s + link.answer_user_s
        for pid in (self._steps.worker and self._steps.worker.pid, link.answering_pid):
            child_user_s, child_system_s = cpu_s_of(self._root, pid) if pid else (0.0, 0.0)
            total_s += child_user_s + child_system_s
            user_s += child_user_s
        return total_s, user_s

    def _has_ended_cache(self, now_s: float) -> bool:
        """Tell whether a pass could begin for the cache of ended cgroups."""
        wanted = self._need.urgency(now_s) > URGENCY_NONE and self._can.cold_method != NO_METHOD
        return wanted and self._ended.is_wanted(now_s, self._state.ended_regret)

    def _measure_ended(self, now_s: float) -> None:
        """Measure the cache of cgroups that have ended; decide at once if it is worth a step."""
        may_measure = self._settings.mode == "adaptive" and self._steps.worker is None
        may_measure = may_measure and not self._in_pass()
        if self._ended.measure(now_s, may_measure, self._can.cold_method):
            self._pace = polling.Pace()

    def _is_decision_due(self, now_s: float) -> bool:
        """Tell whether to take a full snapshot and decide.

        A full snapshot is expensive: none is taken while the guest is busy, and few while it is quiet.
        """
        if self._steps.worker is not None or self._steps.outcome is not None:
            return True
        if self._has_ended_cache(now_s) and not self._in_pass():
            return True
        if self._in_pass():
            return not self._may_wait(now_s)
        if self._state.busy is not None and self._state.busy.lowers:
            from giveback_agent.policy import busy_steps

            reports = report_order.read_reports(self._root)
            return not busy_steps.may_wait(self._state.busy, self._activity, now_s, reports)
        if self._settings.mode != "adaptive":
            return True
        if self._need.urgency(now_s) <= URGENCY_ALONE:
            idle = self._activity.level == idleness.IDLE
            resting = idle and adaptive.must_rest(self._state, self._activity, now_s)
            working = not idle and not self._state.is_step_due(self._activity, now_s)
            if resting or working or polling.is_settling(self._activity):
                # No step may begin yet, whatever a snapshot would show, so this poll does not count.
                self._pace = polling.held_up(self._pace, self._activity)
                return False
            if not idle:
                return True
        self._pace = polling.counted(self._pace)
        return polling.is_turn(self._pace, self._activity) or self._has_moved()

    def _has_moved(self) -> bool:
        """Tell whether memory has changed much since the last snapshot; it cannot in a quiet guest."""
        if self._is_quiet and self._last is not None:
            return False
        last, now = self._last, self._totals.meminfo()
        least_bytes = thresholds.least_bytes(now)
        return last is None or polling.has_moved(last.meminfo, now, least_bytes)

    def _may_wait(self, now_s: float) -> bool:
        """Tell whether the poll of a lowered order can wait: the guest is idle and the urgency unchanged."""
        current, last = self._state.current, self._last
        if current is None or current.hold is None or last is None:
            return False
        if self._activity.level != idleness.IDLE or self._need.urgency(now_s) > current.urgency:
            return False
        return current.hold.may_wait(now_s, last.monotonic_s)

    def _decide(self, now_s: float) -> None:
        own_order = self._can.order if self._steps.lowered else None
        snapshot = take(
            self._root,
            now_s,
            detail=not self._in_pass(),
            report_order=own_order,
            totals=self._totals,
        )
        self._last, self._pace = snapshot, polling.after_snapshot(self._pace, self._activity)
        running = None if self._steps.worker is None else self._steps.worker.kind
        if running is None:
            self._account(snapshot)
        at_work = self._activity.level != idleness.IDLE and not self._in_pass()
        seen = GuestObservation(
            snapshot,
            self._activity,
            self._need.urgency(now_s),
            running,
            self._steps.outcome,
            self._steps.lowered,
            report_order.read_reports(self._root) if self._steps.lowered or at_work else None,
            self._ended.left_bytes,
            self._stalls() if at_work else idleness.Stalls(),
            sum(os.times()[:4]),
            self._need.kept_cache_bytes,
        )
        if running is None:
            self._steps.outcome = None
            if self._steps.queue:
                return
        for action in self._actions(seen):
            self._do(action, snapshot)

    def _actions(self, seen: GuestObservation) -> tuple[Action, ...]:
        """Return the actions of the policy for the mode in the settings."""
        if self._settings.mode == "adaptive":
            actions, self._state = adaptive.decide(seen, self._state, self._settings, self._can)
            return actions
        # Imported here: 20 KiB that few guests need.
        from giveback_agent.policy import wsl_modes

        state = self._wsl_state or wsl_modes.WslState()
        actions, self._wsl_state = wsl_modes.decide(seen, state, self._settings, self._can)
        return actions

    def _do(self, action: Action, snapshot: Snapshot) -> None:
        if isinstance(action, ReleaseStep):
            self._steps.queue.append(action)
        elif isinstance(action, Abandon):
            self._steps.abandon()
        elif isinstance(action, RestoreOrder):
            self._steps.queue.clear()
            self._restore(action.why)
        elif isinstance(action, BeginPass):
            self._pace = polling.Pace()
            self._passes.start(snapshot, action.why)
            if self._can.reporting and self._settings.page_reporting:
                self._steps.hurry()
        elif isinstance(action, EndPass):
            self._end_pass(snapshot, action.why)
            self._restore(action.why)

    def _start_next(self, now_s: float) -> None:
        """Start the queued steps in order, up to one that must be waited for."""
        while (step := self._steps.next_step()) is not None:
            what = step.words()
            seen = status_file.seen(
                self._last, self._activity.busy_percent, self._need.urgency(now_s)
            )
            self._journal(f"{what}{seen}")
            self._tell(step.mark or step.kind, what)
            self._before, self._passes.doing = self._last, what
            if step.takes_ended:
                self._ended.step_begins(now_s)
            self._steps.start(step, now_s, self._cpu_weight.pressing)

    def _journal(self, text: str) -> None:
        self._say(f"giveback-agent: {text}")

    def _refused(self, step: ReleaseStep, why: str) -> None:
        self._complain(step.refusal_words(why))

    def _account(self, now: Snapshot) -> None:
        if self._steps.outcome is None or self._before is None:
            return
        step = self._passes.note(self._steps.outcome, self._before, now)
        self._before = None
        self._journal(
            f"{step.kind} {step.end}: {step.freed_bytes // MIB} MiB freed "
            f"in {span(round(step.took_s, 1))}, {step.cpu_s:.2f} s of CPU"
        )

    def _end_pass(self, now: Snapshot, why: str) -> None:
        record = self._passes.finish(now, why)
        if record is not None:
            line = pass_log.words(record, self._classic_line)
            line += ", dry run: nothing was changed" if self._settings.dry_run else ""
            steps.write_kernel_log(self._root, line)
            self._say(line)
            self._publish()

    def _probe_again(self, now_s: float) -> None:
        """Probe again without page reporting: a balloon's module may be loaded late, or be hot-plugged."""
        if self._can.reporting or now_s < self._next_probe_s or self._in_pass():
            return
        self._next_probe_s = now_s + PROBE_PERIOD_S
        self._can = probe(self._root, self._settings.swap)
        if self._can.reporting:
            self._journal("page reporting is active now")

    def _restore(self, why: str) -> None:
        try:
            order = self._steps.restore()
        except KernelFileError as error:
            self._complain(f"{error}: the report order or delay is not restored yet")
            return
        if order is not None:
            self._tell("restore", f"report order {order}: {why}")

    def _tell(self, step: str, text: str) -> None:
        self._link.send(event="step", step=step, text=text)

    def _promise(self) -> dict[str, object]:
        """Return the fields about the cache for the host.

        It runs in the process of an answer, so its imports and reads do not stay in the service.
        """
        from giveback_agent.release.cache import cold_survey

        memory = Totals(self._root).meminfo()
        terms = cold_survey.terms_of(self._terms(), time.monotonic(), memory)
        return cold_survey.promise(self._root, terms, memory)

    def _terms(self) -> dict[str, object]:
        return status_file.terms_fields(self._settings, self._can.cold_method, self._state)

    def _publish_changes(self, now_s: float) -> None:
        if self._published.is_due(*self._changes(now_s), now_s):
            self._publish()

    def _changes(self, now_s: float) -> tuple[object, object]:
        need = self._need.fields(now_s)
        return status_file.changes(need, self._passes, self._state, self._activity)

    def _publish(self, running: bool = True) -> None:
        """Write the status file. A full /run does not stop the service."""
        now_s = time.monotonic()
        self._published.note(*self._changes(now_s), now_s)
        status_file.write_status(
            self._root,
            {
                "pid": os.getpid() if running else None,
                "mode": self._settings.mode,
                "started_s": self._started_s,
                "written_s": now_s,
                **self._need.fields(now_s),
                "level": self._activity.level,
                **self._terms(),
                "busy": status_file.busy_fields(self._state.busy, self._activity),
                "own_cpu_s": self._own_cpu()[0],
                **status_file.log_fields(self._passes),
            },
        )
