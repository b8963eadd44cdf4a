"""What a request to free memory brought, or would ask; `giveback reclaim` shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from giveback.manager.model import ReclaimResult, Returned


def announcement(plan: ReclaimResult) -> str:
    """Return one line on what will be requested; `plan` is a dry run's answer."""
    goal, most = plan.goal_bytes, plan.most_bytes
    asked = [part for part in plan.parts if part.expected_bytes]
    vms = f"{len(asked)} VM" + ("" if len(asked) == 1 else "s")
    if most < goal:
        return f"at most {size(most)} of {size(goal)} can come: asking {vms} for that"
    return f"asking {vms} for {size(goal)}, of {size(most)} that can come"


def text(result: ReclaimResult) -> str:
    """Return what came from which VM, the most first, then the sums; `result` is the daemon's answer."""
    order = "expected_bytes" if result.dry_run else "returned_bytes"
    parts = sorted(result.parts, key=lambda part: -getattr(part, order))
    names = [escape_for_terminal(part.vm, 48) for part in parts]
    width = max((len(name) for name in names), default=0)
    lines = [
        f"{name.ljust(width)}  {_amount(part, result)}" + _words(part)
        for name, part in zip(names, parts, strict=True)
    ]
    return "\n".join([*lines, *(_planned(result) if result.dry_run else _came(result))])


def _amount(part: Returned, result: ReclaimResult) -> str:
    expected = size(part.expected_bytes)
    if result.dry_run or not result.most_bytes:
        return f"{expected:>9}"
    return f"{size(part.returned_bytes):>9} of {expected}"


def _words(part: Returned) -> str:
    urgency = "" if part.urgency is None else f"urgency {part.urgency}"
    words = [word for word in (urgency, escape_for_terminal(part.words, 200)) if word]
    return f"  {': '.join(words)}" if words else ""


def _planned(result: ReclaimResult) -> list[str]:
    goal, most = size(result.goal_bytes), size(result.most_bytes)
    if not result.most_bytes:
        return [f"no VM can be asked for any of {goal}"]
    enough = "" if result.most_bytes >= result.goal_bytes else ": not enough"
    return [f"dry run, nothing was asked: {most} can come of {goal} wanted{enough}"]


def _came(result: ReclaimResult) -> list[str]:
    if not result.most_bytes:
        return [f"no VM can be asked for any of {size(result.goal_bytes)}"]
    came, goal = size(result.returned_bytes), size(result.goal_bytes)
    end = "reached" if result.reached else "not reached"
    if result.most_bytes < result.goal_bytes:
        end += f", at most {size(result.most_bytes)} could come"
    lines = [f"{came} of {goal} from those asked in {span(round(result.took_s, 1))}: {end}"]
    others, grown = result.others_returned_bytes, result.grown_bytes
    if others:
        lines.append(f"{size(others)} came from VMs that had not been asked")
    if grown:
        lines.append(f"VMs grew by {size(grown)} meanwhile")
    before, after = result.available_before_bytes, result.available_after_bytes
    if before is not None and after is not None:
        more = "more" if after >= before else "less"
        lines.append(
            f"the host has {size(after)} available, {size(abs(after - before))} {more} than before"
        )
    return lines
