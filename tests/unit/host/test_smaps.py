"""smaps and status: parsed, summed, bounded."""

from __future__ import annotations

import mmap
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError
from giveback.host import procs, smaps

ENTRY = """\
7f1d8bfff000-7f1e8bfff000 rw-s 00001000 00:01 26                         /memfd:ram (deleted)
Size:            4194304 kB
KernelPageSize:     2048 kB
MMUPageSize:           4 kB
Rss:                1024 kB
Pss:                 512 kB
Swap:                 16 kB
KSM:                   4 kB
AnonHugePages:        64 kB
ShmemPmdMapped:      128 kB
FilePmdMapped:       256 kB
Shared_Hugetlb:     2048 kB
Private_Hugetlb:    4096 kB
Locked:              512 kB
THPeligible:           0
VmFlags: rd wr sh mr mw me ms dc hg
7f1e8bfff000-7f1e8c000000 ---p 00000000 00:00 0
Size:                  4 kB
Rss:                   0 kB
"""


LINES = b" rw-p 00000000 00:00 0\nSize: 1024 kB\nRss: 8 kB\nPss: 4 kB\n"


def test_every_field_is_read() -> None:
    ram, guard = smaps.parse_smaps(ENTRY.encode())
    assert ram.size_bytes == 4 << 30
    assert (ram.permissions, ram.offset_bytes, ram.device, ram.inode) == ("rw-s", 4096, "00:01", 26)
    assert ram.name == "/memfd:ram (deleted)"
    assert ram.kernel_page_bytes == 2 << 20
    assert (ram.thp_eligible, guard.thp_eligible) == (False, None)
    assert ram.usage == smaps.Usage(
        1 << 20, 512 << 10, 16 << 10, 6 << 20, 448 << 10, 512 << 10, 4096
    )
    assert ram.usage.resident_bytes == 7 << 20
    assert ram.usage.shared_bytes == 512 << 10
    assert guard.name == ""
    assert guard.usage == smaps.Usage()


def test_the_total_is_the_sum_of_the_mappings() -> None:
    text = smaps.read_smaps("/", os.getpid())
    assert smaps.total(text) == smaps.add(m.usage for m in smaps.parse_smaps(text))


def test_large_mappings_come_with_their_usage_and_the_sum_of_all() -> None:
    text = ENTRY.encode()
    small = ENTRY.replace("7f1d8bfff000", "7f1e8bffe000").encode()
    total, (large,) = smaps.scan([text, small], 1 << 20)
    assert large == smaps.parse_smaps(text)[0]
    assert total == smaps.total(text + small)
    assert smaps.scan([], 1 << 20) == (smaps.Usage(), ())


@given(st.integers(1, 3000), st.integers(2, 60))
def test_pieces_are_of_whole_mappings(piece_bytes: int, count: int) -> None:
    text = b"".join(b"%08x-%08x%b" % (n << 20, n + 1 << 20, LINES) for n in range(count))
    with tempfile.TemporaryDirectory() as root, pytest.MonkeyPatch.context() as patch:
        (Path(root) / "proc/7").mkdir(parents=True)
        (Path(root) / "proc/7/smaps").write_bytes(text)
        patch.setattr(smaps, "_PIECE_BYTES", piece_bytes)
        pieces = list(smaps.pieces_of(root, 7))
    assert b"".join(pieces) == text
    assert all(piece.startswith(b"0") for piece in pieces if piece)
    assert smaps.scan(pieces, 1 << 20)[1] == smaps.parse_smaps(text)


SPANS = st.lists(
    st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(1, 4), st.booleans()), max_size=12
)


@given(SPANS)
def test_of_hugetlb_that_is_mapped_again_the_union_counts(
    spans: list[tuple[int, int, int, bool]],
) -> None:
    mappings = [
        smaps.Mapping(
            0, pages << 21, "rw-s", first << 21, "00:10", inode, "ram",
            smaps.Usage(hugetlb_bytes=pages << 21 if is_touched else 0), 2 << 20,
        )
        for inode, first, pages, is_touched in spans
    ]  # fmt: skip
    touched = [span for span in spans if span[3]]
    # Inode 0 is private memory, which has one mapping.
    shared = {(i, first + n) for i, first, pages, _ in touched if i for n in range(pages)}
    counted = sum(pages for inode, _, pages, _ in touched if inode)
    assert smaps.hugetlb_twice_bytes(mappings) == (counted - len(shared)) << 21


def test_too_many_large_mappings_are_an_error(tmp_path: Path) -> None:
    count = smaps.MAPPINGS_LIMIT + 1
    text = b"".join(b"%08x-%08x%b" % (n << 20, n + 1 << 20, LINES) for n in range(count))
    with pytest.raises(VmError, match="more than 4096 mappings of 1024 KiB"):
        smaps.scan([text], 1 << 20)


@given(st.binary(max_size=400))
def test_anything_parses(noise: bytes) -> None:
    assert len(smaps.parse_smaps(ENTRY.encode() + noise)) >= 2
    smaps.parse_smaps(noise)
    smaps.total(noise)
    procs.parse_status(noise)
    procs.parse_cmdline(noise)


@given(st.integers(min_value=0, max_value=len(ENTRY)))
def test_a_truncated_file_gives_the_complete_mappings(length: int) -> None:
    whole = smaps.parse_smaps(ENTRY.encode())
    for mapping, expected in zip(smaps.parse_smaps(ENTRY.encode()[:length]), whole, strict=False):
        assert mapping.start == expected.start
        assert mapping.usage.rss_bytes <= expected.usage.rss_bytes


def test_a_real_mapping_is_sampled_by_its_range() -> None:
    size = 8 << 20
    with mmap.mmap(-1, size, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS) as memory:
        memory[: size // 2] = bytes(size // 2)
        _, found = smaps.scan(smaps.pieces_of("/", os.getpid()), size)
        assert size // 2 in [mapping.usage.rss_bytes for mapping in found]


def test_a_real_mapping_is_sampled_by_its_name(tmp_path: Path) -> None:
    file = tmp_path / "ram image"
    file.write_bytes(bytes(1 << 20))
    with file.open("r+b") as opened, mmap.mmap(opened.fileno(), 0) as memory:
        assert memory[4096] == 0
        assert 4096 <= smaps.resident_of_mapping(os.getpid(), str(file)).rss_bytes <= 1 << 20
    with pytest.raises(VmError, match="no mapping named"):
        smaps.resident_of_mapping(os.getpid(), "no such mapping")


def test_the_error_says_that_a_process_has_ended() -> None:
    with pytest.raises(VmError, match="has ended"):
        smaps.read_smaps("/", 4_194_305)


def test_an_endless_file_is_not_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "proc/7").mkdir(parents=True)
    (tmp_path / "proc/7/smaps").write_bytes(b"x" * 4096)
    monkeypatch.setattr(smaps, "SMAPS_LIMIT_BYTES", 1024)
    with pytest.raises(VmError, match="longer than 1024"):
        smaps.read_smaps(str(tmp_path), 7)


@given(st.lists(st.tuples(st.integers(1, 5000), st.text("ab \\n", max_size=4)), max_size=12))
def test_large_mappings_are_found_in_smaps_as_in_maps(mappings: list[tuple[int, str]]) -> None:
    at, header_lines, full = 1 << 30, b"", b""
    for pages, name in mappings:
        line = b"%08x-%08x rw-p 00000000 00:00 0 %s\n" % (at, at + pages * 4096, name.encode())
        header_lines += line
        full += line + b"Size:           %8d kB\nRss:                   4 kB\n" % (pages * 4)
        at += pages * 4096 + 4096
    for least in (0, 1 << 20, 4 << 20):
        assert smaps.parse_maps(full, least) == smaps.parse_maps(header_lines, least)
