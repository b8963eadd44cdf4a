"""For a pass, let the kernel report free blocks at once instead of every 2 s.

Linux 7.3 has `page_reporting_delay_ms` beside the report order: the time from a freed block to a cycle of
reporting, and between two cycles. A pass at 2000 ms has half of its memory back after 6.3 s, at 100 ms after
4.7 s. Left low it slows allocation, so it is put back as the report order is: the kernel's own value is in
a file under /run before anything is changed, and a kill at any point is repaired by the next start.
"""

from __future__ import annotations

import os

from giveback_agent.runtime.saved_value import Saved, SavedValue
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number

PATH = "/sys/module/page_reporting/parameters/page_reporting_delay_ms"
PASS_DELAY_MS = 100
# PAGE_REPORTING_DELAY in mm/page_reporting.c: what is set where the record is nonsense.
KERNEL_DELAY_MS = 2000
SAVED = SavedValue("report-delay", "the delay", record_limit_bytes=16)
STATE_PATH = SAVED.record_path
_LIMIT_MS = 1 << 32


def is_settable(root: str) -> bool:
    """Tell whether this kernel has the parameter, and this process may write it."""
    return os.access(files.under(root, PATH), os.W_OK)


def lower(root: str) -> bool:
    """Lower the delay for a pass, the kernel's own kept first; False where there is nothing to lower.

    Raises KernelFileError where a file fails, AgentError where the state cannot be kept: nothing is
    changed then.
    """
    if not is_settable(root):
        return False
    restore(root)
    delay_ms = _read(root)
    if delay_ms <= PASS_DELAY_MS:
        return False
    SAVED.save(root, Saved(delay_ms))
    files.write(root, PATH, f"{PASS_DELAY_MS}\n")
    return True


def restore(root: str) -> int | None:
    """Put the kernel's own delay back; returns it, or None where there was nothing to put back.

    A delay that another hand has set meanwhile is left alone. Raises KernelFileError; the record is
    kept then, so try again.
    """
    done = SAVED.restore(
        root,
        lambda: _kept(root),
        lambda _saved: files.exists(root, PATH) and _read(root) == PASS_DELAY_MS,
        lambda saved: files.write(root, PATH, f"{saved.value}\n"),
    )
    return None if done.saved is None else done.saved.value


def _read(root: str) -> int:
    return number(PATH, "the delay", files.read(root, PATH, 64).strip(), _LIMIT_MS)


def _kept(root: str) -> Saved:
    try:
        saved = SAVED.load(root, _LIMIT_MS)
    except KernelFileError:
        return Saved(KERNEL_DELAY_MS)
    return saved if saved.value > PASS_DELAY_MS else Saved(KERNEL_DELAY_MS)
