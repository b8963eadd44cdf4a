"""mem-agent's memcg core: ages and evicts by the multi-gen LRU. Our re-implementation; rules are pure.

Each period, for each cgroup and node whose own stalls stayed within 1 %: age it, unless its
youngest generation is younger than 60 s. From the third ageing on, evict the oldest generation in
the smallest steps until it has no file pages, stops shrinking, stalls exceed the limit, or there
are fewer than four generations. Anonymous memory is left alone, which is Kata's default.

Source: kata-containers 7c6ba40, src/libs/mem-agent/src/memcg.rs.
"""

from __future__ import annotations

import os

from giveback_kernel import files, lru_gen
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record
from giveback_lab_guest.strategies.kata_psi import Psi
from giveback_lab_guest.strategies.loop import say

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel.lru_gen import NodeGenerations
    from giveback_lab_guest.strategies.loop import Stopping

GENERATIONS = 4
ALL_SWITCHES = 7
LEAST_PAGES = 1
PAGE_BYTES = 4096
NOTHING_OLD = "nothing old is left"
NOT_SHRINKING = "it does not shrink"
STALLS = "stalls"
TOO_FEW_GENERATIONS = "not four generations"


class KataMemcgRule(Record):
    """The constants, under Kata's own names; the last is a constant of its code."""

    period_secs: int = 600
    period_psi_percent_limit: int = 1
    eviction_psi_percent_limit: int = 1
    eviction_run_aging_count_min: int = 3
    idle_fresh_ignore_secs: int = 60


def may_age(rule: KataMemcgRule, one: NodeGenerations) -> bool:
    """Return whether the youngest generation is old enough for another ageing."""
    ages = [generation.age_ms for generation in one.generations]
    return bool(ages) and min(ages) >= rule.idle_fresh_ignore_secs * 1000


def oldest_pages(one: NodeGenerations) -> tuple[int, int]:
    """Return file and anonymous pages of the oldest generation."""
    oldest = one.generations[0]
    return oldest.file_pages, oldest.anon_pages


def why_stop(
    rule: KataMemcgRule, last: tuple[int, int] | None, now: NodeGenerations, psi_percent: int
) -> str:
    """Return why eviction stops here, or "" if it continues. `last`: the oldest before the last try."""
    numbers = [generation.number for generation in now.generations]
    if not numbers or max(numbers) - min(numbers) + 1 != GENERATIONS:
        return TOO_FEW_GENERATIONS
    file_pages, anon_pages = oldest_pages(now)
    if last is not None and file_pages >= last[0] and anon_pages >= last[1]:
        return NOT_SHRINKING
    if file_pages == 0:
        return NOTHING_OLD
    if last is not None and psi_percent > rule.eviction_psi_percent_limit:
        return STALLS
    return ""


class KataMemcgCore:
    """The rules with their state, on this guest."""

    def __init__(self, root: str, rule: KataMemcgRule) -> None:
        """Switch the multi-gen LRU on if it is off. Raises KernelFileError if the kernel has none."""
        self._root, self._rule = root, rule
        self._aged: dict[tuple[int, int], int] = {}
        self._psi: dict[tuple[int, int], Psi] = {}
        path = lru_gen.ENABLED_PATH
        if lru_gen.parse_enabled(files.read(root, path, 4096)) != ALL_SWITCHES:
            files.write(root, path, str(ALL_SWITCHES))
        if lru_gen.read_lru_gen(root) is None:
            raise KernelFileError(lru_gen.PATH, "missing: debugfs is needed")
        self._note_new(self._lists())

    def work(self, stopping: Stopping) -> None:
        """Do one period's work. Raises KernelFileError."""
        lists = self._lists()
        self._note_new(lists)
        for key, one in lists.items():
            if self._psi[key].read_percent() > self._rule.period_psi_percent_limit:
                continue
            if not may_age(self._rule, one) or not self._age(one):
                continue
            self._aged[key] += 1
            if self._aged[key] >= self._rule.eviction_run_aging_count_min:
                self._evict(key, one, stopping)

    def _lists(self) -> dict[tuple[int, int], NodeGenerations]:
        found = lru_gen.read_lru_gen(self._root)
        lists = () if found is None else found.lists
        return {(one.memcg_id, one.node): one for one in lists}

    def _note_new(self, lists: dict[tuple[int, int], NodeGenerations]) -> None:
        for key, one in lists.items():
            if key not in self._aged:
                self._aged[key] = 0
                self._psi[key] = Psi(self._root, one.memcg_path, children=False)

    def _age(self, one: NodeGenerations) -> bool:
        try:
            lru_gen.write_request(
                self._root, lru_gen.aging_request(one, can_swap=False, force=True)
            )
        except KernelFileError as error:
            say(f"age {one.memcg_path}: {error}")
            return False
        say(f"age {one.memcg_path} node {one.node}")
        return True

    def _evict(self, key: tuple[int, int], one: NodeGenerations, stopping: Stopping) -> None:
        psi = Psi(self._root, one.memcg_path, children=False)
        last: tuple[int, int] | None = None
        pages = 0
        while not stopping.wait(0.0):
            now = self._lists().get(key)
            if now is None:
                return
            stalled = 0 if last is None else psi.read_percent()
            why = why_stop(self._rule, last, now, stalled)
            if last is not None:
                pages += max(0, last[0] - now.generations[0].file_pages)
            if why:
                taken = pages * PAGE_BYTES >> 20
                say(f"evicted {taken} MiB of {one.memcg_path} node {one.node}: {why}")
                return
            last = oldest_pages(now)
            request = lru_gen.eviction_request(now, now.generations[0].number, 0, LEAST_PAGES)
            lru_gen.write_request(self._root, request)
            os.sched_yield()
