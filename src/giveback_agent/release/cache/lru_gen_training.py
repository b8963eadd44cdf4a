"""Train the multi-gen LRU, by refaults of a scratch file, to protect pages that were read more than once.

Eviction protects a tier of pages after at least MIN_LRU_BATCH (64) of its pages refaulted. A controller per
memory cgroup and node counts them (get_tier_idx() in mm/vmscan.c). In a guest that was never short of memory
nothing was evicted and nothing refaulted, so pages that are read repeatedly would be evicted with the rest.
A scratch file causes the refaults: it is read twice, paged out through a mapping (which leaves the shadow
entries by which the kernel recognises a refault), and read again.

Measured on Linux 6.12: 2 MiB written and read, about 0.1 s of CPU under TCG. The kernel forgets half of the
refaults with each generation that ends, so this is repeated before each pass.
"""

from __future__ import annotations

import os

from giveback_agent.runtime import child
from giveback_kernel import cgroup, cgroup_namespace, files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.vmstat import read_vmstat

SCRATCH_PAGES = 512
# 64 are needed. The kernel forgets half with each of up to two generations that end during the pass.
ENOUGH_REFAULTS = SCRATCH_PAGES // 2
MADV_PAGEOUT = 21
PR_SET_PDEATHSIG = 1
# Training needs 0.1 s of CPU, but at SCHED_IDLE it waits for other processes.
TIMEOUT_S = 10.0


def train(root: str, memcg_path: str, scratch_dir: str) -> int:
    """Cause refaults of pages read twice in the cgroup `memcg_path`; return their number.

    The path is relative to this process's cgroup mount. A child process joins the cgroup, as cached
    pages are charged to the cgroup of their first reader. The scratch file has no name and is removed
    with the child. Returns 0 after any failure, if the cgroup is frozen, or after TIMEOUT_S. Never
    raises.
    """
    folder, home, mount = None, None, None
    try:
        mounts = cgroup.read_cgroup(root)
        home, mount = cgroup_namespace.own_path(root, mounts), mounts.v2_mount
    except KernelFileError:
        pass
    if memcg_path not in ("", home or "/"):
        if mount is None:
            return 0
        folder = f"{mount.rstrip('/')}{memcg_path.rstrip('/')}"
        if _is_frozen(root, folder):
            return 0

    def work() -> bytes:
        _die_with_parent()
        if folder is not None:
            files.write(root, f"{folder}/cgroup.procs", "0")
        return str(_refaults_of_scratch(root, scratch_dir)).encode()

    # A cgroup frozen since the check holds the child until it is killed: a fatal signal ends a frozen
    # process.
    output = child.in_child(work, TIMEOUT_S).output
    return int(output) if output.isdigit() and len(output) < 20 else 0


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


def _refaults_of_scratch(root: str, scratch_dir: str) -> int:
    import mmap

    page_bytes = os.sysconf("SC_PAGE_SIZE")
    fd = _scratch(scratch_dir)
    try:
        for _ in range(SCRATCH_PAGES):
            os.write(fd, bytes(page_bytes))
        os.fsync(fd)
        # The kernel does not count a second read at the same position of one open file: open it again.
        for _ in range(2):
            _read_whole(fd, page_bytes)
        with mmap.mmap(fd, SCRATCH_PAGES * page_bytes) as mapping:
            for page in range(SCRATCH_PAGES):
                mapping[page * page_bytes]
            before = read_vmstat(root).workingset_refault_file or 0
            mapping.madvise(MADV_PAGEOUT)
        _read_whole(fd, page_bytes)
        after = read_vmstat(root).workingset_refault_file or 0
    finally:
        os.close(fd)
    return max(0, after - before)


def _scratch(folder: str) -> int:
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
