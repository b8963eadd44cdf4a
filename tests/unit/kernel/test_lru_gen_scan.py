"""lru_gen as a stream: what is kept is what the whole would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import lru_gen, lru_gen_scan
from giveback_kernel.errors import KernelFileError
from giveback_kernel.lru_gen import Generation, NodeGenerations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATHS = ("/", "/a", "/a/b c", "/ab", "/w/d-1", "/w/d-1/s", "/w/d-12/s")


def pages_of(one: NodeGenerations) -> int:
    return sum(generation.file_pages for generation in one.generations)


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    text = ""
    for path in draw(st.lists(st.sampled_from(PATHS), max_size=6)):
        text += f"memcg {draw(st.integers(0, 3)):5d} {path}\n"
        for node in range(draw(st.integers(1, 3))):
            text += f" node {node:5d}\n"
            for number in range(draw(st.integers(0, 4))):
                text += f" {number:10d} {9:10d} {5:10d}  {draw(st.integers(0, 50)):10d} \n"
    return text.encode()


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    at = 0
    for size in sizes:
        if data[at : at + size]:
            yield data[at : at + size]
        at += size
    if data[at:]:
        yield data[at:]
    yield b""


@settings(deadline=None)
@given(
    texts(),
    st.lists(st.integers(1, 40), max_size=20),
    st.integers(0, 4),
    st.integers(0, 60),
    st.sampled_from(("", "/", "/w", "/w/d-1", "/a", "/none")),
)
def test_a_scan_keeps_the_best_of_the_whole_and_sums_all(
    data: bytes, sizes: list[int], keep: int, least: int, within: str
) -> None:
    found = lru_gen_scan.scan(cut(data, sizes), pages_of, least, keep, within)
    lists = [(one, lru_gen_scan.below(one.memcg_path, within)) for one in lru_gen.parse(data).lists]
    ours = [(one, path) for one, path in lists if path is not None]
    assert found.count == len(ours)
    assert found.file_pages == sum(pages_of(one) for one, _ in ours)
    assert found.ended_pages == sum(
        pages_of(one) for one, _ in ours if one.memcg_id == 0 and one.memcg_path != "/"
    )
    assert (found.read_bytes, found.complete) == (len(data), True)
    worth = sorted(
        (pages_of(one) for one, _ in ours if pages_of(one) >= max(1, least)), reverse=True
    )
    assert [pages_of(one) for one in found.lists] == worth[:keep]
    known = {(one.memcg_id, path, one.node, one.generations) for one, path in ours}
    assert {(o.memcg_id, o.memcg_path, o.node, o.generations) for o in found.lists} <= known


def test_memory_is_bounded_whatever_there_is() -> None:
    kept: list[int] = []

    def many() -> Iterator[bytes]:
        for number in range(5000):
            yield b"memcg %d /c%d\n node 0\n 1 9 0 %d \n" % (number + 1, number, 500 + number)
        yield b""

    def value(one: NodeGenerations) -> int:
        kept.append(one.memcg_id)
        return pages_of(one)

    found = lru_gen_scan.scan(many(), value, 4000, 8)
    assert [pages_of(one) for one in found.lists] == list(range(5499, 5491, -1))
    assert (found.count, len(kept)) == (5000, 1500)


def test_the_budget_ends_it_and_says_so(tmp_path: Path) -> None:
    root = plant(tmp_path, {lru_gen.PATH: sample("lru_gen") * 1000})
    whole = lru_gen_scan.scan(lru_gen_scan.pieces(root, 60.0), pages_of)
    assert whole.complete
    assert whole.count == 4000
    none = lru_gen_scan.scan(lru_gen_scan.pieces(root, 0.0), pages_of)
    assert (none.complete, none.count) == (False, 0)
    with pytest.raises(KernelFileError, match="lru_gen"):
        list(lru_gen_scan.pieces(str(tmp_path / "nothing")))


def test_a_file_of_more_than_a_mebibyte_is_read(tmp_path: Path) -> None:
    data = sample("lru_gen") * 4000
    assert len(data) > 2 << 20
    root = plant(tmp_path, {lru_gen.PATH: data})
    found = lru_gen_scan.scan(lru_gen_scan.pieces(root, 60.0), pages_of, keep=3)
    assert (found.complete, found.count, len(found.lists)) == (True, 16000, 3)


def test_a_list_is_found_and_no_more_is_read() -> None:
    def read() -> Iterator[bytes]:
        yield b"memcg 1 /\n node 0\n 1 9 0 7 \nmemcg 5 /a\n node 0\n 1 9 0 8 \n node 1\n 2 9 0 9 \n"
        yield b"memcg 6 /b\n"
        raise AssertionError

    found = lru_gen_scan.find(read(), 5, 1)
    assert found == NodeGenerations(5, "/a", 1, (Generation(2, 9, 0, 9),))
    assert lru_gen_scan.find([b"memcg 1 /\n node 0\n", b""], 5, 0) is None


@pytest.mark.parametrize("data", [b"x" * 20_000, b" node 0\n", b"memcg 1 /\n node 0\n 1 2 3 x\n"])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="lru_gen"):
        lru_gen_scan.scan([data, b""], pages_of)


@pytest.mark.parametrize(
    ("up_to", "inactive", "expected"),
    [(5, 30, (0, 30, 40, 50)), (5, 999, (0, 30, 40, 50)), (4, 5, (5, 20, 40, 50)), (3, 0, None)],
)
def test_generations_that_have_shrunk(
    up_to: int, inactive: int, expected: tuple[int, ...] | None
) -> None:
    before = (10, 20, 40, 50)
    one = NodeGenerations(
        1, "/a", 0, tuple(Generation(4 + n, 9, 0, pages) for n, pages in enumerate(before))
    )
    after = lru_gen.shrunk(one, up_to, inactive)
    assert tuple(generation.file_pages for generation in after) == (expected or before)
