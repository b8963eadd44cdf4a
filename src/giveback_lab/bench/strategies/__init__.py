"""All strategies of the benchmark, in the order of its report."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.bench.strategies import damon, kata, plain, senpai, wsl
from giveback_lab.bench.strategies.giveback import GIVEBACK, PARTS
from giveback_lab.bench.strategies.proxmox import PROXMOX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback_lab.bench.strategy import Strategy

__all__ = ["PARTS", "STRATEGIES", "named"]
_ALL = (
    plain.NONE,
    plain.REPORTING,
    plain.ORDER_0,
    *plain.PROACTIVE,
    *wsl.STRATEGIES,
    *kata.STRATEGIES,
    *senpai.STRATEGIES,
    *damon.STRATEGIES,
    PROXMOX,
    GIVEBACK,
    *PARTS,
)
STRATEGIES: Mapping[str, Strategy] = MappingProxyType({one.name: one for one in _ALL})


def named(words: str) -> list[Strategy]:
    """Return the strategies of a comma list, in its order, each once. Raises InputError.

    A family's name, such as "wsl-gen2", stands for all strategies whose names begin with it.
    """
    given = (word.strip() for word in words.split(",") if word.strip())
    names = list(dict.fromkeys(name for word in given for name in _family(word)))
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown or not names:
        what = f"no strategy {', '.join(map(repr, unknown))}" if unknown else "names no strategy"
        raise InputError(f"--strategies {words}: {what}: there are {', '.join(STRATEGIES)}")
    return [STRATEGIES[name] for name in names]


def _family(word: str) -> list[str]:
    """Return the strategy of this name, else all of this family, else the word itself."""
    if word in STRATEGIES:
        return [word]
    return [name for name in STRATEGIES if name.startswith(f"{word}-")] or [word]
