"""The exact ledger: runs, orders, and the join of two arrays of pages."""

from __future__ import annotations

import base64
import tracemalloc
import zlib
from array import array
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.accounting import page_ledger
from giveback.errors import InputError, VmError
from giveback.host.pagemap import ABSENT, PAGE_BYTES, PRESENT, SWAPPED
from giveback.reporters import page_table
from giveback.vmm.layout import Placement
from giveback_kernel import kpageflags
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from pathlib import Path

LETTERS = st.lists(st.sampled_from(list(b"FAMDCSTORHNK")), max_size=300).map(bytes)


def packed(runs: bytes) -> str:
    return base64.b64encode(zlib.compress(runs)).decode()


@pytest.mark.parametrize(
    ("bits", "letter"),
    [
        ((10,), "F"),
        ((5, 12, 14), "A"),
        ((5, 14), "M"),
        ((5,), "C"),
        ((5, 4), "D"),
        ((5, 8), "D"),
        ((7,), "S"),
        ((26,), "T"),
        ((23,), "O"),
        ((32,), "R"),
        ((17,), "H"),
        ((20,), "N"),
        ((), "K"),
        ((16,), "K"),
    ],
)
def test_flags_have_a_class(bits: tuple[int, ...], letter: str) -> None:
    assert chr(kpageflags.classify(sum(1 << bit for bit in bits))) == letter


# No page has several of these flags, so that their precedence is not tested.
UPPER = [1 << 20, 1 << 23, 1 << 17, 1 << 26]


@given(st.lists(st.tuples(st.integers(0, (1 << 17) - 1), st.sampled_from([0, *UPPER]),
                          st.sampled_from([0, 1 << 32, 1 << 40])), max_size=50),
       st.binary(max_size=7))  # fmt: skip
def test_columns_classify_as_single_pages_do(
    pages: list[tuple[int, int, int]], rest: bytes
) -> None:
    flags = array("Q", [low | upper | top for low, upper, top in pages])
    found = kpageflags.classes(flags.tobytes() + rest)
    assert found == bytes([kpageflags.classify(page) for page in flags])


@given(LETTERS)
def test_runs_decode_to_the_encoded_pages(letters: bytes) -> None:
    sent = packed(kpageflags.encode(kpageflags.runs(letters)))
    assert page_ledger.decode(sent, 1000).tobytes() == letters
    assert page_ledger.decode(sent, 7).tobytes() == letters[:7]


def test_chunks_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = array("Q", [1 << 10] * 5 + [1 << 12] * 4 + [0])
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/kpageflags").write_bytes(flags.tobytes() + b"\0\0\0")
    monkeypatch.setattr(kpageflags, "_CHUNK_PAGES", 3)

    def sent(limit: int = kpageflags.PAGES_LIMIT) -> bytes:
        return b"".join(map(kpageflags.encode, kpageflags.read_chunks(str(tmp_path), limit)))

    assert sent() == b"F3F2A1A3K1"
    assert page_ledger.decode(packed(sent()), 100).tobytes() == b"FFFFFAAAAK"
    assert sent(6) == b"F3F2A1"
    with pytest.raises(KernelFileError, match="kpageflags"):
        next(kpageflags.read_chunks("/nonexistent"))


@pytest.mark.parametrize(
    "lie", ["", "no base64!", packed(b"F5 A3"), packed(b"F"), packed(b"5F"), packed(b"F-5"),
            packed(b"F5A3")[:-8], base64.b64encode(b"F5A3").decode()],
)  # fmt: skip
def test_text_that_is_not_runs_is_refused(lie: str) -> None:
    with pytest.raises(InputError):
        page_ledger.decode(lie, 100)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_ledger, "RUNS_LIMIT_BYTES", 1000)
    with pytest.raises(InputError, match="more than 1000"):
        page_ledger.decode(packed(b"F1A1" * 100_000), 100)


def test_huge_counts_do_not_fill_memory() -> None:
    sent = packed(b"F999999999999" * 1000)
    assert len(page_ledger.decode(sent, 50)) == 50


@pytest.mark.parametrize("limit", [3 * 4096, 500_000])
def test_runs_that_are_unpacked_in_pieces_decode_to_the_encoded_pages(limit: int) -> None:
    letters = b"FFFFFFFFFFFAAM" * 30_000
    sent = packed(kpageflags.encode(kpageflags.runs(letters)))
    assert page_ledger.decode(sent, limit).tobytes() == letters[:limit]


def test_tiny_runs_do_not_fill_memory() -> None:
    """A guest of 50 pages cannot make us decode tens of millions of runs."""
    sent = packed(b"F1A1" * 8_000_000)
    tracemalloc.start()
    try:
        assert len(page_ledger.decode(sent, 50)) == 50
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 64 << 20


@pytest.mark.parametrize("lie", [b"F0A3", b"F1" + b"9" * 500_000])
def test_empty_and_endless_runs_are_refused(lie: bytes) -> None:
    with pytest.raises(InputError, match="not runs"):
        page_ledger.decode(packed(lie), 100)


def test_the_order_of_a_block_follows_from_guest_addresses() -> None:
    """The hole below 1 MiB shifts later pages: shifted by 8 pages, a block of 16 is not aligned."""
    frames = np.full(64, kpageflags.ANON, dtype=np.uint8)
    frames[32:48] = kpageflags.FREE
    way = (
        Placement(0, 0, 8 * PAGE_BYTES),
        Placement(16 * PAGE_BYTES, 8 * PAGE_BYTES, 48 * PAGE_BYTES),
    )
    ranges = [(0, 56 * PAGE_BYTES)]
    used = page_ledger.arranged(way, ranges, frames, page_ledger.UNKNOWN)
    blocks = page_ledger.arranged(way, ranges, page_ledger.orders(frames), -1)
    joined = page_ledger.join_states(used, np.full(56, PRESENT, dtype=np.uint8), blocks)
    assert [row.label for row in joined.free_by_order] == ["64 KiB (order 4)"]
    assert joined.residue_bytes == 16 * PAGE_BYTES


LOW, HIGH = 300 * PAGE_BYTES, 100 * PAGE_BYTES
BELOW = (Placement(0, HIGH, LOW), Placement(LOW, 0, HIGH))
ABOVE = (Placement(0, 0, LOW), Placement(LOW, LOW, HIGH))


@given(st.integers(0, 399), st.integers(1, 400), st.sampled_from([BELOW, ABOVE]))
def test_the_layout_that_fits_is_chosen(
    start: int, count: int, true: tuple[Placement, ...]
) -> None:
    frames = np.full(400, kpageflags.FREE, dtype=np.uint8)
    frames[start : start + count] = kpageflags.ANON
    ranges = [(0, LOW + HIGH)]
    used = page_ledger.arranged(true, ranges, frames, page_ledger.UNKNOWN)
    states = np.where(used == kpageflags.ANON, np.uint8(PRESENT), np.uint8(ABSENT))
    found, fit = page_ledger.fitting((BELOW, ABOVE), ranges, frames, states)
    assert (
        page_ledger.arranged(found, ranges, frames, page_ledger.UNKNOWN).tolist() == used.tolist()
    )
    assert fit.startswith("0.0% ")


def test_no_layout_is_chosen_if_none_fits() -> None:
    frames = np.full(400, kpageflags.ANON, dtype=np.uint8)
    states = np.full(400, ABSENT, dtype=np.uint8)
    with pytest.raises(VmError, match="no possible layout of the RAM fits"):
        page_ledger.fitting((BELOW, ABOVE), [(0, LOW + HIGH)], frames, states)


def test_orders_are_of_aligned_blocks() -> None:
    classes = np.full(64, kpageflags.ANON, dtype=np.uint8)
    classes[3] = classes[8:16] = classes[32:] = kpageflags.FREE
    classes[17:20] = kpageflags.FREE
    found = page_ledger.orders(classes).tolist()
    assert found[3] == 0
    assert found[8:16] == [3] * 8
    assert found[17:20] == [0, 1, 1]
    assert found[32:] == [5] * 32
    assert found[:3] == [-1] * 3


@given(LETTERS, st.randoms())
def test_every_page_is_counted_once(letters: bytes, random: object) -> None:
    classes = np.frombuffer(letters, dtype=np.uint8)
    pick = random.choice  # type: ignore[attr-defined]
    states = np.array([pick((ABSENT, PRESENT, SWAPPED)) for _ in letters], dtype=np.uint8)
    joined = page_ledger.join_states(classes, states, page_ledger.orders(classes))
    assert joined.ram_bytes == len(letters) * PAGE_BYTES
    assert joined.resident_bytes == int((states == PRESENT).sum()) * PAGE_BYTES
    free = classes == kpageflags.FREE
    assert sum(row.ram_bytes for row in joined.free_by_order) == int(free.sum()) * PAGE_BYTES
    assert joined.residue_bytes == int((free & (states == PRESENT)).sum()) * PAGE_BYTES
    assert "page by page" in page_table.text(joined)
    assert page_table.document(joined)["residue_bytes"] == joined.residue_bytes
