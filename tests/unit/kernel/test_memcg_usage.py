"""memory.stat as what a cgroup's memory is used for."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel import memcg_usage
from giveback_kernel.errors import KernelFileError
from giveback_kernel.memcg_usage import MemcgUsage, add, at_most, parse, read_usage, without

# Of Linux 6.12: the lines that count, between others.
STAT = b"""anon 4096000
file 10485760
kernel 3145728
kernel_stack 65536
pagetables 131072
percpu 4096
slab 2097152
sock 0
shmem 2097152
swapcached 4096
file_dirty 1048576
file_writeback 4096
inactive_anon 100
inactive_file 6291456
active_file 2093056
workingset_refault_file 7
"""
amounts = st.integers(0, 1 << 50)
usages = st.builds(MemcgUsage, amounts, amounts, amounts, amounts, amounts)


def test_shared_memory_is_no_cache_and_what_must_be_written_is_not_cold() -> None:
    assert parse(STAT) == MemcgUsage(
        4096000, 10485760 - 2097152 - 4096, 6291456 - 1048576 - 4096, 2097152, 3145728
    )


def test_before_5_18_the_kernels_memory_is_the_sum_of_its_parts() -> None:
    older = STAT.replace(b"kernel 3145728\n", b"")
    assert parse(older).kernel_bytes == 65536 + 131072 + 4096 + 2097152


@pytest.mark.parametrize("missing", [b"anon", b"file"])
def test_a_stat_without_its_main_lines_is_refused(missing: bytes) -> None:
    lines = [line for line in STAT.splitlines(keepends=True) if line.split()[0] != missing]
    with pytest.raises(KernelFileError, match=f"{missing.decode()} is missing"):
        parse(b"".join(lines))


@given(st.binary(max_size=400))
def test_no_text_makes_an_amount_below_zero(data: bytes) -> None:
    try:
        usage = parse(STAT + data)
    except KernelFileError:
        return
    assert min(getattr(usage, name) for name in MemcgUsage._fields) >= 0
    assert usage.cold_bytes <= usage.cache_bytes


@given(usages, usages)
def test_sums_and_remainders_are_never_below_zero(one: MemcgUsage, other: MemcgUsage) -> None:
    assert without(add(one, other), other) == one
    assert min(without(one, other).held_bytes, at_most(one, other).held_bytes) >= 0
    assert at_most(one, other).held_bytes <= other.held_bytes


def test_a_stat_longer_than_any_kernels_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "memory.stat").write_bytes(STAT + b"x 1\n" * memcg_usage.STAT_LIMIT_BYTES)
    with pytest.raises(KernelFileError, match="longer than"):
        read_usage("/", str(tmp_path))
