"""A sample of the host's memory, or of a cgroup that stands for a small host."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback.errors import InputError, VmError
from giveback.host.memory import PAGE_BYTES, ControlGroup, HostView, parse_stat, read_host_view

MIB, GIB = 1 << 20, 1 << 30
MEMINFO = """MemTotal:       16777216 kB
MemFree:         2097152 kB
MemAvailable:    8388608 kB
Buffers:               0 kB
Cached:          4194304 kB
Active(anon):          0 kB
Inactive(anon):        0 kB
Active(file):          0 kB
Inactive(file):        0 kB
SwapTotal:       4194304 kB
SwapFree:        3145728 kB
Dirty:                 0 kB
Writeback:             0 kB
AnonPages:             0 kB
Mapped:                0 kB
Shmem:                 0 kB
Slab:                  0 kB
SReclaimable:          0 kB
SUnreclaim:            0 kB
Hugetlb:         1048576 kB
"""
PSI = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10={} avg60=0.00 avg300=0.00 total=1\n"
GROUP = "/sys/fs/cgroup/vms.slice"


class Tree:
    """The kernel files of a machine in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.put("/proc/meminfo", MEMINFO)
        self.put("/proc/vmstat", "nr_free_pages 5\npswpin 10\n")
        self.put("/proc/pressure/memory", PSI.format("1.50", "0.25"))

    def put(self, path: str, text: str | int) -> None:
        file = self.folder / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n" if isinstance(text, int) else text)

    def group(self, folder: str, limit: str | int, used: int, stat: str = "", **more: str) -> None:
        self.put(f"{folder}/memory.max", limit)
        self.put(f"{folder}/memory.high", "max\n")
        self.put(f"{folder}/memory.current", used)
        self.put(f"{folder}/memory.stat", stat)
        for name, text in more.items():
            self.put(f"{folder}/memory.{name.replace('_', '.')}", text)

    def view(self, cgroup: str | None = None) -> HostView:
        return read_host_view(str(self.folder), cgroup, now_s=3.0)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_the_machines_own_memory(tree: Tree) -> None:
    assert tree.view() == HostView(
        at_s=3.0,
        total_bytes=15 * GIB,
        available_bytes=8 * GIB,
        psi_memory_some_avg10=1.5,
        psi_memory_full_avg10=0.25,
        swap_in_bytes=10 * PAGE_BYTES,
        swap_free_bytes=3 * GIB,
    )


def test_impossible_numbers_are_replaced_and_noted(tree: Tree) -> None:
    # oracle/oracle-linux#218
    for old, new in (
        ("MemTotal:       16777216", "MemTotal:       32500000"),
        ("MemFree:         2097152", "MemFree:          700000"),
        ("MemAvailable:    8388608", "MemAvailable:   39800000"),
        ("Inactive(file):        0", "Inactive(file): 39500000"),
    ):
        assert old in MEMINFO
        tree.put("/proc/meminfo", (tree.folder / "proc/meminfo").read_text().replace(old, new))
    tree.put("/proc/pressure/memory", PSI.format("80.00", "60.00"))
    found = tree.view()
    assert found.available_bytes < 8 * GIB
    assert len(found.remarks) == 2
    tree.group(GROUP, 64 * GIB, GIB)
    assert tree.view(GROUP).remarks == found.remarks


def test_a_kernel_without_psi(tree: Tree) -> None:
    (tree.folder / "proc/pressure/memory").unlink()
    assert tree.view().psi_memory_some_avg10 is None


def test_the_files_of_this_machine_are_read() -> None:
    here = read_host_view(now_s=0.0)
    assert 0 < here.available_bytes <= here.total_bytes


STAT = f"""inactive_file {100 * MIB}
active_file {40 * MIB}
slab_reclaimable {20 * MIB}
anon 5
file_dirty {10 * MIB}
"""


def test_in_a_container_the_visible_mount_has_the_limit(tree: Tree) -> None:
    tree.group("/sys/fs/cgroup", GIB, 100 * MIB)
    assert tree.view().total_bytes == GIB
    tree.put(
        "/proc/self/mountinfo",
        "30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
        "31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    )
    tree.group("/sys/fs/cgroup/unified", 2 * GIB, 100 * MIB)
    assert tree.view().total_bytes == GIB  # the tightest, those above it included
    (tree.folder / "sys/fs/cgroup/memory.current").unlink()
    assert tree.view().total_bytes == 2 * GIB


def test_a_cgroup_with_a_limit_stands_for_the_host(tree: Tree) -> None:
    tree.group(GROUP, GIB, 800 * MIB, STAT, pressure=PSI.format("9.00", "4.00"))
    found = tree.view(GROUP + "/")
    assert found.total_bytes == GIB
    assert found.available_bytes == (224 + 100 + 20 + 10 - 10) * MIB
    assert (found.psi_memory_some_avg10, found.psi_memory_full_avg10) == (9.0, 4.0)


def test_memory_high_is_a_limit_too(tree: Tree) -> None:
    tree.group(GROUP, GIB, 100 * MIB, high=f"{512 * MIB}\n")
    found = tree.view(GROUP)
    assert (found.total_bytes, found.available_bytes) == (512 * MIB, 412 * MIB)


def test_the_tightest_limit_above_counts(tree: Tree) -> None:
    tree.group(GROUP, GIB, 100 * MIB)
    tree.group(GROUP + "/small.slice", "max\n", 100 * MIB)
    tree.group(GROUP + "/small.slice/vm.scope", 900 * MIB, 100 * MIB)
    assert tree.view(GROUP + "/small.slice").available_bytes == GIB - 100 * MIB
    tree.group(GROUP, 150 * MIB, 149 * MIB)
    found = tree.view(GROUP + "/small.slice/vm.scope")
    assert (found.total_bytes, found.available_bytes) == (150 * MIB, MIB)


def test_the_machines_memory_counts_if_it_is_less(tree: Tree) -> None:
    tree.group(GROUP, 64 * GIB, GIB)
    found = tree.view(GROUP)
    assert (found.total_bytes, found.available_bytes) == (15 * GIB, 8 * GIB)
    tree.group(GROUP, "max\n", GIB)
    assert tree.view(GROUP).available_bytes == 8 * GIB


def test_the_swap_of_a_cgroup(tree: Tree) -> None:
    swap = {"swap_max": f"{GIB}\n", "swap_current": f"{300 * MIB}\n"}
    tree.group(GROUP, GIB, 0, "pswpin 7\nworkingset_refault_anon 9\n", **swap)
    found = tree.view(GROUP)
    assert found.swap_free_bytes == GIB - 300 * MIB
    assert found.swap_in_bytes == 7 * PAGE_BYTES
    tree.group(GROUP, GIB, 0, "workingset_refault_anon 9\n")
    assert tree.view(GROUP).swap_in_bytes == 9 * PAGE_BYTES
    tree.group(GROUP, GIB, 0)
    assert tree.view(GROUP).swap_in_bytes == 10 * PAGE_BYTES


def test_a_container_is_as_large_as_its_limit(tree: Tree) -> None:
    tree.group("/sys/fs/cgroup", 2 * GIB, GIB)
    assert tree.view().total_bytes == 2 * GIB


def test_version_1(tree: Tree) -> None:
    folder = "/sys/fs/cgroup/memory/vms"
    for name, limit in (("", (1 << 63) - 4096), ("/vms", GIB)):
        base = f"/sys/fs/cgroup/memory{name}"
        tree.put(f"{base}/memory.limit_in_bytes", limit)
        tree.put(f"{base}/memory.usage_in_bytes", 800 * MIB)
        tree.put(f"{base}/memory.stat", f"inactive_file 1\ntotal_inactive_file {100 * MIB}\n")
    tree.put(
        f"{folder}/memory.stat",
        f"total_inactive_file {100 * MIB}\ntotal_workingset_refault_anon 3\n",
    )
    tree.put(f"{folder}/memory.memsw.limit_in_bytes", 2 * GIB)
    tree.put(f"{folder}/memory.memsw.usage_in_bytes", GIB)
    found = tree.view(folder)
    assert (found.total_bytes, found.available_bytes) == (GIB, 324 * MIB)
    assert found.swap_free_bytes == GIB
    assert found.swap_in_bytes == 3 * PAGE_BYTES
    assert found.psi_memory_some_avg10 == 1.5


def test_a_folder_that_is_not_a_cgroup_is_an_error_with_a_remedy(tree: Tree) -> None:
    with pytest.raises(InputError, match="/nowhere: there is no such cgroup"):
        tree.view("/nowhere")
    tree.put(f"{GROUP}/cgroup.procs", "")
    with pytest.raises(InputError, match="needs \\+memory"):
        tree.view(GROUP)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/proc/meminfo", "MemTotal: 5 kB\n"),
        ("/proc/vmstat", "x\n"),
        ("/proc/pressure/memory", "some\n"),
        (f"{GROUP}/memory.max", "lots\n"),
        (f"{GROUP}/memory.current", "max\n"),
        (f"{GROUP}/memory.pressure", "full\n"),
    ],
)
def test_an_error_names_its_file(tree: Tree, path: str, text: str) -> None:
    tree.group(GROUP, GIB, MIB)
    tree.put(path, text)
    with pytest.raises(VmError, match=path.rsplit("/", 1)[1]):
        tree.view(GROUP)


def test_a_missing_file_is_named(tree: Tree) -> None:
    (tree.folder / "proc/meminfo").unlink()
    with pytest.raises(VmError, match="proc/meminfo: No such file"):
        tree.view()


@settings(deadline=None)
@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.binary(max_size=100))
def test_available_memory_is_within_the_limit_for_any_numbers(
    limit: int, used: int, stat: bytes
) -> None:
    parsed = parse_stat(stat + b"\ninactive_file 99999999999999\nfile_dirty 5\n")
    available = ControlGroup(limit, used, parsed).available_bytes
    assert available is not None
    assert 0 <= available <= limit
