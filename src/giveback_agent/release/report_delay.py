"""Shorten the kernel's delay between reporting cycles from 2 s to 0.1 s for the time of a pass.

Linux 7.3 has the parameter `page_reporting_delay_ms` beside the report order: the time from a freed block to
a reporting cycle, and between two cycles. In a pass at 2000 ms half of the memory is back after 6.3 s, at
100 ms after 4.7 s. A short delay slows allocation, so it is restored like the report order: the kernel's own
value is in a file under /run before it is changed, and the next start repairs it after a kill at any point.
"""

from __future__ import annotations

import os

from giveback_agent.runtime.saved_value import Saved, SavedValue
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number

PATH = "/sys/module/page_reporting/parameters/page_reporting_delay_ms"
PASS_DELAY_MS = 100
# PAGE_REPORTING_DELAY in mm/page_reporting.c: restored if the record is invalid.
KERNEL_DELAY_MS = 2000
SAVED = SavedValue("report-delay", "the delay", record_limit_bytes=16)
STATE_PATH = SAVED.record_path
_LIMIT_MS = 1 << 32


def is_settable(root: str) -> bool:
    """Tell whether this kernel has the parameter, and this process may write it."""
    return os.access(files.under(root, PATH), os.W_OK)


def lower(root: str) -> bool:
    """Record the kernel's own delay and set a shorter one; return False if there is nothing to lower.

    Raises KernelFileError if a file fails. Raises AgentError, and changes nothing, if the delay cannot be
    recorded.
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
    """Restore the kernel's own delay; return it, or None if there was nothing to restore.

    A delay that another process has set meanwhile is left alone. Raises KernelFileError; the record is
    then kept, so try again.
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
