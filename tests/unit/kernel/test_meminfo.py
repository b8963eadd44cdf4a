"""/proc/meminfo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import meminfo
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from pathlib import Path

REQUIRED = meminfo._REQUIRED


def written(values: dict[bytes, int]) -> bytes:
    """Print meminfo as the kernel does: `values` are KiB, or plain where the kernel has no unit."""
    text = b""
    for name, value in values.items():
        unit = b" kB" if meminfo._FIELDS[name][1] else b""
        text += b"%-16s%8d%s\n" % (name + b":", value, unit)
    return text


VALUES = st.fixed_dictionaries(
    {name: st.integers(0, 1 << 46) for name in REQUIRED},
    optional={name: st.integers(0, 1 << 46) for name in meminfo._FIELDS if name not in REQUIRED},
).filter(lambda values: 0 < values[b"MemTotal"] >= values[b"MemFree"])


@settings(deadline=None)
@given(VALUES)
def test_what_is_written_is_read_back(values: dict[bytes, int]) -> None:
    info = meminfo.parse(written(values))
    for name, (field, in_kib) in meminfo._FIELDS.items():
        expected = values.get(name)
        if expected is not None and in_kib:
            expected *= 1024
        assert getattr(info, field) == expected
    assert info.non_free_bytes + info.mem_free_bytes == info.mem_total_bytes
    assert info.non_free_bytes >= 0


def test_a_real_file() -> None:
    info = meminfo.parse(sample("meminfo"))
    assert info.mem_total_bytes == 24684084 * 1024
    assert info.hugepagesize_bytes == 2 << 20
    assert info.hugepages_total == 0
    assert info.file_bytes == info.active_file_bytes + info.inactive_file_bytes
    assert None not in [getattr(info, name) for name in info._fields]
    assert info.remarks == ()
    assert meminfo.plausible(info) is info


def test_this_machine() -> None:
    assert meminfo.read_meminfo().mem_total_bytes > 0


@pytest.mark.parametrize("name", REQUIRED)
def test_a_field_that_every_kernel_prints_must_be_there(name: bytes) -> None:
    lines = [
        line for line in sample("meminfo").splitlines(True) if not line.startswith(name + b":")
    ]
    with pytest.raises(KernelFileError, match=r"/proc/meminfo: .* is missing"):
        meminfo.parse(b"".join(lines))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"24684084 kB", b"-24684084 kB"),
        (b"24684084 kB", b"24684084"),
        (b"24684084 kB", b"24684084 MB"),
        (b"24684084 kB", b"many kB"),
        (b"24684084 kB", b"0 kB"),
        (b"24684084 kB", b"144115188075855872 kB"),
        (b"24684084 kB", b"1 kB"),
        (b"HugePages_Total:       0", b"HugePages_Total:    none"),
    ],
)
def test_nonsense_is_refused(old: bytes, new: bytes) -> None:
    data = sample("meminfo")
    assert old in data
    with pytest.raises(KernelFileError, match="/proc/meminfo"):
        meminfo.parse(data.replace(old, new, 1))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    root = plant(tmp_path, {})
    with pytest.raises(KernelFileError, match=str(tmp_path)):
        meminfo.read_meminfo(root)


KIB, GIB = 1 << 10, 1 << 30


def changed(**lines: int) -> meminfo.MemInfo:
    """Parse the sample with other amounts in KiB; `Active_file` stands for Active(file)."""
    data = sample("meminfo")
    for name, value in lines.items():
        base, _, kind = name.partition("_")
        key = (f"{base}({kind}):" if kind in ("file", "anon") else f"{name}:").encode()
        assert data.startswith(key) or b"\n" + key in data
        data = b"\n".join(
            b"%s %d kB" % (key, value) if line.startswith(key) else line
            for line in data.split(b"\n")
        )
    return meminfo.plausible(meminfo.parse(data))


def test_a_leaking_counter_of_inactive_files_is_not_plenty() -> None:
    # oracle/oracle-linux#218
    leak = {
        "MemTotal": 32_500_000,
        "MemFree": 700_000,
        "MemAvailable": 39_800_000,
        "Inactive_file": 39_500_000,
    }
    info = changed(**leak, Cached=6_000_000, Shmem=1_000_000, Buffers=0, AnonPages=20_000_000)
    assert info.file_bytes == 5_000_000 * KIB
    assert info.mem_available_bytes == (700_000 + (5_000_000 + 187_648) // 2) * KIB
    assert [remark.split(" of ")[0] for remark in info.remarks] == [
        "Inactive(file)",
        "MemAvailable",
    ]
    # Where the page cache's size has leaked, too, only what is left over counts.
    info = changed(**leak, Cached=39_600_000, Shmem=0, Buffers=0, AnonPages=26_000_000)
    assert info.file_bytes < 6 * GIB
    assert info.mem_available_bytes < 4 * GIB


def test_only_available_is_wrong() -> None:
    info = changed(MemAvailable=39_800_000)
    assert info.mem_available_bytes < info.mem_total_bytes
    assert info.remarks == (
        "MemAvailable of 39800000 kB cannot be: 21983786 kB assumed",
    )  # MemFree and half of what can be reclaimed


def test_each_kind_of_use_is_bounded_by_what_is_in_use() -> None:
    far = 30_000_000
    assert changed(AnonPages=far).anon_pages_bytes < 4 * GIB
    assert changed(Cached=far).cached_bytes < 4 * GIB
    assert changed(Slab=far).slab_bytes < 4 * GIB
    assert changed(SReclaimable=far).s_reclaimable_bytes == 0
    assert changed(Dirty=far).dirty_bytes == 0
    shared = changed(Shmem=far)
    assert shared.shmem_bytes == shared.cached_bytes + shared.buffers_bytes - shared.file_bytes
    assert changed(Hugetlb=far).hugetlb_bytes == 0


@pytest.mark.parametrize("token", [b"-4", b"18446744073709551612", b"18014398509481980"])
def test_a_counter_below_zero_is_zero(token: bytes) -> None:
    data = sample("meminfo").replace(b"Dirty:            378780 kB", b"Dirty: %s kB" % token)
    info = meminfo.parse(data)
    assert (info.dirty_bytes, info.remarks) == (0, ("Dirty is negative: 0 assumed",))
    assert meminfo.plausible(info).remarks == info.remarks


@settings(deadline=None)
@given(VALUES)
def test_nothing_plausible_exceeds_what_is_in_use(values: dict[bytes, int]) -> None:
    info = meminfo.plausible(meminfo.parse(written(values)))
    most = info.non_free_bytes + info.mem_total_bytes // 32
    for name in meminfo._IN_USE:
        assert 0 <= (getattr(info, name) or 0) <= most
    assert info.inactive_file_bytes >= 0
    assert info.active_file_bytes >= 0
    assert info.file_bytes <= most
    assert 0 <= info.mem_available_bytes <= info.mem_total_bytes
    assert (info.hugetlb_bytes or 0) <= info.mem_total_bytes
    assert info.swap_free_bytes <= info.swap_total_bytes
    again = meminfo.plausible(info)
    assert again.mem_available_bytes <= info.mem_available_bytes


def test_what_is_read_is_plausible(tmp_path: Path) -> None:
    data = sample("meminfo").replace(b"22339820 kB", b"39800000 kB")
    read = meminfo.read_meminfo(plant(tmp_path, {meminfo.PATH: data}))
    assert read.remarks
    assert read.mem_available_bytes < read.mem_total_bytes
