"""Senpai on the root cgroup: reclaim until stalls begin. Our re-implementation; rules are pure.

There are two control laws:

- `senpai`, from TMO's paper (Weiner et al., ASPLOS 2022): every 6 s reclaim 1/2000 of the memory in use,
  and less as the stalls approach 0.1 %.
- `senpai-oomd`, from published code (facebookincubator/oomd 88c28fd, immediate_backoff in
  src/oomd/plugins/Senpai.cpp): if memory and io stalled less than 0.1 % over 10 and 60 s, reclaim 1/100 of
  what is above the minimum, at every sixth run of oomd's 5 s. After a run with stalls it tries again at
  the next run.
"""

from __future__ import annotations

import time

from giveback_kernel import reclaim
from giveback_kernel.errors import KernelFileError
from giveback_kernel.meminfo import read_meminfo
from giveback_kernel.pressure import read_pressure
from giveback_kernel.record import Record, replace
from giveback_kernel.swaps import read_swaps
from giveback_lab_guest.strategies.loop import STARTED, say, with_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.meminfo import MemInfo
    from giveback_kernel.pressure import Pressure
    from giveback_lab_guest.strategies.loop import Stopping

PAGE_BYTES = 4096


class SenpaiRule(Record):
    """The constants of both laws; `ticks` is the least number of periods between two reclaims."""

    period_s: float
    ticks: int
    ratio: float
    psi_percent: float = 0.1
    limit_min_bytes: int = 100 << 20


class SenpaiState(Record):
    """Periods since the last reclaim, and the stalled time at the last sample."""

    ticks: int = 0
    stalled_us: int | None = None
    at_s: float = 0.0


class SenpaiSample(Record):
    """`averages`: some avg10 and avg60 of memory and io; `stalled_us`: the larger `some` total."""

    at_s: float
    current_bytes: int
    reclaimable_bytes: int
    averages: tuple[float, ...]
    stalled_us: int


RULES = {
    "senpai": SenpaiRule(6.0, 1, 0.0005),
    "senpai-oomd": SenpaiRule(5.0, 6, 0.01),
}


def tmo(rule: SenpaiRule, state: SenpaiState, seen: SenpaiSample) -> tuple[int, SenpaiState]:
    """Return how many bytes to reclaim now, by the paper's law, and the next state."""
    looked = SenpaiState(0, seen.stalled_us, seen.at_s)
    elapsed_us = (seen.at_s - state.at_s) * 1e6
    if state.stalled_us is None or elapsed_us <= 0:
        return 0, looked
    percent = max(0, seen.stalled_us - state.stalled_us) * 100 / elapsed_us
    share = rule.ratio * max(0.0, 1 - percent / rule.psi_percent)
    return int(seen.current_bytes * share) // PAGE_BYTES * PAGE_BYTES, looked


def oomd(rule: SenpaiRule, state: SenpaiState, seen: SenpaiSample) -> tuple[int, SenpaiState]:
    """Return how many bytes to reclaim now, by the code's law, and the next state."""
    waited = replace(state, ticks=state.ticks + 1)
    least = rule.limit_min_bytes + seen.current_bytes - seen.reclaimable_bytes
    if waited.ticks < rule.ticks or max(seen.averages) >= rule.psi_percent:
        return 0, waited
    if seen.current_bytes <= least:
        return 0, waited
    amount = int((seen.current_bytes - least) * rule.ratio) // PAGE_BYTES * PAGE_BYTES
    return amount, replace(waited, ticks=0)


def look(at_s: float, memory: MemInfo, stalls: tuple[Pressure, ...], swap: bool) -> SenpaiSample:
    """Combine the inputs of the rules into a sample.

    The root cgroup has no memory.current: like oomd, use MemTotal - MemFree.
    """
    anon = memory.active_anon_bytes + memory.inactive_anon_bytes
    return SenpaiSample(
        at_s=at_s,
        current_bytes=memory.non_free_bytes,
        reclaimable_bytes=memory.file_bytes + (anon if swap else 0),
        averages=tuple([a for one in stalls for a in (one.some.avg10, one.some.avg60)]),
        stalled_us=max([one.some.total_us for one in stalls]),
    )


def serve(root: str, name: str, options: list[str], stopping: Stopping) -> None:
    """Run until told to stop. Raises KernelFileError without memory.reclaim or PSI."""
    rule = with_options(RULES[name], options)
    decide = tmo if name == "senpai" else oomd
    path = reclaim.root_reclaim_path(root)
    if path is None:
        raise KernelFileError("memory.reclaim", "missing at the root cgroup")
    _stalls(root)
    say(STARTED)
    state = SenpaiState()
    while not stopping.wait(rule.period_s):
        swap = bool(read_swaps(root).areas)
        seen = look(time.monotonic(), read_meminfo(root), _stalls(root), swap)
        amount, state = decide(rule, state, seen)
        if amount > 0:
            result = reclaim.reclaim(root, path, amount)
            say(f"reclaim {amount >> 10} KiB: {result.outcome}")


def _stalls(root: str) -> tuple[Pressure, ...]:
    found = [read_pressure(resource, root) for resource in ("memory", "io")]
    stalls = tuple([one for one in found if one is not None])
    if len(stalls) < len(found):
        raise KernelFileError("/proc/pressure", "missing: PSI is needed")
    return stalls
