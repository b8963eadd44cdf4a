"""The matrix's workload: something reads files once and ends, beside a process with hot files that stays.

With systemd, a podman container and a service end; without it, a cgroup made directly. The commands
are `ended prepare`, `ended end PART`, `ended cached PART` (or `hot`); each prints one JSON object.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import time

from giveback_kernel.units import MIB
from giveback_lab_guest.works.containers import OF_SYSTEM, Part, forget
from giveback_lab_guest.works.demo import hold, read_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

SYSTEMD = "/run/systemd/system"
CGROUPS = "/sys/fs/cgroup"
HOT = "hot"
PART_PERCENT, HOT_PERCENT, PEAK_PERCENT = 14, 4, 20
FILE_BYTES = 2 << 20
HOT_READS = 4
READ = "for d in tree/*; do cat $d/*; done > /dev/null"
FOR_EVER_S = 1_000_000
REMOVE_S = 10.0


def ended(words: list[str]) -> int:
    """Run `STEP PART FOLDER RAM_BYTES SEED`; return an exit code."""
    step, part, folder, ram, seed = words
    if step == "prepare":
        said: dict[str, object] = {"parts": prepare(folder, int(ram), int(seed))}
    elif step == "end":
        # Counted at once, because an agent may act quickly.
        said = {"bytes": end(folder, part)}
    else:
        said = {"bytes": cached_of(folder, part)}
    print(json.dumps(said), flush=True)
    return 0


def prepare(folder: str, ram_bytes: int, seed: int) -> list[str]:
    """Make the files, on disk and not in memory, and start the process with the hot ones.

    Return the parts' names.
    """
    names = ["container", "service"] if os.path.isdir(SYSTEMD) else ["cgroup"]
    for name, percent in [(HOT, HOT_PERCENT), *((name, PART_PERCENT) for name in names)]:
        make_files(f"{folder}/{name}/tree/d0", ram_bytes * percent // 100, seed)
    if "container" in names:
        part_of(folder, "container").prepare()
    # A first part that comes and goes, so the agent has seen memory being returned.
    hold(ram_bytes * PEAK_PERCENT // 100 // MIB * MIB, huge=False).close()
    start_keeper(folder, "cgroup" in names)
    return names


def make_files(folder: str, total_bytes: int, seed: int) -> None:
    """Make files of one size, write them to disk and drop them from the page cache."""
    os.makedirs(folder, exist_ok=True)
    block = (seed.to_bytes(8, "little") * 512) * (MIB // 4096)
    for number in range(max(1, total_bytes // FILE_BYTES)):
        path = f"{folder}/f{number}"
        with open(path, "wb", buffering=0) as file:
            file.writelines(block for _ in range(FILE_BYTES // MIB))
        forget(path)


def paths_of(folder: str, part: str) -> list[str]:
    """Return the paths of a part's files."""
    tree = f"{folder}/{part}/tree/d0"
    return [f"{tree}/{name}" for name in sorted(os.listdir(tree))]


def start_keeper(folder: str, by_hand: bool) -> None:
    """Start a process in its own cgroup that reads the hot files several times and stays."""
    if by_hand:
        write(f"{CGROUPS}/cgroup.subtree_control", "+memory")
    ready, said = os.pipe()
    if os.fork() == 0:
        os.close(ready)
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        # None of our pipes may stay open in it: the caller waits for the end of this program's
        # output.
        for fd in (0, 1, 2):
            os.dup2(nowhere, fd)
        join(f"{CGROUPS}/{'matrix-keeper' if by_hand else 'system.slice/matrix-keeper.service'}")
        for _ in range(HOT_READS):
            read_all(paths_of(folder, HOT))
        os.write(said, b"x")
        os.close(said)
        time.sleep(FOR_EVER_S)
    os.close(said)
    if not os.read(ready, 1):
        raise OSError("ended: the process with the hot files did not start")


def end(folder: str, part: str) -> int:
    """Let a part start, read its files once, and end; return the bytes it leaves in the page cache."""
    if part == "cgroup":
        child = os.fork()
        if child == 0:
            join(f"{CGROUPS}/matrix-job")
            read_all(paths_of(folder, part))
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            raise OSError("ended: the process of the cgroup failed")
        left_bytes = cached_of(folder, part)
        remove(f"{CGROUPS}/matrix-job")
        return left_bytes
    part_of(folder, part).shell(READ)
    return cached_of(folder, part)


def part_of(folder: str, name: str) -> Part:
    """Return the part of that name: a container of root's, or a service."""
    if name == "container":
        return Part(name, f"{folder}/{name}", prefix=(), podman=True)
    return Part(name, f"{folder}/{name}", prefix=OF_SYSTEM, podman=False)


def join(cgroup: str) -> None:
    """Make a cgroup and move this process into it."""
    os.makedirs(cgroup, exist_ok=True)
    write(f"{cgroup}/cgroup.procs", "0")


def remove(cgroup: str) -> None:
    """Remove a cgroup once it is empty: a reaped process may still be counted in it for a moment."""
    until_s = time.monotonic() + REMOVE_S
    while True:
        try:
            os.rmdir(cgroup)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > until_s:
                raise
            time.sleep(0.01)
        else:
            return


def write(path: str, text: str) -> None:
    """Write a kernel file."""
    with open(path, "w") as file:
        file.write(text)


def read_all(paths: Sequence[str]) -> None:
    """Read files whole."""
    read_files([(path, FILE_BYTES) for path in paths])


def cached_of(folder: str, part: str) -> int:
    """Return the bytes of a part's files in the page cache."""
    return sum(cached_bytes(path) for path in paths_of(folder, part))


def cached_bytes(path: str) -> int:
    """Return the bytes of a file that are in the page cache, by mincore(2), which reads no page in."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        pages = -(-size // mmap.PAGESIZE)
        states = ctypes.create_string_buffer(pages)
        if libc.mincore(address, size, states) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
        libc.munmap(address, size)
    finally:
        os.close(fd)
    return sum(state & 1 for state in states.raw[:pages]) * mmap.PAGESIZE
