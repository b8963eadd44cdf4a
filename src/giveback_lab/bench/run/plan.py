"""Which cells are measured, in which order, and which of them are already stored. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_lab.bench.model import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Strategies that giveback's agent carries out.
BY_THE_AGENT = ("giveback",)
# A stored result with another version of one of these cannot be reused. `agent` counts if it takes
# part.
DECISIVE = ("work", "strategy", "kernel", "qemu", "accel", "cpus", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """The cells that the user wants: every combination, `runs` times."""

    kernels: tuple[str, ...]
    mem_bytes: tuple[int, ...]
    works: tuple[str, ...]
    strategies: tuple[str, ...]
    runs: int


def plan(wish: Wish) -> list[Cell]:
    """Return all cells in the order of their measuring.

    Rounds are outermost, so that a run that is stopped early has whole rounds. Within a round and a
    workload the strategies alternate. Each round begins with another strategy, far from the last
    first one.
    """
    cells = []
    for number in range(1, wish.runs + 1):
        turn = rotated(wish.strategies, number, wish.runs)
        for kernel in wish.kernels:
            for mem_bytes in wish.mem_bytes:
                for work in wish.works:
                    cells += [Cell(kernel, mem_bytes, work, name, number) for name in turn]
    return cells


def rotated(names: Sequence[str], number: int, runs: int) -> list[str]:
    """Return the strategies in the order of round `number` of `runs`."""
    if not names:
        return []
    step = max(1, len(names) // runs)
    start = (number - 1) * step % len(names)
    return [*names[start:], *names[:start]]


def differences(cell: Cell, stored: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Return why a stored result of this cell does not count any more; empty if it does."""
    decisive = [*DECISIVE, *(["agent"] if is_by_agent(cell.strategy) else [])]
    return [
        f"{name} was {stored.get(name, 'unknown')} and is {now.get(name, 'unknown')}"
        for name in decisive
        if stored.get(name) != now.get(name)
    ]


def is_by_agent(strategy: str) -> bool:
    """Return whether giveback's agent takes part in this strategy."""
    return any(strategy == name or strategy.startswith(f"{name}-") for name in BY_THE_AGENT)


def remaining_s(
    took_s: Mapping[str, Sequence[float]], left: Sequence[str], fallback_s: float
) -> float:
    """Estimate the seconds for the workloads that are left, from cells of the same workloads.

    A workload that was never measured counts as the average of the others, else `fallback_s`. The
    caller divides by the number of cells that run at the same time.
    """
    known = {work: sum(took) / len(took) for work, took in took_s.items() if took}
    usual = sum(known.values()) / len(known) if known else fallback_s
    return sum(known.get(work, usual) for work in left)
