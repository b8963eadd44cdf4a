"""The kernel files of `agent_kernel_files/`, and how to plant them under a root.

Those of /proc are what a Linux 6.18 guest with two CPUs and one NUMA node printed, unchanged but
for the interrupt counters of `stat`, which are cut short. What that guest does not have (swap,
cgroup v2 alone, the multi-gen LRU, the logs of other machines) follows the kernel's own formats.
"""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "agent_kernel_files"


def sample(name: str) -> bytes:
    """Return one of the files."""
    return (_FOLDER / name).read_bytes()


# VIRTIO_BALLOON_F_REPORTING is bit 5; the balloons of two hosts differ in it.
BALLOON_FEATURES = b"0110010100000000000000000000000010" + b"0" * 94 + b"\n"
PLAIN_FEATURES = b"0110000100000000000000000000000010" + b"0" * 94 + b"\n"

# What a snapshot needs, and what it can use.
GUEST = {
    "/proc/meminfo": sample("meminfo"),
    "/proc/stat": sample("stat"),
    "/proc/buddyinfo": sample("buddyinfo"),
    "/proc/zoneinfo": sample("zoneinfo"),
    "/proc/vmstat": sample("vmstat"),
    "/proc/pressure/cpu": sample("pressure_cpu"),
    "/proc/pressure/memory": sample("pressure_memory"),
    "/proc/pressure/io": sample("pressure_io"),
    "/sys/module/page_reporting/parameters/page_reporting_order": b"9\n",
}


def plant(root: Path, files: dict[str, bytes]) -> str:
    """Write `files` (absolute kernel paths) under `root`, and return it as the readers take it."""
    for path, content in files.items():
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return str(root)
