"""The lines of `status --watch`: the four parts, and the pass that runs with its steps. Pure."""

from __future__ import annotations

from giveback_agent.service.pass_log import MIB
from giveback_kernel.escaping import escape_for_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

    from giveback_agent.policy.observation import Snapshot

# The marks of `giveback top`: they differ without colour.
MARKS = (("needed", "█"), ("cache", "▓"), ("trapped", "▒"), ("returned", "░"))
BAR_CELLS = 60
STEPS_SHOWN = 6


def parts(
    now: Snapshot, trapped_bytes: Optional[int], is_reported: Optional[bool]
) -> tuple[int, int, Optional[int], Optional[int]]:
    """Return needed, cache, trapped and returned memory in bytes, as the guest can know it.

    `trapped_bytes` are free in blocks that are not reported. Without page reporting all free memory may
    stay on the host. The last two are None where the kernel does not tell.
    """
    memory = now.meminfo
    cache = min(now.cache_bytes, memory.non_free_bytes)
    free = memory.mem_free_bytes
    if is_reported is False:
        trapped: Optional[int] = free
    else:
        trapped = None if trapped_bytes is None else min(trapped_bytes, free)
    returned = None if trapped is None or is_reported is None else free - trapped
    return memory.non_free_bytes - cache, cache, trapped, returned


def parts_lines(
    found: tuple[int, int, Optional[int], Optional[int]], total_bytes: int
) -> list[str]:
    """Return a bar of the guest's memory, and its parts in MiB."""
    bar, used, done = "", 0, 0
    for (_, mark), value in zip(MARKS, found):
        # The sum is rounded, not each part: so the bar never grows longer than all of them.
        done += max(0, value or 0)
        end = min(BAR_CELLS, round(done * BAR_CELLS / max(1, total_bytes)))
        bar += mark * (end - used)
        used = max(used, end)
    words = [
        f"{mark} {name} {'?' if value is None else value // MIB}"
        for (name, mark), value in zip(MARKS, found)
    ]
    return [
        f"memory    {total_bytes // MIB} MiB {bar.ljust(BAR_CELLS, '·')}",
        f"          {'  '.join(words)}  MiB",
    ]


def pass_lines(running: object, now_s: float) -> list[str]:
    """Return the pass that runs now and its last steps. The file is the agent's, but may be damaged."""
    if not isinstance(running, dict):
        return ["now       no pass runs"]
    started_s, doing = running.get("started_s"), running.get("doing")
    since = (
        f" since {max(0.0, now_s - started_s):.0f} s" if isinstance(started_s, (int, float)) else ""
    )
    why = escape_for_terminal(str(running.get("why") or ""), 60)
    lines = [f"now       a pass runs{since}" + (f": {why}" if why else "")]
    done = running.get("steps")
    for step in done[-STEPS_SHOWN:] if isinstance(done, list) else []:
        lines += _step_line(step)
    if doing:
        lines.append(f"          > {escape_for_terminal(str(doing), 100)}")
    return lines


def _step_line(step: Any) -> list[str]:
    try:
        kind, end = escape_for_terminal(step["kind"], 30), escape_for_terminal(step["end"], 20)
        freed_mib, took_s = step["freed_bytes"] // MIB, float(step["took_s"])
        return [f"          {kind} {end}: {freed_mib} MiB in {took_s:.1f} s"]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []
