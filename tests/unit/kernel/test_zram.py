"""mm_stat of a zram device."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel import zram
from giveback_kernel.errors import KernelFileError


def test_what_it_holds_and_what_that_takes() -> None:
    line = b"   4096000   1024000   1228800        0  1228800        7        0        0        0\n"
    assert zram.parse(line) == zram.ZramUse(4096000, 1228800)


@pytest.mark.parametrize("data", [b"", b"1 2\n", b"1 2 x\n", b"-1 2 3\n", b"9" * 30 + b" 1 1\n"])
def test_what_is_not_numbers_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError):
        zram.parse(data)


@given(st.binary(max_size=80))
def test_no_text_makes_it_fail_otherwise(data: bytes) -> None:
    try:
        use = zram.parse(data)
    except KernelFileError:
        return
    assert min(use.orig_data_bytes, use.mem_used_bytes) >= 0
