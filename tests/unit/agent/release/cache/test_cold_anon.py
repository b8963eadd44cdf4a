"""Which anonymous pages of which cgroups are cold, and when swapping them out frees nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.release.cache import cold_anon
from giveback_agent.release.cache.cold_anon import (
    ColdAnonResult,
    cold_pages,
    probe,
    why_not,
    worthy,
)
from giveback_kernel import lru_gen
from giveback_kernel.lru_gen import Generation, LruGen, NodeGenerations

MIB = 1 << 20
PAGE = 4096
HEADING = b"Filename\tType\tSize\tUsed\tPriority\n"
SWAPS = HEADING + b"/dev/zram0 partition 1048576 0 100\n/swap file 1048576 0 -2\n"


def one(
    *anon_mib: int,
    ages_s: tuple[int, ...] = (900, 600, 300, 10),
    memcg_id: int = 3,
    path: str = "/a",
) -> NodeGenerations:
    """A list of one to four generations, the oldest first."""
    generations = [
        Generation(n, age_s * 1000, anon * MIB // PAGE, 0)
        for n, (anon, age_s) in enumerate(zip(anon_mib, ages_s[-len(anon_mib) :], strict=True))
    ]
    return NodeGenerations(memcg_id, path, 0, tuple(generations))


def mib(pages: int) -> int:
    return pages * PAGE // MIB


def test_cold_is_what_is_older_than_the_two_youngest_once_the_second_is_old_enough() -> None:
    assert mib(cold_pages(one(7, 20, 30, 40), 300)) == 27
    assert cold_pages(one(7, 20, 30, 40), 301) == 0
    assert cold_pages(one(30, 40), 0) == 0
    assert cold_pages(NodeGenerations(1, "/a", 0, ()), 0) == 0


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=4), st.floats(0, 1000))
def test_the_two_youngest_are_never_among_it(anon_mib: list[int], after_s: float) -> None:
    of = one(*anon_mib)
    assert mib(cold_pages(of, after_s)) <= sum(anon_mib[:-2])


def test_live_lists_with_enough_memory_are_chosen_the_largest_first() -> None:
    small, large, huge = one(1, 1, path="/s"), one(50, 50, path="/l"), one(90, 90, path="/h")
    dying = one(500, 500, memcg_id=0, path="/gone")
    whole = one(60, 60, memcg_id=0, path="")
    lru = LruGen((small, large, dying, huge, whole))
    assert worthy(lru, PAGE, ()) == [huge, whole, large]
    assert worthy(lru, PAGE, ("h",)) == [whole, large]
    many = LruGen(tuple([one(50, 50)] * (cold_anon.LISTS_LIMIT + 5)))
    assert len(worthy(many, PAGE, ())) == cold_anon.LISTS_LIMIT


@pytest.mark.parametrize(
    ("swaps", "mm_stat", "words"),
    [
        (HEADING, b"", "no swap area has free space"),
        (HEADING + b"/swap file 1048576 1048000 -2\n", b"", "no swap area has free space"),
        (HEADING + b"/swap file 1048576 0 -2\n", b"", ""),
        (SWAPS, b"0 0 0 0 0 0 0 0 0\n", ""),
        (SWAPS, b"104857600 20000000 30000000 0 0 0 0 0 0\n", ""),
        (SWAPS, b"104857600 90000000 95000000 0 0 0 0 0 0\n", "/dev/zram0 compresses too little"),
        # If a zram is full, the next area counts.
        (
            HEADING + b"/dev/zram0 partition 1048576 1048576 100\n/swap file 1048576 0 -2\n",
            b"104857600 90000000 95000000 0 0 0 0 0 0\n",
            "",
        ),
    ],
)
def test_a_full_swap_or_a_zram_that_compresses_too_little_is_not_used(
    tmp_path: Path, swaps: bytes, mm_stat: bytes, words: str
) -> None:
    root = plant(tmp_path, {"/proc/swaps": swaps, "/sys/block/zram0/mm_stat": mm_stat})
    assert why_not(root) == words
    refused = cold_anon.reclaim_cold_anon(
        plant(tmp_path, {**GUEST, "/sys/kernel/debug/lru_gen": b""}), 1 << 30, 300
    )
    assert refused == ColdAnonResult(refused=words)


def test_it_is_possible_with_swap_and_ages_only(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/proc/swaps": SWAPS})
    assert probe(root, generations=True)
    assert not probe(root, generations=False)
    assert not probe(plant(tmp_path, {"/proc/swaps": HEADING}), generations=True)


def test_it_evicts_what_is_cold_within_the_amount_then_ages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrote: list[str] = []
    monkeypatch.setattr(lru_gen, "write_request", lambda _root, text: wrote.append(text))
    lru = LruGen((one(100, 10, 10, 10, ages_s=(900, 600, 400, 350)), one(20, 20, memcg_id=4)))
    monkeypatch.setattr(lru_gen, "read_lru_gen", lambda _root: lru)
    root = plant(tmp_path, {**GUEST, "/proc/swaps": HEADING + b"/swap file 1048576 0 -2\n"})
    assert cold_anon.reclaim_cold_anon(root, 50 * MIB, 300).aged == 1
    most = cold_anon.WRITE_BYTES // PAGE
    assert wrote == [f"- 3 0 1 200 {most}", f"- 3 0 1 200 {50 * MIB // PAGE - most}", "+ 3 0 3 1 1"]
    wrote.clear()
    cold_anon.reclaim_cold_anon(root, 1 << 40, 300, exclude=("a",))
    assert wrote == []
