"""Which cells are measured, in which order, and which of them are there already. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_lab.bench.model import Cell

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Strategies that giveback's agent carries out.
BY_THE_AGENT = ("giveback",)
# A result of other versions of these is of another thing; of `agent`, where it is at work.
DECISIVE = ("work", "strategy", "kernel", "qemu", "accel", "cpus", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user wants measured; every combination of it, `runs` times."""

    kernels: tuple[str, ...]
    mem_bytes: tuple[int, ...]
    works: tuple[str, ...]
    strategies: tuple[str, ...]
    runs: int


def plan(wish: Wish) -> list[Cell]:
    """All cells in the order of their measuring.

    Rounds are outermost, so that whoever stops early has whole rounds. Within a round and a work the
    strategies take turns; each round begins with another, far from the one before.
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
    """The strategies in the order of round `number` of `runs`."""
    if not names:
        return []
    step = max(1, len(names) // runs)
    start = (number - 1) * step % len(names)
    return [*names[start:], *names[:start]]


def differences(cell: Cell, stored: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Why a stored result of this cell does not count any more; empty where it does."""
    decisive = [*DECISIVE, *(["agent"] if is_by_agent(cell.strategy) else [])]
    return [
        f"{name} was {stored.get(name, 'unknown')} and is {now.get(name, 'unknown')}"
        for name in decisive
        if stored.get(name) != now.get(name)
    ]


def is_by_agent(strategy: str) -> bool:
    """Whether giveback's agent is at work in this strategy."""
    return any(strategy == name or strategy.startswith(f"{name}-") for name in BY_THE_AGENT)


def remaining_s(
    took_s: Mapping[str, Sequence[float]], left: Sequence[str], fallback_s: float
) -> float:
    """An estimate for the works that are left, by what cells of the same work took each.

    A work that was never measured takes what the others took, else `fallback_s`. What ran side by
    side is the caller's to divide by.
    """
    known = {work: sum(took) / len(took) for work, took in took_s.items() if took}
    usual = sum(known.values()) / len(known) if known else fallback_s
    return sum(known.get(work, usual) for work in left)
