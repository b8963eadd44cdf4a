"""Free what lingers on per-CPU lists, where it is free in the guest and resident on the host.

What a program frees goes to lists of its CPU, up to a zone's low watermark in all (55 MiB in a 2 GiB
guest): not in MemFree, not in the free lists, never reported, never shrunk by an idle kernel. Setting
`vm.percpu_pagelist_high_fraction` (since 5.14) high makes the lists short, and the next pages freed on
each CPU take the rest with them (free_unref_page_commit() in mm/page_alloc.c). It is put back at once:
the lists are short for milliseconds, and the kernel's own value is on record under /run meanwhile, so
that a kill at any point is repaired by the next start. docs/deep-report.md has the figures.
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
# No zone has so many pages: the least that the kernel allows, four batches, is left on a list. As no
# hand would choose it, it is also how a fraction of ours is recognised.
SHORTEST = 1 << 30
_FRACTION_LIMIT = 1 << 31
# Freed on each CPU: each page takes up to three batches of 63 along.
FREED_BYTES = 1 << 20
TIMEOUT_S = 10.0


def is_permitted(root: str = "/") -> bool:
    """Tell whether the kernel has the setting and this process may write it."""
    return os.access(files.under(root, PATH), os.R_OK | os.W_OK)


def drain(root: str = "/") -> str:
    """Empty the lists of every CPU this process may run on; returns why not, or "". Blocks for milliseconds.

    Raises KernelFileError where the setting cannot be read, written or put back, and AgentError where
    the kernel's own value cannot be kept: nothing is changed then.
    """
    repair(root)
    original = _read(root)
    SAVED.save(root, Saved(original))
    try:
        files.write(root, PATH, f"{SHORTEST}\n")
        # In a child: what it imports and touches is gone with it.
        return child.in_child(_free_on_each_cpu, TIMEOUT_S).reason
    finally:
        repair(root)


def repair(root: str = "/") -> int | None:
    """Put the fraction on record back; returns it, or None where there was nothing to put back.

    A fraction that another hand has set since is left alone; the kernel's default is set where the
    record is nonsense. Raises KernelFileError; the record is kept then.
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
