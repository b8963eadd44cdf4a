"""WSL 2 before July 2026, by its published rule. Our re-implementation.

A thread at SCHED_IDLE samples the *user* time of all CPUs every 30 s, and nothing else.

- Reclaim: both the last interval and the whole window (10 minutes; `gradual` 3) must be below 0.5 %. Then
  `dropcache` writes 1 to drop_caches once per idle period; `gradual` requests 3 % of the memory that is
  not free from memory.reclaim, between marks of 1 and 1.1 GiB.
- Compaction, in every mode: if something has run since the last check, and less than 1 % of user time is
  used during one second.

Before 2023 (`wsl-2019`, closed source) only compaction is known. Its line in the kernel log came
65.9, 186.9 and 547.9 s after boot, which fits that rule at a period of 60 s, the longest that does.

Source: microsoft/WSL 02cd979f, ConfigureMemoryReduction() in src/linux/init/main.cpp (the rule of
every tag through 2.9.4).
"""

from __future__ import annotations

import os
import time

from giveback_kernel import compaction, files, reclaim
from giveback_kernel.cpustat import read_cpustat
from giveback_kernel.errors import KernelFileError
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.record import Record, replace
from giveback_kernel.units import GIB
from giveback_lab_guest.strategies.loop import STARTED, become_idle_class, say, with_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_lab_guest.strategies.loop import Stopping

RECLAIM_PATH = "/sys/fs/cgroup/memory.reclaim"


class WslGen1Rule(Record):
    """The constants. `mode` is compact, dropcache or gradual."""

    mode: str
    period_s: float = 30.0
    intervals: int = 20
    busy_per_mille: int = 5
    probe_s: float = 1.0
    low_bytes: int = GIB
    high_bytes: int = GIB * 11 // 10
    step_percent: int = 3


class WslGen1State(Record):
    """`window`: user ticks at the last samples, oldest first; None: no sample yet.

    WSL fills the window's first place with 0, so the time since boot counts as the oldest interval.
    """

    window: tuple[int | None, ...]
    resting: bool = False
    compaction_ticks: int = 0


class WslStep(Record):
    """Reclaim `amount_bytes`, or drop the page cache if that is 0."""

    amount_bytes: int = 0


RULES = {
    "wsl-2019": WslGen1Rule("compact", period_s=60.0),
    "wsl-gen1-dropcache": WslGen1Rule("dropcache"),
    "wsl-gen1-gradual": WslGen1Rule("gradual", intervals=6),
}


def begin(rule: WslGen1Rule) -> WslGen1State:
    """Return the state before the first sample."""
    return WslGen1State(window=(*[None] * (rule.intervals - 1), 0))


def decide(
    rule: WslGen1Rule, state: WslGen1State, user_ticks: int, in_use_bytes: int, cpu_ticks_per_s: int
) -> tuple[WslStep | None, WslGen1State]:
    """Return what to reclaim now, and the next state. `cpu_ticks_per_s` is of all CPUs together."""
    looked = replace(state, window=(*state.window[1:], user_ticks))
    if rule.mode == "compact":
        return None, looked
    if not is_idle(rule, state, user_ticks, cpu_ticks_per_s):
        return None, replace(looked, resting=False)
    if rule.mode == "dropcache":
        return (None if state.resting else WslStep()), replace(looked, resting=True)
    resting = state.resting and in_use_bytes <= rule.high_bytes
    if resting or in_use_bytes <= rule.low_bytes:
        return None, replace(looked, resting=resting)
    amount = in_use_bytes * rule.step_percent // 100
    return WslStep(amount), replace(looked, resting=in_use_bytes - amount < rule.low_bytes)


def is_idle(rule: WslGen1Rule, state: WslGen1State, user_ticks: int, cpu_ticks_per_s: int) -> bool:
    """Return whether both the whole window and the last interval are below the threshold of user time."""
    threshold = int(cpu_ticks_per_s * rule.period_s * rule.busy_per_mille) // 1000
    oldest, last = state.window[0], state.window[-1]
    if oldest is None or last is None:
        return False
    return (
        oldest > user_ticks - threshold * (len(state.window) + 1) and last > user_ticks - threshold
    )


def is_probe_due(state: WslGen1State, user_ticks: int, cpus: int) -> bool:
    """Return whether something has run since the last check."""
    return user_ticks - state.compaction_ticks > cpus


def is_quiet(before_ticks: int, after_ticks: int, cpus: int) -> bool:
    """Return whether so little ran during the check that memory may be compacted."""
    return after_ticks - before_ticks < cpus


def serve(root: str, name: str, options: list[str], stopping: Stopping) -> None:
    """Run until told to stop. Raises KernelFileError, which ends WSL's thread, too."""
    rule = with_options(RULES[name], options)
    if rule.mode == "gradual" and not os.access(files.under(root, RECLAIM_PATH), os.W_OK):
        say("no memory.reclaim: dropcache instead, as WSL does")
        rule = replace(rule, mode="dropcache")
    become_idle_class()
    say(STARTED)
    state = begin(rule)
    if stopping.wait(rule.period_s):
        return
    while True:
        next_s = time.monotonic() + rule.period_s
        stat = read_cpustat(root)
        in_use = read_meminfo(root).non_free_bytes
        step, state = decide(
            rule, state, stat.user_ticks, in_use, stat.cpus * os.sysconf("SC_CLK_TCK")
        )
        if step is not None:
            _do(root, step)
        if is_probe_due(state, stat.user_ticks, stat.cpus):
            if stopping.wait(rule.probe_s):
                return
            after = read_cpustat(root).user_ticks
            state = replace(state, compaction_ticks=after)
            if is_quiet(stat.user_ticks, after, stat.cpus):
                say("compact")
                compaction.compact_all(root)
        if stopping.wait_until(next_s):
            return


def _do(root: str, step: WslStep) -> None:
    if step.amount_bytes == 0:
        say("drop the page cache")
        reclaim.drop_caches(root, reclaim.DROP_PAGECACHE)
        return
    result = reclaim.reclaim(root, RECLAIM_PATH, step.amount_bytes)
    say(f"reclaim {step.amount_bytes >> 20} MiB: {result.outcome}")
    if result.outcome not in (reclaim.DONE, reclaim.PARTIAL):
        raise KernelFileError(RECLAIM_PATH, result.outcome, result.errno)
