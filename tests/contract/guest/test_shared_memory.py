"""Memory that a process maps many times counts once: a real memfd, by the kernel's own count."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from giveback.guest.host_side import read_mappings
from giveback.host.readers import plain
from giveback.vmm.base import Backing, RamBlock

MIB = 1 << 20
TIMES, EACH_MIB = 64, 8

# Map one memfd many times, each mapping after the last at unused addresses; touch all of it.
_PROGRAM = """
import ctypes, os, sys
times, each = int(sys.argv[1]), int(sys.argv[2]) << 20
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + [ctypes.c_int] * 3 + [ctypes.c_long]
fd = os.memfd_create("ram")
os.ftruncate(fd, each)
base = libc.mmap(None, times * each + 8192, 0, 0x22, -1, 0) + 4096
for number in range(times):
    place = libc.mmap(base + number * each, each, 3, 0x11, fd, 0)
    ctypes.memset(place, 1, each)
print("ready", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def mapped_many_times() -> Iterator[int]:
    """A process that claims to be a VM of TIMES * EACH_MIB, and holds EACH_MIB."""
    child = subprocess.Popen(
        [
            "/opt/qemu-system-x86_64", "-S", "-c", _PROGRAM, str(TIMES), str(EACH_MIB),
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


def test_a_memfd_that_is_mapped_64_times_is_held_once() -> None:
    with mapped_many_times() as pid:
        ram_bytes = TIMES * EACH_MIB * MIB
        blocks = tuple(
            RamBlock(f"m{number}", EACH_MIB * MIB, Backing.MEMFD) for number in range(TIMES)
        )
        picture, _, _ = read_mappings("/", pid, plain.pack(blocks), {})
    assert picture.ram_resident_bytes == ram_bytes
    assert picture.ram_held_bytes <= EACH_MIB * MIB + MIB
