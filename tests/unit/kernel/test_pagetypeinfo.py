"""/proc/pagetypeinfo."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample

from giveback_kernel import buddyinfo, pagetypeinfo
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from pathlib import Path

HEAD = b"Page block order: 9\nPages per block:  512\n\n"


def test_a_real_file() -> None:
    info = pagetypeinfo.parse(sample("pagetypeinfo"))
    assert (info.page_block_order, info.pages_per_block) == (9, 512)
    assert {one.migrate_type for one in info.free} == {
        "Unmovable",
        "Movable",
        "Reclaimable",
        "HighAtomic",
        "Isolate",
    }
    assert {len(one.counts) for one in info.free} == {11}
    assert not any(one.overflowed for one in info.free)


def test_it_counts_the_same_blocks_as_buddyinfo() -> None:
    # The two samples were taken one after the other: the quiet zones agree to the block.
    info = pagetypeinfo.parse(sample("pagetypeinfo"))
    dma = next(one for one in buddyinfo.parse(sample("buddyinfo")).zones if one.zone == "DMA")
    of_types = [one.counts for one in info.free if one.zone == "DMA"]
    assert tuple(map(sum, zip(*of_types, strict=True))) == dma.counts


def test_a_long_list_is_a_lower_bound() -> None:
    data = HEAD + b"Node    0, zone   Normal, type      Movable >100000   5      0 \n"
    (one,) = pagetypeinfo.parse(data).free
    assert one.counts == (100000, 5, 0)
    assert one.overflowed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Page block order: 9\n",
        b"Page block order: nine\nPages per block: 512\n",
        b"Page block order: 99\nPages per block: 512\n",
        HEAD + b"Node    0, zone   Normal, type      Movable\n",
        HEAD + b"Node    0, zone   Normal, type      Movable some\n",
        HEAD + b"Node    0, type      Movable 1\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/proc/pagetypeinfo"):
        pagetypeinfo.parse(data)


def test_a_kernel_without_it(tmp_path: Path) -> None:
    assert pagetypeinfo.read_pagetypeinfo(str(tmp_path)) is None


def test_a_file_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "proc/pagetypeinfo").mkdir(parents=True)
    with pytest.raises(KernelFileError):
        pagetypeinfo.read_pagetypeinfo(str(tmp_path))


def test_a_planted_file(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/proc/pagetypeinfo": HEAD})
    assert pagetypeinfo.read_pagetypeinfo(root) == pagetypeinfo.PageTypeInfo(9, 512, ())
