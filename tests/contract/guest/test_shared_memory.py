"""Memory that a process maps many times counts once: a real memfd, by the kernel's own count.

Of hugetlb pages the kernel counts each mapping whole; there the union of the mappings counts.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from giveback.guest.host_side import read_mappings
from giveback.host.readers import plain
from giveback.vmm.base import Backing, RamBlock

MIB = 1 << 20
TIMES, EACH_MIB = 64, 8

# Map one memfd many times, each mapping after the last at unused addresses; touch all of it.
_PROGRAM = """
import ctypes, os, sys
times, each, flags = int(sys.argv[1]), int(sys.argv[2]) << 20, int(sys.argv[3])
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
fd = os.memfd_create("ram", flags)
os.ftruncate(fd, each)
base = libc.mmap(None, times * each + (4 << 20), 0, 0x22, -1, 0)
base = (base + (2 << 20)) & ~((2 << 20) - 1)
for number in range(times):
    place = libc.mmap(base + number * each, each, 3, 0x11, fd, 0)
    ctypes.memset(place, 1, each)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def hugetlb_pages(count: int) -> Iterator[None]:
    """As many more huge pages in the host's pool; skips where this user or kernel cannot have them."""
    pool = Path("/proc/sys/vm/nr_hugepages")
    free = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages")
    if os.geteuid() or not free.exists():
        pytest.skip("huge pages of 2 MiB can be reserved by root only, where the kernel has them")
    before = pool.read_text()
    pool.write_text(str(int(before) + count))
    try:
        if int(free.read_text()) < count:
            pytest.skip("the host has no free memory for huge pages")
        yield
    finally:
        pool.write_text(before)


@contextlib.contextmanager
def mapped_many_times(flags: int = 0) -> Iterator[int]:
    """A process that claims to be a VM of TIMES * EACH_MIB, and holds EACH_MIB."""
    child = subprocess.Popen(
        [
            "/opt/qemu-system-x86_64", "-S", "-c", _PROGRAM, str(TIMES), str(EACH_MIB), str(flags),
        ],
        executable=sys.executable,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONHOME": sys.base_prefix},
    )  # fmt: skip
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        yield child.pid
    finally:
        child.kill()
        child.stdin.close()
        child.stdout.close()
        child.wait()


def blocks_of(count: int) -> object:
    return plain.pack(
        tuple(RamBlock(f"m{number}", EACH_MIB * MIB, Backing.MEMFD) for number in range(count))
    )


def test_a_memfd_that_is_mapped_64_times_is_held_once() -> None:
    with mapped_many_times() as pid:
        picture, _, _ = read_mappings("/", pid, blocks_of(TIMES), {})
    assert picture.ram_resident_bytes == TIMES * EACH_MIB * MIB
    assert picture.ram_held_bytes <= EACH_MIB * MIB + MIB


@pytest.mark.parametrize("blocks", [0, 1, TIMES])
def test_hugetlb_pages_that_are_mapped_64_times_are_held_once(blocks: int) -> None:
    with hugetlb_pages(EACH_MIB // 2), mapped_many_times(os.MFD_HUGETLB) as pid:
        picture, _, _ = read_mappings("/", pid, blocks_of(blocks), {})
    assert picture.resident_bytes >= TIMES * EACH_MIB * MIB
    own_mib = picture.own_pss_bytes / MIB - (0 if blocks else EACH_MIB)
    assert 0 <= own_mib <= 8
    # And the interpreter with its libraries.
    assert EACH_MIB * MIB <= picture.held_bytes <= (EACH_MIB + 24) * MIB
