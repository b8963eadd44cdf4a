"""Settings of the host: the cgroup of a process is found at the visible mount of cgroup v2."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant

from giveback.host.facts import read_facts

if TYPE_CHECKING:
    from pathlib import Path

HYBRID = (
    b"30 1 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    b"31 30 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)


@pytest.mark.parametrize(
    ("told", "folder", "expected"),
    [
        (b"0::/vms.slice/a\n", "/sys/fs/cgroup/vms.slice/a", True),
        (b"0::/\n", "/sys/fs/cgroup", None),
        # Outside our own cgroup namespace: another folder of this name may exist.
        (b"0::/../vms.slice/a\n", "/sys/fs/vms.slice/a", None),
    ],
)
def test_swap_accounting_of_a_processs_cgroup(
    tmp_path: Path, told: bytes, folder: str, expected: bool | None
) -> None:
    files = {f"{folder}/memory.current": b"1\n", f"{folder}/memory.swap.current": b"0\n"}
    root = plant(tmp_path, {"/proc/7/cgroup": told, "/sys/fs/cgroup/x": b"", **files})
    assert read_facts(7, root).swap_accounted is expected


def test_the_visible_mount_counts(tmp_path: Path) -> None:
    group = "/sys/fs/cgroup/unified/vms.slice"
    root = plant(
        tmp_path,
        {
            "/proc/self/mountinfo": HYBRID,
            "/proc/7/cgroup": b"1:memory:/vms.slice\n0::/vms.slice\n",
            f"{group}/memory.current": b"1\n",
        },
    )
    assert read_facts(7, root).swap_accounted is False
