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
