"""Do what a policy has decided, one step at a time: at once, or in a worker that can be abandoned.

The service and `release` share it. Every failure is an outcome or a word to `refused`, never an
exception: a step that fails must not end the agent.
"""

from __future__ import annotations

import time

from giveback_agent.policy import actions as act
from giveback_agent.policy.actions import Action, Outcome
from giveback_agent.release import report_order, steps
from giveback_agent.runtime.worker import DONE, FAILED, Worker
from giveback_kernel.errors import GivebackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.service.pass_log import PassLog
    from giveback_agent.settings.table import Settings


class Executor:
    """The steps that wait, the one that runs, and what came of the last.

    `say` gets lines for the journal, `refused` an action's kind and why it could not be done. `lowered`
    tells whether the report order may be lowered by us: it is true before the kernel's file is written,
    so that whatever interrupts, `restore` puts the order back. `cpu_s` and `user_s` are those of all
    workers that have ended.
    """

    def __init__(
        self,
        root: str,
        settings: Settings,
        log: PassLog,
        say: Callable[[str], None],
        refused: Callable[[str, str], None],
    ) -> None:
        self.queue: list[Action] = []
        self.worker: Worker | None = None
        self.outcome: Outcome | None = None
        self.lowered = False
        self.cpu_s = self.user_s = 0.0
        self._root = root
        self._settings = settings
        self._log = log
        self._say = say
        self._refused = refused
        self._lost: list[Worker] = []

    def next_action(self) -> Action | None:
        """Take the next action from the queue, if none runs and no outcome is to be accounted for."""
        if not self.queue or self.worker is not None or self.outcome is not None:
            return None
        return self.queue.pop(0)

    def start(self, action: Action, now_s: float, pressing: bool = False) -> None:
        """Begin a step. It leaves a `worker`, an `outcome`, or neither where nothing is to be waited for.

        `pressing`: a worker stays in this process's scheduling class instead of SCHED_IDLE.
        """
        if self._settings.dry_run:
            self.outcome = Outcome(action.kind, True)
        elif action.kind == act.LOWER:
            self.lower(action.order or 0)
        elif action.kind == act.NUDGE:
            self._start_reporting()
        elif action.kind == act.DRAIN:
            self._drain_lists(now_s)
        else:
            self._fork(action, now_s, pressing)

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
        self.outcome = Outcome(worker.kind, code == DONE, worker.abandoned, took_s, worker.cpu_s)
        self.worker = None

    def abandon(self) -> None:
        """Kill the step that runs, and forget those that wait."""
        if self.worker is not None:
            self.worker.abandon()
        self.queue.clear()

    def lower(self, order: int) -> None:
        """Lower the report order until `restore`."""
        self.lowered = True
        try:
            report_order.lower(self._root, order)
        except GivebackError as error:
            self.lowered = False
            self._refused(act.LOWER, str(error))
        else:
            self._log.deep_order = order

    def restore(self) -> int | None:
        """Put the report order back; returns it, or None where it was not lowered.

        Raises KernelFileError where it could not be written: `lowered` stays, so try again.
        """
        if not self.lowered:
            return None
        order = report_order.restore(self._root)
        self.lowered = False
        return order

    def _start_reporting(self) -> None:
        refused = steps.start_reporting(self._root)
        if refused:
            # Then the pass's line must not say that the small pieces were reported.
            self._log.deep_order = None
            self._refused(act.NUDGE, refused)

    def _drain_lists(self, now_s: float) -> None:
        refused = steps.drain_lists(self._root)
        if refused:
            self._refused(act.DRAIN, refused)
        self.outcome = Outcome(act.DRAIN, not refused, took_s=time.monotonic() - now_s)

    def _fork(self, action: Action, now_s: float, pressing: bool) -> None:
        if any(lost.kind == action.kind for lost in self._lost):
            # It would be stuck just there.
            self.outcome = Outcome(action.kind, False)
            return
        try:
            step = steps.step_of(action, self._root, self._settings)
            deadline_s = steps.DEADLINES_S[action.kind]
            self.worker = Worker(action.kind, step, now_s, deadline_s, pressing=pressing)
        except (OSError, ValueError) as error:
            self._say(f"{action.kind}: no worker: {error}")
            self.outcome = Outcome(action.kind, False)
