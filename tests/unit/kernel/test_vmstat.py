"""/proc/vmstat."""

from __future__ import annotations

import pytest
from agent_kernel_samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import vmstat
from giveback_kernel.errors import KernelFileError

COUNTERS = st.integers(0, (1 << 64) - 1)
NAMES = [name for name in vmstat.VmStat._fields if name not in ("allocstall", "nr_free_pages")]


def written(counters: dict[str, int]) -> bytes:
    return "".join(f"{name} {value}\n" for name, value in counters.items()).encode()


@settings(deadline=None)
@given(
    COUNTERS,
    st.dictionaries(st.sampled_from(NAMES), COUNTERS),
    st.dictionaries(st.sampled_from(["pgsteal_other", "nr_unstable", "kswapd_x"]), COUNTERS),
)
def test_what_is_written_is_read_back(
    free: int, known: dict[str, int], unknown: dict[str, int]
) -> None:
    stat = vmstat.parse(written({**unknown, "nr_free_pages": free, **known}))
    assert stat.nr_free_pages == free
    for name in NAMES:
        assert getattr(stat, name) == known.get(name)
    assert stat.allocstall is None


def test_a_real_file() -> None:
    stat = vmstat.parse(sample("vmstat"))
    assert stat.nr_free_pages > 0
    assert stat.allocstall == 0
    assert stat.drop_slab == 2
    assert None not in [getattr(stat, name) for name in stat._fields]


def test_this_machine() -> None:
    assert vmstat.read_vmstat().nr_free_pages > 0


def test_allocstall_is_summed_over_the_zones() -> None:
    data = written({"nr_free_pages": 1, "allocstall_dma32": 2, "allocstall_normal": 40})
    assert vmstat.parse(data).allocstall == 42


def test_the_one_refault_counter_of_old_kernels_counts_file_pages() -> None:
    old = vmstat.parse(written({"nr_free_pages": 1, "workingset_refault": 5}))
    assert (old.workingset_refault_file, old.workingset_refault_anon) == (5, None)
    new = vmstat.parse(
        written({"nr_free_pages": 1, "workingset_refault": 5, "workingset_refault_file": 6})
    )
    assert new.workingset_refault_file == 6


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"nr_dirty 1\n",
        b"nr_free_pages\n",
        b"nr_free_pages -1\n",
        b"nr_free_pages 1\npgfault many\n",
        b"nr_free_pages 1\nallocstall_dma -1\n",
        b"nr_free_pages 1 2\n",
        b"nr_free_pages 18446744073709551616\n",
        b"nr_free_pages 1",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/proc/vmstat"):
        vmstat.parse(data)
