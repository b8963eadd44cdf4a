"""Execute the steps of a policy, one at a time: directly, or in a worker that can be abandoned.

The service and `release` use it. Every failure is an outcome or a call of `refused`, never an exception: a
step that fails must not end the agent.
"""

from __future__ import annotations

import time

from giveback_agent.policy.actions import LowerOrder, TriggerReporting, WorkerStep
from giveback_agent.policy.observation import StepOutcome
from giveback_agent.release import report_delay, report_order, steps
from giveback_agent.runtime import memory_limits
from giveback_agent.runtime.worker import DONE, FAILED, Worker
from giveback_kernel.errors import GivebackError, KernelFileError
from giveback_kernel.units import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.policy.actions import ReleaseStep
    from giveback_agent.service.pass_log import PassLog
    from giveback_agent.settings.table import AgentSettings


# How long an agent that ends waits for a killed worker to end.
ENDING_WAIT_S = 2.0


class Executor:
    """The queued steps, the running one, and the outcome of the last.

    `say` gets lines for the journal, `refused` a step and the reason why it could not be done. `lowered`:
    this process has lowered the report order, or may have. It is set before the kernel's file is written,
    so that `restore` restores the order after any interruption. `hurried` is the same for the report
    delay. `cpu_s` and `user_s` are the CPU seconds of all workers that have ended.
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
        """Take the next step from the queue; None if one runs, or an outcome is not accounted yet."""
        if not self.queue or self.worker is not None or self.outcome is not None:
            return None
        return self.queue.pop(0)

    def start(self, step: ReleaseStep, now_s: float, pressing: bool = False) -> None:
        """Begin a step. It sets `worker`, or `outcome`, or neither if there is nothing to wait for.

        `pressing`: a worker keeps this process's scheduling class instead of SCHED_IDLE.
        """
        if self._settings.dry_run:
            self.outcome = StepOutcome(step.kind, True)
        elif isinstance(step, WorkerStep):
            self._fork(step, now_s, pressing)
        else:
            self._do_at_once(step, now_s)

    def reap(self, now_s: float) -> None:
        """Turn a worker that has ended into an outcome; kill one that is over its deadline."""
        self._lost = [one for one in self._lost if one.poll() is None]
        worker = self.worker
        if worker is None:
            return
        code = worker.poll()
        if code is None:
            if worker.overdue(now_s) and not worker.abandoned:
                self._say(f"{worker.kind} took over {span(worker.deadline_s)}: abandoned")
                worker.abandon()
            if not worker.is_lost(now_s):
                return
            # Stuck in the kernel (a sync of a dead network drive): continue without it.
            self._say(
                f"{worker.kind}: its process {worker.pid} cannot be killed, as the kernel does not return"
            )
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
        """Restore memory.low and memory.high of cgroups if a worker was killed before it did.

        It first waits for a worker that is being killed, which could otherwise still set a limit.
        """
        if self.worker is not None and self.worker.abandoned:
            self.worker.wait(ENDING_WAIT_S)
            self.worker = None
        try:
            memory_limits.restore(self._root)
        except KernelFileError as error:
            self._say(f"{error}: memory limits of some cgroups are still changed")

    def abandon(self) -> None:
        """Kill the running step and drop the queued ones."""
        if self.worker is not None:
            self.worker.abandon()
        self.queue.clear()

    def hurry(self) -> None:
        """Lower the report delay until `restore`; do nothing if the kernel has no such parameter."""
        if self.hurried or self._settings.dry_run:
            return
        # Set first, as for the order: the delay is restored after any interruption.
        self.hurried = True
        try:
            self.hurried = report_delay.lower(self._root)
        except GivebackError as error:
            self._say(f"{error}: the report delay is not lowered, memory is reported more slowly")

    def restore(self) -> int | None:
        """Restore the report order and delay; return the order, or None if it was not lowered.

        Raises KernelFileError if one cannot be written; `lowered` or `hurried` stays set, so try again.
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
            # Set before the kernel's file is written: `restore` then works after any interruption.
            self.lowered = True
            self.hurry()
        refused = steps.execute(step, self._root, self._settings)
        if isinstance(step, LowerOrder):
            self.lowered = not refused
            if not refused:
                self._log.deep_order = step.order
        if refused:
            if isinstance(step, TriggerReporting):
                # The pass's log line must then not claim that small free blocks were reported.
                self._log.deep_order = None
            self._refused(step, refused)
        if step.has_outcome:
            took_s = time.monotonic() - now_s
            self.outcome = StepOutcome(step.kind, not refused, took_s=took_s)

    def _fork(self, step: WorkerStep, now_s: float, pressing: bool) -> None:
        if any(lost.kind == step.kind for lost in self._lost):
            # Another one would get stuck at the same point.
            self.outcome = StepOutcome(step.kind, False)
            return

        def do() -> None:
            steps.execute(step, self._root, self._settings)

        try:
            self.worker = Worker(step.kind, do, now_s, step.deadline_s, pressing=pressing)
        except (OSError, ValueError) as error:
            self._say(f"{step.kind}: no worker process could be started: {error}")
            self.outcome = StepOutcome(step.kind, False)
