"""Train the multi-gen LRU, by refaults of a scratch file, to protect pages that were read more than once.

Eviction protects a tier of pages after at least MIN_LRU_BATCH (64) of its pages refaulted. A controller per
memory cgroup and node counts them (get_tier_idx() in mm/vmscan.c). In a guest that was never short of memory
nothing was evicted and nothing refaulted, so pages that are read repeatedly would be evicted with the rest.
A scratch file causes the refaults: it is read twice, evicted in a way that leaves the shadow entries by which
the kernel recognises a refault, and read again.

The eviction must take the scratch pages alone, in the tier of pages read twice. MADV_PAGEOUT does not: it
clears PG_referenced, and since Linux 6.14 ("mm/mglru: rework workingset protection") such pages refault in
tier 0. That protects nothing: on 7.2 all of 40 MiB read four times was lost. So the oldest pages of the
cgroup are evicted, and the scratch pages are moved there first:

- They are faulted in through a mapping, which puts them into the youngest generation. (Read, they may be in
  the oldest one already, and would not be moved within it.) Before it is unmapped, MADV_SEQUENTIAL keeps that
  from counting as an access.
- Pinned by a pipe, they are given to POSIX_FADV_DONTNEED. It cannot drop pinned pages, so it moves them to
  the old end of the oldest generation and forgets their accesses (lru_deactivate_file() in mm/swap.c).
- A part is not evicted: the end of their generation would halve what was counted.

Measured on Linux 6.12 and 7.2: of files in one cgroup, those read once were evicted, and those read twice and
three times were kept to the page. 2 MiB are written and read, 0.1 s of CPU under TCG. The kernel forgets half
of the refaults with each generation that ends, so this is repeated before each pass.
"""

from __future__ import annotations

import os

from giveback_agent.release.cache.eviction_plan import FOURTH_YOUNGEST, THIRD_YOUNGEST
from giveback_agent.runtime import child
from giveback_kernel import cgroup, cgroup_namespace, files, lru_gen, lru_gen_scan, reclaim
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record
from giveback_kernel.vmstat import read_vmstat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

SCRATCH_PAGES = 512
# 64 are needed. The kernel forgets half with each of up to two generations that end during the pass.
ENOUGH_REFAULTS = SCRATCH_PAGES // 2
# MAX_LRU_BATCH in mm/vmscan.c: evictions are in steps of this size.
KEPT_PAGES = 64
F_SETPIPE_SZ = 1031
# The most that a pipe may have without privileges (/proc/sys/fs/pipe-max-size).
PIPE_BYTES = 1 << 20
# With 64 KiB pages, 32 MiB are pinned.
PIPES_LIMIT = 64
VMSTAT_LIMIT_BYTES = 64 << 10
PR_SET_PDEATHSIG = 1
# Training needs 0.1 s of CPU, but at SCHED_IDLE it waits for other processes.
TIMEOUT_S = 10.0


class Training(Record):
    """How a training ended: the refaults that it caused, and whether pages read twice are protected now.

    They may have been before: then the eviction keeps the scratch pages, and there are no refaults.
    """

    refaults: int = 0
    protects: bool = False


def train(
    root: str, memcg_path: str, scratch_dir: str, evict: Callable[[int], None], node: int = 0
) -> Training:
    """Cause refaults of pages read twice in the cgroup `memcg_path` on a node.

    The path is relative to this process's cgroup mount. `evict` evicts a number of the oldest pages
    of this cgroup (`by_lru_gen`, `by_memory_reclaim`); it may raise KernelFileError or ValueError. A
    child process joins the cgroup, as cached pages are charged to the cgroup of their first reader.
    The scratch file has no name and is removed with the child. Nothing counts as protected after a
    failure, if the cgroup is frozen, or after TIMEOUT_S. Never raises.
    """
    folder, home, mount = None, None, None
    try:
        mounts = cgroup.read_cgroup(root)
        home, mount = cgroup_namespace.own_path(root, mounts), mounts.v2_mount
    except KernelFileError:
        pass
    if memcg_path not in ("", home or "/"):
        if mount is None:
            return Training()
        folder = f"{mount.rstrip('/')}{memcg_path.rstrip('/')}"
        if _is_frozen(root, folder):
            return Training()

    def work() -> bytes:
        _die_with_parent()
        if folder is not None:
            files.write(root, f"{folder}/cgroup.procs", "0")
        _run_on(root, node)
        refaults, kept = _refaults_of_scratch(root, scratch_dir, evict)
        return f"{refaults} {int(max(refaults, kept) >= ENOUGH_REFAULTS)}".encode()

    # A cgroup frozen since the check holds the child until it is killed: a fatal signal ends a frozen
    # process.
    refaults, _, protects = child.in_child(work, TIMEOUT_S).output.partition(b" ")
    if not refaults.isdigit() or len(refaults) >= 20:
        return Training()
    return Training(int(refaults), protects == b"1")


def place_of_new_cache(root: str, scratch_dir: str, place: str) -> int:
    """Return which generation, counted from the youngest, takes pages that are read through a descriptor.

    Usually the third-youngest, since Linux 6.14 the fourth-youngest: measured with a scratch file in
    this process's own cgroup. `place`: of the top of the cgroup mount in lru_gen's paths. Returns
    THIRD_YOUNGEST if it cannot be measured; never raises.
    """
    try:
        home = cgroup_namespace.own_path(root, cgroup.read_cgroup(root))
    except KernelFileError:
        return THIRD_YOUNGEST

    def work() -> bytes:
        _die_with_parent()
        fd = _scratch(scratch_dir, os.sysconf("SC_PAGE_SIZE"))
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        before = _pages_by_generation(root, place, home or "/")
        _read_whole(fd, os.sysconf("SC_PAGE_SIZE"))
        after = _pages_by_generation(root, place, home or "/")
        grown = [after[number] - before.get(number, 0) for number in sorted(after)]
        most = max(range(len(grown)), key=grown.__getitem__)
        return str(len(grown) - most if grown[most] >= SCRATCH_PAGES // 2 else 0).encode()

    output = child.in_child(work, TIMEOUT_S).output
    return FOURTH_YOUNGEST if output == str(FOURTH_YOUNGEST).encode() else THIRD_YOUNGEST


def _pages_by_generation(root: str, place: str, home: str) -> dict[int, int]:
    """Return the file pages of each generation of the cgroup `home`, on all nodes. Raises KernelFileError."""
    found: dict[int, int] = {}
    for memcg_id, path, _, rows, _ in lru_gen.raw_lists(lru_gen_scan.pieces(root)):
        if lru_gen_scan.below(path or "/", place) == home and not lru_gen.has_ended(memcg_id, path):
            for one in map(lru_gen.generation, rows):
                found[one.number] = found.get(one.number, 0) + one.file_pages
    return found


def by_lru_gen(root: str, memcg_id: int, node: int) -> Callable[[int], None]:
    """Return a function that evicts pages of the oldest generation with file pages in a list of lru_gen."""

    def evict(pages: int) -> None:
        one = lru_gen_scan.find(lru_gen_scan.pieces(root), memcg_id, node)
        with_files = [g.number for g in one.generations if g.file_pages] if one is not None else []
        if one is not None and with_files:
            lru_gen.write_request(root, lru_gen.eviction_request(one, with_files[0], 0, pages))

    return evict


def by_memory_reclaim(root: str, folder: str) -> Callable[[int], None]:
    """Return a function that reclaims the oldest pages of the cgroup `folder`, where debugfs is closed."""

    def evict(pages: int) -> None:
        reclaim.reclaim(root, f"{folder}/memory.reclaim", pages * os.sysconf("SC_PAGE_SIZE"), 0)

    return evict


def _is_frozen(root: str, folder: str) -> bool:
    """Tell whether the cgroup or one above it is frozen or about to be; False if that is unknown.

    Source: Documentation/admin-guide/cgroup-v2.rst (cgroup.freeze, `frozen` of cgroup.events).
    """
    try:
        if b"frozen 1\n" in files.read(root, f"{folder}/cgroup.events", 4096):
            return True
        return files.read(root, f"{folder}/cgroup.freeze", 64).strip() == b"1"
    except KernelFileError:
        return False


def _die_with_parent() -> None:
    """Let the kernel kill this child with the worker: a frozen child would have no process to end it."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, child.SIGKILL, 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return


def _run_on(root: str, node: int) -> None:
    """Run on the CPUs of a NUMA node, so that new pages are the node's; do nothing if there is one node."""
    try:
        cpus = files.read(root, f"/sys/devices/system/node/node{node}/cpulist", 4096)
        if files.exists(root, "/sys/devices/system/node/node1"):
            os.sched_setaffinity(0, _cpus_in(cpus))
    except (KernelFileError, OSError, ValueError):
        return


def _cpus_in(cpulist: bytes) -> set[int]:
    """Parse `0-3,8`. Raises ValueError. Source: Documentation/admin-guide/cputopology.rst."""
    found: set[int] = set()
    for part in cpulist.split(b","):
        first, _, last = part.partition(b"-")
        found.update(range(int(first), min(int(last or first), 1 << 14) + 1))
    return found


def _refaults_of_scratch(
    root: str, scratch_dir: str, evict: Callable[[int], None]
) -> tuple[int, int]:
    """Return the refaults, and how many scratch pages the eviction kept although it should take them."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    fd = _scratch(scratch_dir, page_bytes)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        _fault_in(fd, page_bytes)
        if not _move_to_old_end(root, fd, SCRATCH_PAGES * page_bytes):
            return 0, 0
        # The kernel does not count a second read at the same position of one open file: open it again.
        for _ in range(2):
            _read_whole(fd, page_bytes)
        before = read_vmstat(root).workingset_refault_file or 0
        evict(SCRATCH_PAGES - KEPT_PAGES)
        kept = _cached_pages(fd, page_bytes) - KEPT_PAGES
        _read_whole(fd, page_bytes)
        after = read_vmstat(root).workingset_refault_file or 0
    except (KernelFileError, OSError, ValueError):
        # Also a file system whose pages cannot be in a pipe.
        return 0, 0
    finally:
        os.close(fd)
    return max(0, after - before), kept


def _cached_pages(fd: int, page_bytes: int) -> int:
    """Count the scratch file's pages in the page cache without reading any in. Raises OSError."""
    page, count = bytearray(page_bytes), 0
    for number in range(SCRATCH_PAGES):
        try:
            os.preadv(fd, [page], number * page_bytes, os.RWF_NOWAIT)
        except BlockingIOError:
            continue
        count += 1
    return count


def _fault_in(fd: int, page_bytes: int) -> None:
    import mmap

    with mmap.mmap(fd, SCRATCH_PAGES * page_bytes, prot=mmap.PROT_READ) as mapping:
        for page in range(SCRATCH_PAGES):
            mapping[page * page_bytes]
        mapping.madvise(mmap.MADV_SEQUENTIAL)


def _move_to_old_end(root: str, fd: int, length: int) -> bool:
    """Move a file's pages to the old end of their LRU list; return whether those to be evicted are there.

    Else the eviction would take other pages. Raises OSError, KernelFileError.
    """
    import fcntl

    pipes: list[int] = []
    try:
        at = 0
        while at < length and len(pipes) < 2 * PIPES_LIMIT:
            reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            pipes += [reader, writer]
            fcntl.fcntl(writer, F_SETPIPE_SZ, PIPE_BYTES)
            at = _fill(writer, fd, at, length)
        before = _rotated_pages(root)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        moved = _rotated_pages(root) - before
        return at >= length and moved >= SCRATCH_PAGES - KEPT_PAGES
    finally:
        for one in pipes:
            os.close(one)


def _fill(writer: int, fd: int, at: int, length: int) -> int:
    """Put references to a file's pages into a pipe until it is full; return the next position."""
    while at < length:
        try:
            sent = os.sendfile(writer, fd, at, length - at)
        except BlockingIOError:
            break
        if sent == 0:
            break
        at += sent
    return at


def _rotated_pages(root: str) -> int:
    for line in files.read(root, "/proc/vmstat", VMSTAT_LIMIT_BYTES).splitlines():
        if line.startswith(b"pgrotated "):
            return int(line.split()[1])
    return 0


def _scratch(folder: str, page_bytes: int) -> int:
    """Return a new file without a name, of SCRATCH_PAGES pages that are on disk. Raises OSError."""
    fd = _nameless(folder)
    try:
        for _ in range(SCRATCH_PAGES):
            os.write(fd, bytes(page_bytes))
        os.fsync(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _nameless(folder: str) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:  # a file system without nameless files
        path = f"{folder}/.giveback-scratch"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            fd = os.open(path, flags, 0o600)
        except FileExistsError:  # left by one that was killed between the next two lines
            os.unlink(path)
            fd = os.open(path, flags, 0o600)
        os.unlink(path)
        return fd


def _read_whole(fd: int, page_bytes: int) -> None:
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        for page in range(SCRATCH_PAGES):
            os.pread(again, page_bytes, page * page_bytes)
    finally:
        os.close(again)
