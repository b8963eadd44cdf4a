"""What a request to free memory brought; `giveback reclaim` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from giveback.manager.model import ReclaimResult


def text(result: ReclaimResult) -> str:
    """Return what came from which VM, the most first, then the sum."""
    parts = sorted(result.parts, key=lambda part: -part.returned_bytes)
    names = [escape_for_terminal(part.vm, 48) for part in parts]
    width = max((len(name) for name in names), default=0)
    lines = [
        f"{name.ljust(width)}  {size(part.returned_bytes):>9} of {size(part.expected_bytes)}"
        + (f"  {escape_for_terminal(part.words, 200)}" if part.words else "")
        for name, part in zip(names, parts, strict=True)
    ]
    came, goal = size(result.returned_bytes), size(result.goal_bytes)
    end = "reached" if result.reached else "not reached"
    lines.append(f"{came} of {goal} in {result.took_s:.1f} s: {end}")
    if not result.reached and not parts:
        lines.append("no VM had anything to give; `giveback status` shows how each stands")
    return "\n".join(lines)
