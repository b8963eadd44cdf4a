"""One release pass now, in the foreground: each step with what it gained.

Cold cache, then slab, then compaction; with --deep the report order is lowered for as long as the
kernel needs to report what is left in small pieces. Ctrl-C ends it at once and restores the order.
"""

from __future__ import annotations

import time

from giveback_agent import actions as act
from giveback_agent import deep_report, policy, runtime, settings, steps
from giveback_agent.actions import Action
from giveback_agent.capabilities import probe
from giveback_agent.commands.repair import restore
from giveback_agent.errors import AgentError, KernelFileError
from giveback_agent.passes import CLASSIC_LINE, MIB, WSL_LINE, PassLog, words
from giveback_agent.snapshot import take
from giveback_agent.worker import DONE, Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from giveback_agent.actions import Capabilities, Outcome
    from giveback_agent.settings import Settings
    from giveback_agent.snapshot import Snapshot

HELP = "one pass now, in the foreground, each step with its gain"
POLL_S = 0.1
DRAIN_POLL_S = 0.5


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """How far the pass goes."""
    parser.add_argument(
        "--deep", action="store_true", help="report what is free in small pieces, too (30 s more)"
    )
    parser.add_argument(
        "--urgency", type=int, choices=range(4), default=act.URGENCY_ALONE, metavar="0..3",
        help="0: keep all cache; 1: take the cold (default); 3: take all above the floor",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Run the pass; returns 0 when all its steps went well, else 1."""
    wsl = settings.detect_wsl(args.root)
    loaded = settings.load(args.root, args.set, wsl)
    if runtime.running_pid(args.root) is None:
        lock: int | None = runtime.hold_lock(args.root)
        # Before the order is probed: a killed agent may have left its own.
        restore(args.root)
    else:
        # The service goes on: a pass beside it is harmless but for the order, which is one's alone.
        lock = None
        if args.deep:
            raise AgentError(
                f"a giveback-agent runs (pid {runtime.running_pid(args.root)}) and does deep reports itself: "
                "leave out --deep, or stop it"
            )
    del lock
    return Foreground(
        args.root, loaded.settings, probe(args.root), WSL_LINE if wsl else CLASSIC_LINE
    ).run(args.urgency, args.deep)


class Foreground:
    """A pass that the user watches."""

    def __init__(self, root: str, chosen: Settings, can: Capabilities, classic_line: str) -> None:
        self._root = root
        self._settings = chosen
        self._can = can
        self._log = PassLog()
        self._classic_line = classic_line
        self._failed = False

    def run(self, urgency: int, deep: bool) -> int:
        """Do every step that this kernel offers and say what came of it."""
        begin = self._look()
        self._log.start(begin, "by hand")
        for action in self._plan(begin, urgency):
            self._step(action)
        if deep:
            self._deep()
        record = self._log.finish(self._look(), "done")
        if record is not None:
            line = words(record, self._classic_line)
            from giveback_agent.kernel import kmsg

            kmsg.write_line(self._root, line)
            print(line)
        return 1 if self._failed else 0

    def _look(self) -> Snapshot:
        try:
            return take(self._root, time.monotonic(), detail=True)
        except KernelFileError as error:
            raise AgentError(f"{error}: is /proc mounted?") from error

    def _plan(self, begin: Snapshot, urgency: int) -> list[Action]:
        """The steps; what this kernel cannot do, or this user may not, is said once."""
        can, plan = self._can, []
        floor = self._settings.cache_floor_bytes
        goal = policy.cache_goal_bytes(begin, floor, urgency)
        if not can.drop_caches and not can.reclaim:
            print("cache     cannot be reclaimed by this user: run as root")
        if goal:
            plan.append(Action(act.SYNC))
        if goal and can.cold_method != "none":
            plan.append(Action(act.COLD, amount_bytes=goal, what=int(urgency > act.URGENCY_ALONE)))
        if goal and can.reclaim and urgency > act.URGENCY_ALONE:
            plan.append(Action(act.RECLAIM, amount_bytes=goal))
        if goal and can.drop_caches:
            plan.append(Action(act.SLAB))
        if can.reporting is False:
            print(
                "compact   left out: page reporting is not active, so that it would return nothing"
            )
        elif not can.compaction:
            print("compact   cannot be started by this user: run as root")
        else:
            plan.append(Action(act.COMPACT))
        return plan

    def _step(self, action: Action) -> None:
        before = self._look()
        if self._settings.dry_run:
            print(f"{action.kind:9} (dry run)")
            return
        outcome = self._wait(action)
        gain = self._log.note(outcome, before, self._look()).gain_bytes
        what = "made contiguous" if action.kind == act.COMPACT else "freed"
        end = "" if outcome.ok else " (given up)" if outcome.abandoned else " (failed)"
        self._failed = self._failed or not outcome.ok
        print(
            f"{action.kind:9} {gain // MIB} MiB {what} in {outcome.took_s:.1f} s{end}", flush=True
        )

    def _wait(self, action: Action) -> Outcome:
        started = time.monotonic()
        step = steps.step_of(action, self._root, self._settings)
        worker = Worker(action.kind, step, started, steps.DEADLINES_S[action.kind])
        try:
            while (code := worker.poll()) is None:
                if worker.overdue(time.monotonic()) and not worker.abandoned:
                    worker.abandon()
                time.sleep(POLL_S)
        except KeyboardInterrupt:
            worker.abandon()
            raise
        took_s = time.monotonic() - started
        return act.Outcome(action.kind, code == DONE, worker.abandoned, took_s, worker.cpu_s)

    def _deep(self) -> None:
        """Lower the report order, keep reporting going, restore the order whatever happens."""
        lowest = self._settings.lowest_report_order
        if not self._can.reporting or not self._can.order_settable:
            print(
                "deep      left out: page reporting is not active, or its order cannot be set here"
            )
            return
        if self._settings.dry_run:
            print(f"deep      (dry run) report order {self._can.order} -> {lowest}")
            return
        trapped = (self._look().trapped_bytes or 0) // MIB
        try:
            deep_report.lower(self._root, lowest)
            self._log.deep_order = lowest
            refused = steps.start_reporting(self._root)
            if refused:
                print(f"deep      no pass of reporting could be started: {refused}")
            print(f"deep      report order {self._can.order} -> {lowest}", flush=True)
            self._drain()
        except (AgentError, OSError) as error:
            self._failed = True
            print(f"deep      failed: {error}")
        finally:
            deep_report.restore(self._root)
        print(
            f"deep      up to {trapped} MiB in small pieces reported: the host knows how much came back"
        )

    def _drain(self) -> None:
        """Wait until the kernel has reported all there is, or has had its time."""
        began = reported = time.monotonic()
        reports = deep_report.read_reports(self._root)
        while True:
            time.sleep(DRAIN_POLL_S)
            now = time.monotonic()
            seen = deep_report.read_reports(self._root)
            if seen != reports:
                reports, reported = seen, now
            if deep_report.drained(now - began, None if seen is None else now - reported):
                return
