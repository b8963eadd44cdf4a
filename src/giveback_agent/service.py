"""The service: look, decide, act, verify, say; until it is told to stop.

Everything here that can fail is expected to fail: a failed write is an outcome, never the end.
"""

from __future__ import annotations

import os
import select
import signal
import time

from giveback_agent import actions as act
from giveback_agent import gate, policy, steps
from giveback_agent.actions import Action, Capabilities, Observation, Outcome
from giveback_agent.errors import KernelFileError
from giveback_agent.kernel import compaction, kmsg, page_reporting, reclaim
from giveback_agent.kernel.cpustat import read_cpustat
from giveback_agent.kernel.pressure import read_pressure
from giveback_agent.link import Link
from giveback_agent.snapshot import take
from giveback_agent.worker import DONE, Worker, become_idle_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Callable

    from giveback_agent.settings import Settings
    from giveback_agent.snapshot import Snapshot

MIB = 1 << 20
PASS_PERIOD_S = 1.0
WATCH_PERIOD_S = 2.0
QUIET_PERIOD_S = 10.0
QUIET_LOOKS = 5
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def probe(root: str) -> Capabilities:
    """Find out what this kernel lets us do; never raises."""
    reporting = page_reporting.probe(root)
    path = reclaim.root_reclaim_path(root)
    return Capabilities(
        reporting.active,
        reporting.order,
        reporting.order_settable,
        path is not None and reclaim.is_permitted(root, path),
        os.access(root.rstrip("/") + reclaim.DROP_CACHES_PATH, os.W_OK),
        compaction.is_available(root) and compaction.is_permitted(root),
    )


class Service:
    """One agent in one guest. `say` gets lines for the journal."""

    def __init__(self, root: str, settings: Settings, say: Callable[[str], None]) -> None:
        self._root = root
        self._settings = settings
        self._say = say
        self._link = Link(root)
        self._can = probe(root)
        self._state = policy.PolicyState()
        self._gate = gate.GateState()
        self._worker: Worker | None = None
        self._outcome: Outcome | None = None
        self._queue: list[Action] = []
        self._own_cpu_s = _own_cpu_s()
        self._worker_cpu_s = 0.0
        self._stop = False
        self._lowered_from: int | None = None
        self._calm_looks = 0
        self._urgency = act.URGENCY_ALONE
        self._pass_begin: Snapshot | None = None
        self._before: Snapshot | None = None
        self._gains: dict[str, int] = {}
        self._last: Snapshot | None = None
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)

    def run(self) -> int:
        """Serve until SIGTERM or SIGINT; returns the exit code. What was changed is restored."""
        become_idle_class()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_stop)
        signal.set_wakeup_fd(self._wake_write)
        self._say(f"giveback-agent: started, mode {self._settings.mode}")
        if self._can.reporting is False:
            self._say(
                "giveback-agent: page reporting is not active in this guest: free memory cannot go "
                "back to the host; see `giveback-agent doctor`"
            )
        try:
            while not self._stop:
                self._tick()
                self._wait(self._period_s())
        finally:
            self._restore("the agent stops")
            self._link.close()
        return 0

    def _on_stop(self, number: int, frame: object) -> None:
        del number, frame
        self._stop = True

    def _wait(self, period_s: float) -> None:
        readable, _, _ = select.select([self._wake_read], [], [], period_s)
        if readable:
            os.read(self._wake_read, 64)

    def _period_s(self) -> float:
        if self._worker is not None or self._state.in_pass or self._queue:
            return PASS_PERIOD_S
        return QUIET_PERIOD_S if self._calm_looks >= QUIET_LOOKS else WATCH_PERIOD_S

    def _tick(self) -> None:
        """One look at the guest, and what follows from it."""
        now_s = time.monotonic()
        tainted = self._worker is not None
        self._reap(now_s)
        try:
            self._look(now_s, tainted)
            if self._needs_decision():
                self._decide(now_s)
        except KernelFileError as error:
            self._say(f"giveback-agent: {error}")
        self._start_next(now_s)

    def _look(self, now_s: float, tainted: bool) -> None:
        cpustat = read_cpustat(self._root)
        own = _own_cpu_s() + self._worker_cpu_s
        if self._worker is not None:
            own += _cpu_s_of(self._root, self._worker.pid)
        # Our own reclaim stalls on purpose: while it runs, PSI does not tell about the work.
        stalls = gate.Stalls()
        if not tainted and not self._state.in_pass:
            stalls = gate.stalls_of(self._pressure("memory"), self._pressure("io"))
        self._gate = gate.look(
            self._gate, now_s, cpustat, max(0.0, own - self._own_cpu_s), stalls,
            self._settings.idle_busy_percent, self._settings.idle_window_s, TICKS_PER_S,
            system_is_ours=self._state.in_pass,
        )  # fmt: skip
        if self._gate.at_s == now_s:
            self._own_cpu_s = own

    def _pressure(self, resource: str):  # type: ignore[no-untyped-def]  # noqa: ANN202
        try:
            return read_pressure(resource, self._root)
        except KernelFileError:
            return None

    def _needs_decision(self) -> bool:
        if self._worker is not None or self._state.in_pass or self._outcome is not None:
            return True
        if self._gate.level == gate.BUSY:
            self._calm_looks = 0
            return False
        self._calm_looks += 1
        return self._calm_looks <= QUIET_LOOKS or self._calm_looks % QUIET_LOOKS == 0

    def _decide(self, now_s: float) -> None:
        snapshot = take(self._root, now_s, detail=not self._state.in_pass)
        self._last = snapshot
        seen = Observation(
            snapshot, self._gate, self._urgency,
            None if self._worker is None else self._worker.kind, self._outcome,
            self._lowered_from is not None,
        )  # fmt: skip
        if self._worker is None:
            self._note_gain(snapshot)
            self._outcome = None
        if self._queue:
            return
        actions, self._state = policy.decide(seen, self._state, self._settings, self._can)
        for action in actions:
            self._do(action, snapshot)

    def _do(self, action: Action, snapshot: Snapshot) -> None:
        if action.kind == act.ABANDON:
            if self._worker is not None:
                self._worker.abandon()
            self._queue.clear()
        elif action.kind == act.RESTORE:
            self._restore(action.why)
        elif action.kind == act.PASS_BEGIN:
            self._pass_begin, self._gains = snapshot, {}
        elif action.kind == act.PASS_END:
            self._end_pass(snapshot, action.why)
        else:
            self._queue.append(action)

    def _start_next(self, now_s: float) -> None:
        """Start the next queued action, if none runs."""
        while self._queue and self._worker is None:
            action = self._queue.pop(0)
            self._say(f"giveback-agent: {_words(action)}")
            if self._settings.dry_run:
                self._outcome = Outcome(action.kind, True)
            elif action.kind == act.LOWER:
                self._lower(action)
            else:
                self._fork(action, now_s)

    def _fork(self, action: Action, now_s: float) -> None:
        self._before = self._last
        self._tell(action.kind, _words(action))
        try:
            step = steps.step_of(action, self._root, self._settings.swap)
            self._worker = Worker(action.kind, step, now_s, steps.DEADLINES_S[action.kind])
        except (OSError, ValueError) as error:
            self._say(f"giveback-agent: no worker for {action.kind}: {error}")
            self._outcome = Outcome(action.kind, False)

    def _reap(self, now_s: float) -> None:
        worker = self._worker
        if worker is None:
            return
        code = worker.poll()
        if code is None:
            if worker.overdue(now_s) and not worker.abandoned:
                self._say(f"giveback-agent: {worker.kind} took over {worker.deadline_s:.0f} s: given up")
                worker.abandon()
            return
        self._worker_cpu_s += worker.cpu_s
        took = now_s - worker.started_s
        self._outcome = Outcome(worker.kind, code == DONE, worker.abandoned, took, worker.cpu_s)
        self._worker = None

    def _note_gain(self, now: Snapshot) -> None:
        """Account the step that has just ended by what the guest shows before and after it."""
        outcome, before = self._outcome, self._before
        if outcome is None or before is None:
            return
        self._before = None
        if outcome.kind == act.COMPACT:
            gain = (before.trapped_bytes or 0) - (now.trapped_bytes or 0)
        else:
            gain = before.meminfo.non_free_bytes - now.meminfo.non_free_bytes
        self._gains[outcome.kind] = self._gains.get(outcome.kind, 0) + gain

    def _end_pass(self, now: Snapshot, why: str) -> None:
        begin = self._pass_begin
        if begin is None:
            return
        took_s = now.monotonic_s - begin.monotonic_s
        freed = begin.meminfo.non_free_bytes - now.meminfo.non_free_bytes
        text = (
            f"giveback: performing memory compaction: {max(0, freed) // MIB} MiB of cache and slab freed, "
            f"{max(0, self._gains.get(act.COMPACT, 0)) // MIB} MiB made contiguous, "
            f"{(now.trapped_bytes or 0) // MIB} MiB in small pieces, {took_s:.0f} s, {why}"
        )
        kmsg.write_line(self._root, text)
        self._say(text)
        self._pass_begin = None

    def _lower(self, action: Action) -> None:
        if action.order is None:
            return
        try:
            order = page_reporting.read_order(self._root)
            page_reporting.write_order(self._root, action.order)
        except KernelFileError as error:
            self._say(f"giveback-agent: {error}")
            return
        self._lowered_from = order
        self._tell("deep", f"report order {order} -> {action.order}")

    def _restore(self, why: str) -> None:
        if self._lowered_from is None:
            return
        try:
            page_reporting.write_order(self._root, self._lowered_from)
        except KernelFileError as error:
            self._say(f"giveback-agent: {error}: the report order is not restored yet")
            return
        self._tell("restore", f"report order {self._lowered_from}: {why}")
        self._lowered_from = None

    def _tell(self, step: str, text: str) -> None:
        self._link.send(event="step", step=step, text=text)


def _words(action: Action) -> str:
    if action.kind == act.RECLAIM:
        return f"reclaim {action.amount_bytes // MIB} MiB: {action.why}"
    if action.kind == act.LOWER:
        return f"lower the report order to {action.order}: {action.why}"
    return action.kind if action.why in ("", action.kind) else f"{action.kind}: {action.why}"


def _own_cpu_s() -> float:
    used = os.times()
    return used.user + used.system


def _cpu_s_of(root: str, pid: int) -> float:
    """CPU seconds of a running worker, from its stat file; 0 where it has just ended."""
    try:
        with open(root.rstrip("/") + f"/proc/{pid}/stat", "rb") as file:
            words = file.read(4096).rpartition(b")")[2].split()
        return (int(words[11]) + int(words[12])) / TICKS_PER_S
    except (OSError, IndexError, ValueError):
        return 0.0
