"""Which cgroup version is mounted, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample

from giveback_kernel import cgroup
from giveback_kernel.cgroup import CgroupMounts
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from pathlib import Path

V2 = b"28 25 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def test_cgroup_v2_alone() -> None:
    assert cgroup.parse(sample("mountinfo_v2")) == CgroupMounts("v2", "/sys/fs/cgroup", "/")


def test_both_versions() -> None:
    assert cgroup.parse(sample("mountinfo_hybrid")) == CgroupMounts(
        "hybrid",
        "/sys/fs/cgroup/unified",
        "/",
        (("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"), ("memory", "/sys/fs/cgroup/memory")),
    )


def test_cgroup_v1_alone() -> None:
    v1 = b"".join(
        line for line in sample("mountinfo_hybrid").splitlines(True) if b"cgroup2" not in line
    )
    mounts = cgroup.parse(v1)
    assert (mounts.version, mounts.v2_mount) == ("v1", None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"30 1 254:0 / / rw - ext4 /dev/vda rw\n",
        V2[:-1],
        b"28 25 0:26 / - cgroup2 cgroup2 rw\n",
        b"28 25 0:26 / /a rw - cgroup2\n",
        b"28 25 0:26 / /a\\000b rw - cgroup2 cgroup2 rw\n",
        b"28 25 0:26 / / rw - ext4 /dev/x - cgroup2 rw\n",
    ],
)
def test_no_cgroups(data: bytes) -> None:
    assert cgroup.parse(data) == CgroupMounts("none")


def test_a_blank_in_a_path() -> None:
    assert cgroup.parse(V2.replace(b"/sys/fs/cgroup", b"/my\\040mount")).v2_mount == "/my mount"


def test_in_a_container_the_root_is_another_cgroup() -> None:
    assert cgroup.parse(V2.replace(b"0:26 /", b"0:26 /pod")).v2_root == "/pod"


def test_the_first_of_two_mounts_counts() -> None:
    assert cgroup.parse(V2 + V2.replace(b"/sys/fs/cgroup", b"/other")).v2_mount == "/sys/fs/cgroup"


OVERMOUNTED = b"""\
23 60 0:21 / /sys rw - sysfs sysfs rw
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
60 1 8:32 / / rw - ext4 /dev/sdc rw
"""
ON_TOP = b"40 30 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"


def test_a_mount_that_a_later_one_hides_does_not_count() -> None:
    # microsoft/WSL#6662
    below = cgroup.parse(OVERMOUNTED)
    assert (below.version, below.v2_mount) == ("hybrid", "/sys/fs/cgroup/unified")
    for table in (OVERMOUNTED + ON_TOP, ON_TOP + OVERMOUNTED):
        assert cgroup.parse(table) == CgroupMounts("v2", "/sys/fs/cgroup", "/")


def test_a_later_tmpfs_hides_the_hierarchy() -> None:
    hidden = OVERMOUNTED + ON_TOP + b"50 23 0:40 / /sys/fs rw - tmpfs tmpfs rw\n"
    assert cgroup.parse(hidden) == CgroupMounts("none")


def test_a_folder_of_the_hierarchy_elsewhere_is_not_the_hierarchy() -> None:
    part = b"20 60 0:26 /kubepods /var/pods rw - cgroup2 cgroup2 rw\n"
    assert cgroup.parse(part + V2) == CgroupMounts("v2", "/sys/fs/cgroup", "/")
    assert cgroup.parse(part) == CgroupMounts("v2", "/var/pods", "/kubepods")
    elsewhere = V2.replace(b"28 25", b"29 25").replace(b"/sys/fs/cgroup", b"/a")
    assert cgroup.parse(elsewhere + V2).v2_mount == "/sys/fs/cgroup"


def test_the_usual_place_stands_in(tmp_path: Path) -> None:
    assert cgroup.v2_mount_or_usual(str(tmp_path)) == "/sys/fs/cgroup"
    root = plant(tmp_path, {cgroup.PATH: OVERMOUNTED})
    assert cgroup.v2_mount_or_usual(root) == "/sys/fs/cgroup/unified"


def test_reading(tmp_path: Path) -> None:
    assert cgroup.read_cgroup(plant(tmp_path, {cgroup.PATH: V2})).version == "v2"
    with pytest.raises(KernelFileError):
        cgroup.read_cgroup(str(tmp_path / "nothing"))
    assert cgroup.read_cgroup().version in ("v1", "v2", "hybrid", "none")
