"""A snapshot of the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import GUEST, plant
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.release import observe
from giveback_kernel import buddyinfo
from giveback_kernel.errors import KernelFileError
from giveback_kernel.page_reporting import ORDER_PATH
from giveback_kernel.record import as_dict

if TYPE_CHECKING:
    from pathlib import Path

REQUIRED = ("/proc/meminfo", "/proc/stat")
OPTIONAL = sorted(set(GUEST) - set(REQUIRED))


def test_a_full_snapshot(tmp_path: Path) -> None:
    taken = observe.take(plant(tmp_path, GUEST), 12.5, detail=True)
    assert taken.monotonic_s == 12.5
    assert None not in [getattr(taken, name) for name in taken._fields]
    assert taken.buddy is not None
    assert taken.reportable_bytes is not None
    assert taken.trapped_bytes is not None
    free = taken.reportable_bytes + taken.trapped_bytes
    assert free == buddyinfo.free_bytes(taken.buddy)
    assert taken.report_order == 9
    assert 0 <= taken.cold_cache_bytes <= taken.cache_bytes
    assert taken.below_low_watermark is False
    assert taken.pcp_bytes is not None


def test_the_expensive_files_are_read_on_request_only(tmp_path: Path) -> None:
    taken = observe.take(plant(tmp_path, GUEST), 0.0)
    assert (taken.vmstat, taken.below_low_watermark, taken.pcp_bytes) == (None, None, None)
    assert taken.trapped_bytes is not None


@pytest.mark.parametrize("path", REQUIRED)
@pytest.mark.parametrize("content", [None, b"", b"nonsense\n"])
def test_without_these_files_there_is_no_snapshot(
    tmp_path: Path, path: str, content: bytes | None
) -> None:
    files = {name: data for name, data in GUEST.items() if name != path}
    if content is not None:
        files[path] = content
    with pytest.raises(KernelFileError, match=path):
        observe.take(plant(tmp_path, files), 0.0, detail=True)


@pytest.mark.parametrize("content", [None, b"", b"nonsense\n", b"\0" * 5000, b"9" * (9 << 20)])
@pytest.mark.parametrize("path", OPTIONAL)
def test_without_any_other_the_rest_is_there(
    tmp_path: Path, path: str, content: bytes | None
) -> None:
    files = {name: data for name, data in GUEST.items() if name != path}
    if content is not None:
        files[path] = content
    root = plant(tmp_path, files)
    whole = as_dict(observe.take(plant(tmp_path / "whole", GUEST), 0.0, detail=True))
    part = as_dict(observe.take(root, 0.0, detail=True))
    lost = {name for name in whole if part[name] != whole[name]}
    assert lost <= LOST_WITH[path]
    assert all(part[name] is None for name in lost)


LOST_WITH = {
    "/proc/buddyinfo": {"buddy", "reportable_bytes", "trapped_bytes", "pcp_bytes"},
    "/proc/zoneinfo": {"below_low_watermark", "pcp_bytes"},
    "/proc/vmstat": {"vmstat"},
    # The idleness detector reads pressure itself.
    "/proc/pressure/cpu": set(),
    "/proc/pressure/memory": set(),
    "/proc/pressure/io": set(),
    # The sample's order is its page block order: without the parameter nothing changes.
    ORDER_PATH: set(),
}


@pytest.mark.parametrize(
    ("parameter", "pageblock_order", "expected"),
    [
        (b"5\n", 13, 5),
        (b"0\n", None, 0),
        (b"-1\n", None, 9),
        (b"-1\n", 7, 7),
        (None, None, 9),
        (None, 10, 10),
    ],
)
def test_the_report_order(
    tmp_path: Path, parameter: bytes | None, pageblock_order: int | None, expected: int
) -> None:
    files = {name: data for name, data in GUEST.items() if name != ORDER_PATH}
    if parameter is not None:
        files[ORDER_PATH] = parameter
    taken = observe.take(plant(tmp_path, files), 0.0, False, pageblock_order)
    assert taken.report_order == expected


def test_without_huge_pages_the_largest_block_is_the_page_block(tmp_path: Path) -> None:
    files = dict(GUEST)
    del files[ORDER_PATH]
    files["/proc/meminfo"] = files["/proc/meminfo"].replace(b"Hugepagesize:", b"Other:")
    assert observe.take(plant(tmp_path, files), 0.0).report_order == 10


def test_in_a_cgroup_namespace_only_its_own_cache_is_a_goal(tmp_path: Path) -> None:
    # A distribution of WSL: the cache of other ones is out of reach.
    top = "/sys/fs/cgroup"
    stat = b"active_file 9000000\ninactive_file 50000000\nfile_dirty 4096\nfile_writeback 0\n"
    files = {
        **GUEST,
        "/proc/self/mountinfo": b"30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        f"{top}/memory.stat": stat,
    }
    whole = observe.take(plant(tmp_path / "host", files), 0.0)
    assert whole.cache_bytes > 1 << 30
    root = plant(tmp_path / "part", {**files, f"{top}/cgroup.type": b"domain\n"})
    part = observe.take(root, 0.0)
    assert part.cache_bytes == 59_000_000
    assert part.cold_cache_bytes == 50_000_000 - 4096
    assert part.meminfo.mem_total_bytes == whole.meminfo.mem_total_bytes


def test_huge_pages_of_one_gib_are_no_page_blocks(tmp_path: Path) -> None:
    files = dict(GUEST)
    del files[ORDER_PATH]
    files["/proc/meminfo"] = files["/proc/meminfo"].replace(b"    2048 kB", b" 1048576 kB")
    taken = observe.take(plant(tmp_path, files), 0.0)
    assert (taken.report_order, taken.meminfo.hugepagesize_bytes) == (9, 1 << 30)
    assert taken.reportable_bytes


@settings(deadline=None)
@given(st.sampled_from(range(1, len(GUEST["/proc/meminfo"]))))
def test_a_truncated_meminfo_gives_no_snapshot_or_a_true_one(
    tmp_path_factory: pytest.TempPathFactory, end: int
) -> None:
    folder = tmp_path_factory.mktemp("guest")
    root = plant(folder, {**GUEST, "/proc/meminfo": GUEST["/proc/meminfo"][:end]})
    try:
        taken = observe.take(root, 0.0)
    except KernelFileError:
        return
    assert taken.meminfo.mem_total_bytes == 24684084 * 1024


def test_this_machine() -> None:
    taken = observe.take("/", 1.0, detail=True)
    assert taken.meminfo.mem_total_bytes > 0
    assert taken.cpustat.cpus > 0
