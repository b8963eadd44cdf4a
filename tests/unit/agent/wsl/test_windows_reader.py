"""The reader for the Windows side, on outputs as users posted them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import wsl_memory
from wsl_memory import Guest, ReadingError, parse_meminfo, parse_tasklist

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1 << 10
TASKLIST = b'"vmmemWSL","11340","Services","0","6.291.456 K"\r\n'
MEMINFO = (
    b"MemTotal:        8000000 kB\nMemFree:         3000000 kB\nMemAvailable:    6000000 kB\n"
    b"Buffers:          100000 kB\nCached:          2500000 kB\nSwapCached:            0 kB\n"
    b"Shmem:            200000 kB\nSReclaimable:     300000 kB\n"
)


@pytest.mark.parametrize(
    ("line", "kib"),
    [
        (TASKLIST, 6291456),
        (b'"vmmem","9","Services","0","1,234,568 K"\r\n', 1234568),
        (b'"vmmemWSL","9","Services","0","1\xff234\xff568 Ko"\r\n', 1234568),
        (b'"vmmem","8","Services","0","7 K"\r\n' + TASKLIST, 6291456),
    ],
)
def test_the_working_set(line: bytes, kib: int) -> None:
    assert parse_tasklist(line) == kib * KIB


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "start a distribution"),
        (b"INFO: No tasks are running which match the specified criteria.\r\n", "start"),
        (b'"vmmem","8","Services","0","7 K"\r\n"vmmem","9","Services","0","8 K"\r\n', "2 VMs"),
    ],
)
def test_what_to_do_where_the_vm_is_not_seen(data: bytes, words: str) -> None:
    with pytest.raises(ReadingError, match=words):
        parse_tasklist(data)


def test_the_guests_memory_adds_up() -> None:
    guest = parse_meminfo(MEMINFO)
    assert guest == Guest(8000000 * KIB, 3000000 * KIB, 2700000 * KIB, 2300000 * KIB)


def test_a_message_of_wsl_in_utf16_is_shown() -> None:
    said = "Windows Subsystem for Linux has no installed distributions.\r\n".encode("utf-16-le")
    with pytest.raises(ReadingError, match="has no installed distributions"):
        parse_meminfo(said)


def test_both_sides_from_recorded_outputs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t").write_bytes(TASKLIST)
    (tmp_path / "m").write_bytes(MEMINFO)
    assert wsl_memory.main(["--from", str(tmp_path / "t"), str(tmp_path / "m")]) == 0
    rows = [line.rsplit(maxsplit=2) for line in capsys.readouterr().out.splitlines()]
    shown = {name.strip(): int(size.replace(",", "")) for name, size, _ in rows}
    assert shown["Windows: working set of the VM"] == 6144
    assert shown["held but not used by the guest"] == (6291456 - 5000000) // 1024


def test_outside_windows_it_says_where_to_run_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert wsl_memory.main([]) == 1
    assert "run this in Windows" in capsys.readouterr().err


@given(st.binary(max_size=400), st.binary(max_size=400))
def test_any_output_gives_sizes_or_words(listed: bytes, meminfo: bytes) -> None:
    with contextlib.suppress(ReadingError):
        assert parse_tasklist(listed + TASKLIST) >= 0
    with contextlib.suppress(ReadingError):
        guest = parse_meminfo(meminfo + b"\n" + MEMINFO)
        assert guest.total_bytes == guest.free_bytes + guest.cache_bytes + guest.used_bytes


@given(st.lists(st.integers(0, 10**12 - 1), min_size=6, max_size=6))
def test_any_numbers_add_up(kib: list[int]) -> None:
    names = ("MemTotal", "MemFree", "Buffers", "Cached", "SReclaimable", "Shmem")
    data = "".join(f"{name}: {value} kB\n" for name, value in zip(names, kib, strict=True))
    guest = parse_meminfo(data.encode())
    assert min(guest) >= 0
    assert guest.total_bytes == guest.free_bytes + guest.cache_bytes + guest.used_bytes
    assert wsl_memory.table(0, guest).count("MiB") == 6
