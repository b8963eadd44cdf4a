"""mem-agent's rules: what makes it compact, age and evict, by Kata's constants."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel.lru_gen import Generation, NodeGenerations, eviction_request
from giveback_kernel.pagetypeinfo import MigrateTypeBlocks, PageTypeInfo
from giveback_lab_guest.strategies import kata, kata_compact, kata_memcg
from giveback_lab_guest.strategies.kata_compact import is_due, movable_pages
from giveback_lab_guest.strategies.kata_memcg import may_age, why_stop
from giveback_lab_guest.strategies.kata_psi import Psi, Reading, percent

MIB = 1 << 20
COMPACT = kata_compact.KataCompactRule()
MEMCG = kata_memcg.KataMemcgRule()


def lists(oldest: int, anon: int = 0, numbers: int = 4, age_ms: int = 61_000) -> NodeGenerations:
    """Return one cgroup's generations; the oldest has `oldest` file pages."""
    generations = [Generation(7, 9 * age_ms, anon, oldest)]
    generations += [Generation(7 + n, age_ms, 100, 100) for n in range(1, numbers)]
    return NodeGenerations(1, "/", 0, tuple(generations))


def test_percents_are_whole_and_the_first_is_none() -> None:
    assert percent(Reading(0, 0.0), Reading(900_000, 1.0)) == 0
    assert percent(Reading(1000, 0.0), Reading(20_900, 1.0)) == 1
    assert percent(Reading(1000, 0.0), Reading(21_000, 1.0)) == 2
    assert percent(Reading(1000, 0.0), Reading(900, 1.0)) == 0
    assert percent(Reading(1000, 1.0), Reading(2000, 1.0)) == 0


def test_a_cgroups_own_stalls_are_without_its_childrens(tmp_path: Path) -> None:
    line = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\n"

    def write(folder: str, memory: int, io: int) -> None:
        path = tmp_path / folder.lstrip("/")
        path.mkdir(parents=True, exist_ok=True)
        dot = "." if "cgroup" in folder else ""
        for name, total in (("memory", memory), ("io", io)):
            suffix = ".pressure" if dot else ""
            (path / f"{name}{suffix}").write_text(line.format(total))

    write("/proc/pressure", 5000, 5000)
    write("/sys/fs/cgroup/a", 1000, 2000)
    whole = Psi(str(tmp_path), "/", children=True)
    own = Psi(str(tmp_path), "/", children=False)
    assert whole._total_us("memory") == 5000
    assert own._total_us("memory") == 4000
    assert own._total_us("io") == 3000
    assert Psi(str(tmp_path), "/a", children=False)._total_us("io") == 2000


def test_compaction_waits_for_small_movable_blocks_or_less_free_memory() -> None:
    after = kata_compact.KataCompactState(free_bytes=500 * MIB, movable_pages=1000)
    assert not is_due(COMPACT, after, 0, 500 * MIB, 2024)
    assert is_due(COMPACT, after, 0, 500 * MIB, 2025)
    assert not is_due(COMPACT, after, 0, 496 * MIB, 0)
    assert is_due(COMPACT, after, 0, 496 * MIB - 1, 0)
    assert is_due(COMPACT, after, 1, 500 * MIB, 2025)
    assert not is_due(COMPACT, after, 2, 500 * MIB, 2025)


def test_only_movable_pages_below_the_order_count() -> None:
    counts = (3, 2, 0, 0, 0, 0, 0, 0, 1, 5, 7)
    free = tuple(
        MigrateTypeBlocks(0, zone, kind, counts)
        for zone in ("DMA32", "Normal")
        for kind in ("Unmovable", "Movable", "Reclaimable")
    )
    assert movable_pages(PageTypeInfo(9, 512, free), 9) == 2 * (3 + 4 + 256)


def test_a_young_list_is_not_aged() -> None:
    assert may_age(MEMCG, lists(10))
    assert not may_age(MEMCG, lists(10, age_ms=59_999))
    assert not may_age(MEMCG, NodeGenerations(1, "/", 0, ()))


@pytest.mark.parametrize(
    ("last", "now", "stalled", "why"),
    [
        (None, lists(100), 0, ""),
        (None, lists(0), 0, kata_memcg.NOTHING_OLD),
        (None, lists(100, numbers=3), 0, kata_memcg.TOO_FEW_GENERATIONS),
        (None, NodeGenerations(1, "/", 0, ()), 0, kata_memcg.TOO_FEW_GENERATIONS),
        ((100, 0), lists(100), 0, kata_memcg.NOT_SHRINKING),
        ((100, 0), lists(36), 0, ""),
        ((100, 0), lists(0), 0, kata_memcg.NOTHING_OLD),
        ((100, 0), lists(36), 1, ""),
        ((100, 0), lists(36), 2, kata_memcg.STALLS),
    ],
)
def test_why_eviction_stops(
    last: tuple[int, int] | None, now: NodeGenerations, stalled: int, why: str
) -> None:
    assert why_stop(MEMCG, last, now, stalled) == why


@settings(deadline=None)
@given(st.integers(1, 2000), st.integers(1, 1 << 12), st.integers(0, 100))
def test_eviction_comes_to_an_end(pages: int, each: int, anon: int) -> None:
    """However much each write takes, the loop ends, and the kernel accepts each request."""
    last: tuple[int, int] | None = None
    for _ in range(pages // each + 3):
        now = lists(pages, anon)
        if why_stop(MEMCG, last, now, 0):
            return
        eviction_request(now, now.generations[0].number, 0, kata_memcg.LEAST_PAGES)
        last, pages = kata_memcg.oldest_pages(now), max(0, pages - each)
    raise AssertionError("it goes on for ever")


def test_an_option_belongs_to_the_cores_that_have_it() -> None:
    fields = kata_memcg.KataMemcgRule._fields
    assert kata._known(["period_secs=61", "compact_order=5"], fields) == ["period_secs=61"]
    with pytest.raises(ValueError, match="no constant 'x=1'"):
        kata._known(["x=1"], fields)
