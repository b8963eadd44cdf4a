"""Drain the per-CPU lists (pcp): their pages are free in the guest but resident on the host.

Pages that a program frees go to lists of its CPU, together up to a zone's low watermark (55 MiB in a 2 GiB
guest). They are neither in MemFree nor in the free lists, are never reported, and an idle kernel never
shrinks the lists. A high `vm.percpu_pagelist_high_fraction` (since 5.14) makes the lists short: the next
pages freed on each CPU then also free the rest of its list (free_unref_page_commit() in mm/page_alloc.c).
The setting is restored at once, after some milliseconds. The kernel's own value is on record under /run
meanwhile, so that the next start repairs it after a kill at any point. docs/deep-report.md has the figures.
"""

from __future__ import annotations

import os

from giveback_agent.runtime import child
from giveback_agent.runtime.saved_value import Saved, SavedValue
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number

PATH = "/proc/sys/vm/percpu_pagelist_high_fraction"
SAVED = SavedValue("percpu-fraction", "the fraction")
STATE_PATH = SAVED.record_path
# More than the pages of any zone, so that each list keeps the least that the kernel allows, four batches. A
# user would never set this value, so it also identifies a fraction that was set here.
SHORTEST = 1 << 30
_FRACTION_LIMIT = 1 << 31
# Freed on each CPU: each of these pages frees up to three batches of 63 others.
FREED_BYTES = 1 << 20
TIMEOUT_S = 10.0


def is_permitted(root: str = "/") -> bool:
    """Tell whether the kernel has the setting and this process may write it."""
    return os.access(files.under(root, PATH), os.R_OK | os.W_OK)


def drain(root: str = "/") -> str:
    """Drain the lists of every CPU this process may run on; return why it failed, or "".

    Blocks for milliseconds. Raises KernelFileError if the setting cannot be read, written or restored.
    Raises AgentError, and changes nothing, if the kernel's own value cannot be recorded.
    """
    repair(root)
    original = _read(root)
    SAVED.save(root, Saved(original))
    try:
        files.write(root, PATH, f"{SHORTEST}\n")
        # In a child process: its imports and its touched memory are gone when it ends.
        return child.in_child(_free_on_each_cpu, TIMEOUT_S).reason
    finally:
        repair(root)


def repair(root: str = "/") -> int | None:
    """Restore the fraction on record; return it, or None if there was nothing to restore.

    A fraction that another process has set since is left alone. If the record is invalid the kernel's
    default is set. Raises KernelFileError; the record is then kept.
    """
    done = SAVED.restore(
        root,
        lambda: _kept(root),
        lambda _: _read(root) == SHORTEST,
        lambda saved: files.write(root, PATH, f"{saved.value}\n"),
    )
    return None if done.saved is None else done.saved.value


def _read(root: str) -> int:
    first = files.read(root, PATH, 64).partition(b"\n")[0]
    return number(PATH, "the fraction", first.strip(), _FRACTION_LIMIT)


def _kept(root: str) -> Saved:
    try:
        kept = SAVED.load(root, _FRACTION_LIMIT)
    except KernelFileError:
        return Saved(0)
    # The kernel takes 0, its default, or 8 and more (MIN_PERCPU_PAGELIST_HIGH_FRACTION).
    return kept if 8 <= kept.value < SHORTEST else Saved(0)


def _free_on_each_cpu() -> bytes:
    import mmap

    for cpu in sorted(os.sched_getaffinity(0)):
        try:
            os.sched_setaffinity(0, {cpu})
        except OSError:  # it has gone offline
            continue
        with mmap.mmap(-1, FREED_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
            try:
                # A huge page would bypass the lists of small ones.
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            except OSError:  # a kernel without them has none to avoid
                pass
            for page in range(0, FREED_BYTES, mmap.PAGESIZE):
                memory[page] = 1
    return b""
