"""Do what a policy has decided, one step at a time: at once, or in a worker that can be abandoned.

The service and `release` share it. Every failure is an outcome or a word to `refused`, never an
exception: a step that fails must not end the agent.
"""

from __future__ import annotations

import time

from giveback_agent.policy.actions import LowerOrder, TriggerReporting, WorkerStep
from giveback_agent.policy.observation import StepOutcome
from giveback_agent.release import report_delay, report_order, steps
from giveback_agent.runtime import memory_limits
from giveback_agent.runtime.worker import DONE, FAILED, Worker
from giveback_kernel.errors import GivebackError, KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.policy.actions import ReleaseStep
    from giveback_agent.service.pass_log import PassLog
    from giveback_agent.settings.table import AgentSettings


# For a killed worker to end, where the agent itself is to end.
ENDING_WAIT_S = 2.0


class Executor:
    """The steps that wait, the one that runs, and what came of the last.

    `say` gets lines for the journal, `refused` a step and why it could not be done. `lowered`
    tells whether the report order may be lowered by us: it is true before the kernel's file is written,
    so that whatever interrupts, `restore` puts the order back. `hurried` is the same of the kernel's delay
    before it reports. `cpu_s` and `user_s` are those of all
    workers that have ended.
    """

    def __init__(
        self,
        root: str,
        settings: AgentSettings,
        log: PassLog,
        say: Callable[[str], None],
        refused: Callable[[ReleaseStep, str], None],
    ) -> None:
        self.queue: list[ReleaseStep] = []
        self.worker: Worker | None = None
        self.outcome: StepOutcome | None = None
        self.lowered = self.hurried = False
        self.cpu_s = self.user_s = 0.0
        self._root = root
        self._settings = settings
        self._log = log
        self._say = say
        self._refused = refused
        self._lost: list[Worker] = []

    def next_step(self) -> ReleaseStep | None:
        """Take the next step from the queue, if none runs and no outcome is to be accounted for."""
        if not self.queue or self.worker is not None or self.outcome is not None:
            return None
        return self.queue.pop(0)

    def start(self, step: ReleaseStep, now_s: float, pressing: bool = False) -> None:
        """Begin a step. It leaves a `worker`, an `outcome`, or neither where nothing is to be waited for.

        `pressing`: a worker stays in this process's scheduling class instead of SCHED_IDLE.
        """
        if self._settings.dry_run:
            self.outcome = StepOutcome(step.kind, True)
        elif isinstance(step, WorkerStep):
            self._fork(step, now_s, pressing)
        else:
            self._do_at_once(step, now_s)

    def reap(self, now_s: float) -> None:
        """Turn a worker that has ended into an outcome; end one that had its time."""
        self._lost = [one for one in self._lost if one.poll() is None]
        worker = self.worker
        if worker is None:
            return
        code = worker.poll()
        if code is None:
            if worker.overdue(now_s) and not worker.abandoned:
                self._say(f"{worker.kind} took over {worker.deadline_s:.0f} s: given up")
                worker.abandon()
            if not worker.is_lost(now_s):
                return
            # Stuck in the kernel (a sync of a dead network drive): whenever it ends, go on without it.
            self._say(f"{worker.kind}, pid {worker.pid}, cannot be killed: left behind")
            self._lost.append(worker)
            code = FAILED
        self.cpu_s += worker.cpu_s
        self.user_s += worker.user_s
        took_s = now_s - worker.started_s
        self.outcome = StepOutcome(
            worker.kind, code == DONE, worker.abandoned, took_s, worker.cpu_s
        )
        self.worker = None
        self.restore_limits()

    def restore_limits(self) -> None:
        """Put memory.low and memory.high of cgroups back, where a worker was killed before it could.

        A worker that is being killed is waited for, or it could still set what is restored here.
        """
        if self.worker is not None and self.worker.abandoned:
            self.worker.wait(ENDING_WAIT_S)
            self.worker = None
        try:
            memory_limits.restore(self._root)
        except KernelFileError as error:
            self._say(f"{error}: memory limits of some cgroups are still changed")

    def abandon(self) -> None:
        """Kill the step that runs, and forget those that wait."""
        if self.worker is not None:
            self.worker.abandon()
        self.queue.clear()

    def hurry(self) -> None:
        """Let the kernel report without its delay, until `restore`; where it cannot, nothing changes."""
        if self.hurried or self._settings.dry_run:
            return
        # First, as for the order: whatever interrupts, it is put back.
        self.hurried = True
        try:
            self.hurried = report_delay.lower(self._root)
        except GivebackError as error:
            self._say(f"{error}: the kernel keeps its delay before it reports")

    def restore(self) -> int | None:
        """Put the report order and delay back; returns the order, or None where it was not lowered.

        Raises KernelFileError where one could not be written: `lowered` or `hurried` stays, so try again.
        """
        order = None
        if self.lowered:
            order = report_order.restore(self._root)
            self.lowered = False
        if self.hurried:
            report_delay.restore(self._root)
            self.hurried = False
        return order

    def _do_at_once(self, step: ReleaseStep, now_s: float) -> None:
        if isinstance(step, LowerOrder):
            # Before the kernel's file is written: whatever interrupts, `restore` puts the order back.
            self.lowered = True
            self.hurry()
        refused = steps.execute(step, self._root, self._settings)
        if isinstance(step, LowerOrder):
            self.lowered = not refused
            if not refused:
                self._log.deep_order = step.order
        if refused:
            if isinstance(step, TriggerReporting):
                # Then the pass's line must not say that the small pieces were reported.
                self._log.deep_order = None
            self._refused(step, refused)
        if step.has_outcome:
            took_s = time.monotonic() - now_s
            self.outcome = StepOutcome(step.kind, not refused, took_s=took_s)

    def _fork(self, step: WorkerStep, now_s: float, pressing: bool) -> None:
        if any(lost.kind == step.kind for lost in self._lost):
            # It would be stuck just there.
            self.outcome = StepOutcome(step.kind, False)
            return

        def do() -> None:
            steps.execute(step, self._root, self._settings)

        try:
            self.worker = Worker(step.kind, do, now_s, step.deadline_s, pressing=pressing)
        except (OSError, ValueError) as error:
            self._say(f"{step.kind}: no worker: {error}")
            self.outcome = StepOutcome(step.kind, False)
