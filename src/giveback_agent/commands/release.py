"""Run one release pass now, in the foreground, and print what each step freed.

It is the pass of an idle guest: cold cache, slab, compaction. With --deep the report order is lowered until
the kernel has reported the memory in small free blocks too. Ctrl-C ends the pass at once and restores the
order.
"""

from __future__ import annotations

import signal
import time

from giveback_agent.commands.repair import restore
from giveback_agent.errors import AgentError
from giveback_agent.policy import adaptive
from giveback_agent.policy.actions import EndPass, LowerOrder, ReleaseStep, RestoreOrder
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.observation import (
    NO_METHOD,
    URGENCY_ALONE,
    GuestObservation,
    StepOutcome,
    why_not_reported,
)
from giveback_agent.release import report_order
from giveback_agent.release.capabilities import probe
from giveback_agent.release.observe import take
from giveback_agent.runtime import run_dir
from giveback_agent.service.executor import Executor
from giveback_agent.service.pass_log import CLASSIC_LINE, MIB, WSL_LINE, PassLog, words
from giveback_agent.settings import load
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import replace
from giveback_kernel.units import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from giveback_agent.policy.actions import Action
    from giveback_agent.policy.observation import KernelCapabilities, Snapshot
    from giveback_agent.settings.table import AgentSettings

HELP = "run one release pass now, and print what each step freed"
POLL_S = 0.1
HOLD_POLL_S = 0.5


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument(
        "--deep", action="store_true", help="also report small free blocks (takes 30 s more)"
    )
    parser.add_argument(
        "--urgency", type=int, choices=range(4), default=URGENCY_ALONE, metavar="0..3",
        help="0: keep all cache; 1: reclaim cold cache (default); 2: half of all; 3: all above the floor",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the pass; return 0 if all its steps succeeded, else 1."""
    wsl = load.detect_wsl(args.root)
    loaded = load.load(args.root, args.set, wsl)
    if run_dir.running_pid(args.root) is None:
        lock: int | None = run_dir.hold_lock(args.root)
        # Before the order is probed: a killed agent may have left it lowered.
        restore(args.root)
    else:
        # The service goes on. A pass beside it is harmless, except that only one may change the order.
        lock = None
        if args.deep:
            raise AgentError(
                f"a giveback-agent runs (pid {run_dir.running_pid(args.root)}) and does deep reports itself: "
                "leave out --deep, or stop the agent"
            )
    try:
        return _run_pass(args, loaded.settings, wsl is not None)
    finally:
        if lock is not None:
            run_dir.release_lock(args.root, lock)


def _run_pass(args: argparse.Namespace, settings: AgentSettings, under_wsl: bool) -> int:
    """Run the requested pass; return the exit code."""
    found = probe(args.root, settings.swap)
    chosen, can = asked_for(args.deep, settings, found)
    for line in left_out(args.deep, chosen, can):
        print(line)
    classic_line = WSL_LINE if under_wsl else CLASSIC_LINE
    # `timeout`, a closed terminal or a shutdown end the pass like Ctrl-C, and the order is restored.
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    return Foreground(args.root, chosen, can, classic_line).run(args.urgency)


def asked_for(
    deep: bool, chosen: AgentSettings, can: KernelCapabilities
) -> tuple[AgentSettings, KernelCapabilities]:
    """Return the settings and capabilities for this pass.

    A manual pass compacts even if it is unknown whether free pages are reported. Without `deep` the
    report order is not lowered.
    """
    if can.reporting is None:
        can = replace(can, reporting=True)
    if not deep and can.order is not None:
        chosen = replace(chosen, lowest_report_order=max(chosen.lowest_report_order, can.order))
    return chosen, can


def left_out(deep: bool, chosen: AgentSettings, can: KernelCapabilities) -> list[str]:
    """Describe each step that cannot be done here, and why."""
    out = []
    if not can.reclaim and not can.drop_caches and can.cold_method == NO_METHOD:
        out.append("cache        cannot be reclaimed by this user: run as root")
    why_not = why_not_reported(can.reporting, chosen.page_reporting)
    if why_not:
        why = f"{why_not}, so that it would return no memory"
    elif chosen.idle_threshold == 0:
        why = "the settings forbid it (idleThreshold)"
    else:
        why = "" if can.compaction else "this user may not start it: run as root"
    if why:
        out.append(f"compact      left out: {why}")
    if deep and (why_not or not can.order_settable):
        why = why_not or "page reporting is active, but its order cannot be set here"
        out.append(f"deep         left out: {why}")
    return out


class Foreground:
    """A pass in the foreground, which prints its steps."""

    def __init__(
        self, root: str, chosen: AgentSettings, can: KernelCapabilities, classic_line: str
    ) -> None:
        self._root = root
        self._settings = chosen
        self._can = can
        self._log = PassLog()
        self._classic_line = classic_line
        self._failed = False
        self._end = ""
        self._steps = Executor(root, chosen, self._log, print, self._refused)

    def run(self, urgency: int) -> int:
        """Run the policy's pass and print the outcome of each step; return the exit code."""
        begin = self._sample()
        self._log.start(begin, "manual")
        seen = self._seen(begin, urgency, None)
        try:
            if self._can.reporting and self._settings.page_reporting:
                self._steps.hurry()
            actions, state = adaptive.begin_manually(seen, self._settings, self._can)
            while True:
                outcome = self._do_all(actions)
                if self._end:
                    break
                if not actions:
                    time.sleep(HOLD_POLL_S)
                seen = self._seen(self._sample(), urgency, outcome)
                actions, state = adaptive.decide(seen, state, self._settings, self._can)
        finally:
            self._steps.restore_limits()
            self._steps.restore()
        self._tell()
        return 1 if self._failed else 0

    def _tell(self) -> None:
        record = self._log.finish(self._sample(), self._end)
        if record is None:
            return
        line = words(record, self._classic_line)
        if self._settings.dry_run:
            line += ", dry run: nothing was changed"
        from giveback_kernel import kmsg

        kmsg.write_line(self._root, line)
        print(line)

    def _sample(self) -> Snapshot:
        try:
            order = self._can.order if self._steps.lowered else None
            return take(self._root, time.monotonic(), detail=True, report_order=order)
        except KernelFileError as error:
            raise AgentError(f"{error}: is /proc mounted?") from error

    def _seen(self, now: Snapshot, urgency: int, outcome: StepOutcome | None) -> GuestObservation:
        """Return the observation for the policy: an idle guest, as the user wants the pass in any case."""
        idle = idleness.Activity(at_s=now.monotonic_s, level=idleness.IDLE, busy_percent=0.0)
        lowered = self._steps.lowered
        reports = report_order.read_reports(self._root) if lowered else None
        return GuestObservation(now, idle, urgency, None, outcome, lowered, reports)

    def _do_all(self, actions: tuple[Action, ...]) -> StepOutcome | None:
        """Do the actions; return the outcome of the step among them that has one."""
        outcome = None
        for action in actions:
            if isinstance(action, EndPass):
                self._end = action.why
            elif isinstance(action, RestoreOrder):
                self._steps.restore()
            elif isinstance(action, LowerOrder):
                self._lower(action)
            elif isinstance(action, ReleaseStep) and action.has_outcome:
                outcome = self._step(action)
            elif isinstance(action, ReleaseStep) and not self._settings.dry_run:
                self._steps.start(action, time.monotonic())
        return outcome

    def _step(self, step: ReleaseStep) -> StepOutcome:
        if self._settings.dry_run:
            print(f"{step.kind:12} (dry run)")
            return StepOutcome(step.kind, ok=True)
        before = self._sample()
        outcome = self._wait(step)
        freed_bytes = self._log.note(outcome, before, self._sample()).freed_bytes
        end = "" if outcome.ok else " (abandoned)" if outcome.abandoned else " (failed)"
        self._failed = self._failed or not outcome.ok
        print(
            f"{step.kind:12} {freed_bytes // MIB} MiB {step.freed_words} "
            f"in {span(round(outcome.took_s, 1))}{end}",
            flush=True,
        )
        return outcome

    def _wait(self, step: ReleaseStep) -> StepOutcome:
        """Run a step to its end; Ctrl-C abandons it."""
        self._steps.start(step, time.monotonic())
        try:
            while self._steps.outcome is None:
                time.sleep(POLL_S)
                self._steps.reap(time.monotonic())
        except KeyboardInterrupt:
            self._steps.abandon()
            raise
        outcome, self._steps.outcome = self._steps.outcome, None
        return outcome

    def _lower(self, step: LowerOrder) -> None:
        """Lower the report order; `run` restores it in any case."""
        words_of_it = f"report order {self._can.order} -> {step.order}"
        if self._settings.dry_run:
            print(f"deep         (dry run) {words_of_it}")
            return
        trapped_mib = (self._sample().trapped_bytes or 0) // MIB
        self._steps.start(step, time.monotonic())
        if self._steps.lowered:
            print(f"deep         {words_of_it}: {trapped_mib} MiB in small free blocks", flush=True)

    def _refused(self, step: ReleaseStep, why: str) -> None:
        """Print a step that could not be done. The pass continues with its other steps."""
        what = step.refusal_words(why) if step.is_optional else f"failed: {why}"
        self._failed = self._failed or not step.is_optional
        print(f"{step.label or step.kind:12} {what}")
