"""The multi-gen LRU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import lru_gen
from giveback_kernel.errors import KernelFileError
from giveback_kernel.lru_gen import Generation, LruGen, NodeGenerations

if TYPE_CHECKING:
    from pathlib import Path

PAGES = st.integers(0, 1 << 40)


@st.composite
def generations(draw: st.DrawFn) -> tuple[Generation, ...]:
    first = draw(st.integers(0, 1 << 40))
    return tuple(
        Generation(first + n, draw(st.integers(0, 1 << 32)), draw(PAGES), draw(PAGES))
        for n in range(draw(st.integers(1, 4)))
    )


@st.composite
def lrus(draw: st.DrawFn) -> LruGen:
    lists = []
    for memcg_id in draw(st.lists(st.integers(0, 1 << 63), min_size=1, max_size=3, unique=True)):
        path = draw(st.sampled_from(["/", "/system.slice/a b.service", "/" + "x" * 200]))
        lists += [
            NodeGenerations(memcg_id, path, node, draw(generations()))
            for node in range(draw(st.integers(1, 2)))
        ]
    return LruGen(tuple(lists))


def written(lru: LruGen) -> bytes:
    """Print as lru_gen_seq_show() does, a trailing blank after each size included."""
    text = ""
    for one in lru.lists:
        if one.node == 0:
            text += f"memcg {one.memcg_id:5d} {one.memcg_path}\n"
        text += f" node {one.node:5d}\n"
        for generation in one.generations:
            text += f" {generation.number:10d} {generation.age_ms:10d}"
            text += f" {generation.anon_pages:10d}  {generation.file_pages:10d} \n"
    return text.encode()


@settings(deadline=None)
@given(lrus())
def test_what_is_written_is_read_back(lru: LruGen) -> None:
    assert lru_gen.parse(written(lru)) == lru


def test_a_file() -> None:
    lru = lru_gen.parse(sample("lru_gen"))
    assert [(one.memcg_id, one.node) for one in lru.lists] == [(1, 0), (1, 1), (42, 0), (42, 1)]
    assert lru.lists[2].memcg_path == "/system.slice/a b.service"
    assert lru.lists[0].generations[1] == Generation(6, 91204, 33, 2048)


ONE = NodeGenerations(
    7, "/", 1, (Generation(4, 9, 1, 1), Generation(5, 8, 1, 1), Generation(6, 7, 1, 1))
)


@pytest.mark.parametrize(
    ("can_swap", "force", "expected"),
    [(None, False, "+ 7 1 6"), (True, False, "+ 7 1 6 1 0"), (False, True, "+ 7 1 6 0 1")],
)
def test_a_request_to_age(can_swap: bool | None, force: bool, expected: str) -> None:
    assert lru_gen.aging_request(ONE, can_swap, force) == expected


@pytest.mark.parametrize(
    ("swappiness", "pages", "expected"),
    [(None, None, "- 7 1 4"), (0, None, "- 7 1 4 0"), (0, 256, "- 7 1 4 0 256")],
)
def test_a_request_to_evict(swappiness: int | None, pages: int | None, expected: str) -> None:
    assert lru_gen.eviction_request(ONE, 4, swappiness, pages) == expected


def test_requests_that_the_kernel_would_refuse() -> None:
    with pytest.raises(ValueError, match="too young"):
        lru_gen.eviction_request(ONE, 5)
    with pytest.raises(ValueError, match="swappiness"):
        lru_gen.eviction_request(ONE, 4, None, 1)
    with pytest.raises(ValueError, match="can_swap"):
        lru_gen.aging_request(ONE, None, True)
    with pytest.raises(ValueError, match="no generations"):
        lru_gen.aging_request(NodeGenerations(1, "/", 0, ()))


@pytest.mark.parametrize(
    ("data", "expected"), [(b"0x0007\n", 7), (b"0x0000\n", 0), (b"0x00ff", 255)]
)
def test_the_switch(data: bytes, expected: int) -> None:
    assert lru_gen.parse_enabled(data) == expected


@pytest.mark.parametrize("data", [b"", b"7\n", b"0x\n", b"0x-1\n", b"0x_1\n", b"0xg\n", b"y\n"])
def test_a_strange_switch_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="enabled"):
        lru_gen.parse_enabled(data)


def test_the_switch_is_read(tmp_path: Path) -> None:
    assert lru_gen.read_enabled(str(tmp_path)) is False
    assert lru_gen.read_enabled(plant(tmp_path, {lru_gen.ENABLED_PATH: b"0x0007\n"})) is True
    assert lru_gen.read_enabled(plant(tmp_path, {lru_gen.ENABLED_PATH: b"0x0006\n"})) is False


def test_the_histogram_is_read_and_asked(tmp_path: Path) -> None:
    assert lru_gen.read_lru_gen(str(tmp_path)) is None
    root = plant(tmp_path, {lru_gen.PATH: sample("lru_gen")})
    lru = lru_gen.read_lru_gen(root)
    assert lru == lru_gen.parse(sample("lru_gen"))
    plant(tmp_path, {lru_gen.PATH: b""})
    lru_gen.write_request(root, "+ 1 0 8")
    assert (tmp_path / lru_gen.PATH.lstrip("/")).read_bytes() == b"+ 1 0 8"


@pytest.mark.parametrize(
    "data",
    [
        b" node 0\n",
        b"memcg 1 /\n 1 2 3 4\n",
        b"memcg\n",
        b"memcg x /\n",
        b"memcg 1 /\n node 0\n 1 2 3\n",
        b"memcg 1 /\n node 0\n 1 2 3 -4\n",
        b"memcg 1 /\n node x\n",
        b"memcg 1 /\n node 0 0\n",
        b"hello\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="lru_gen"):
        lru_gen.parse(data)
