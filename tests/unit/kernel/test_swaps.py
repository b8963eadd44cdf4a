"""/proc/swaps."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import swaps
from giveback_kernel.errors import KernelFileError
from giveback_kernel.swaps import SwapArea, Swaps

if TYPE_CHECKING:
    from pathlib import Path

HEADING = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
SIZES = st.integers(0, 1 << 40).map(lambda kib: kib << 10)
AREAS = st.builds(
    SwapArea,
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).map("/".__add__),
    st.sampled_from(["partition", "file"]),
    SIZES,
    SIZES,
    st.integers(-100, 32767),
)


def written(area: SwapArea) -> bytes:
    # The kernel mangles " \t\n\\"; other white space is as rare in a name as it is cruel.
    path = b"".join(
        b"\\%03o" % byte if byte in b" \t\n\\\r\v\f" else bytes((byte,))
        for byte in area.path.encode()
    )
    numbers = f"\t{area.size_bytes >> 10}\t\t{area.used_bytes >> 10}\t\t{area.priority}\n"
    return path + f"  {area.kind}".encode() + numbers.encode()


@settings(deadline=None)
@given(st.lists(AREAS, max_size=4))
def test_what_is_written_is_read_back(areas: list[SwapArea]) -> None:
    data = HEADING + b"".join(written(area) for area in areas)
    assert swaps.parse(data) == Swaps(tuple(areas))


def test_a_file() -> None:
    zram, file = swaps.parse(sample("swaps")).areas
    assert zram == SwapArea("/dev/zram0", "partition", 1048572 << 10, 20480 << 10, 100)
    assert zram.is_zram
    assert (file.path, file.priority) == ("/srv/swap file", -2)
    assert not file.is_zram


def test_no_swap(tmp_path: Path) -> None:
    assert swaps.parse(HEADING) == Swaps()
    assert swaps.read_swaps(str(tmp_path)) == Swaps()
    assert swaps.read_swaps(plant(tmp_path, {swaps.PATH: HEADING})) == Swaps()


def test_this_machine() -> None:
    assert isinstance(swaps.read_swaps().areas, tuple)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no heading\n",
        HEADING + b"/dev/vdb partition 1 2\n",
        HEADING + b"/dev/vdb partition 1 -2 3\n",
        HEADING + b"/dev/vdb partition 1 2 high\n",
        HEADING + b"/dev/vdb partition 999999999999999999 2 3\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/proc/swaps"):
        swaps.parse(data)
