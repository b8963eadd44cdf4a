"""The deep report: for a while, the kernel reports free blocks of every size.

The order is set to the lowest allowed one directly. All free lists are then reported at the same time, so
that it takes as long as the first of several steps would (docs/deep-report.md). policy/report_hold.py decides
when it is over. `lower`, `restore` and `repair` change the kernel's `page_reporting_order`. The kernel's own
value is in a file under /run before it is changed and until it is restored, so that the next start repairs it
after a kill at any point.
"""

from __future__ import annotations

import os

from giveback_agent.runtime.saved_value import Saved, SavedValue
from giveback_kernel import buddyinfo, files, page_reporting
from giveback_kernel.buddyinfo import ORDERS_LIMIT
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record

MIB = 1 << 20
SAVED = SavedValue("report-order", "the order", record_limit_bytes=16)
STATE_PATH = SAVED.record_path
INTERRUPTS_PATH = "/proc/interrupts"
INTERRUPTS_LIMIT_BYTES = 8 << 20


class Repaired(Record):
    """The result of `repair`: whether a record was `found`, and the `order` that was set, None if none."""

    found: bool
    order: int | None = None
    why: str = ""


def lower(root: str, order: int) -> int:
    """Record the kernel's own report order, set a lower one, and return the kernel's own.

    It may be called again while the order is lowered. Raises KernelFileError. Raises AgentError, and
    changes nothing, if the order cannot be recorded.
    """
    kept, why = _kept(root)
    if why:
        repair(root)
    current = _read_settable(root)
    # Another process may have raised the order since; then that is the one to restore.
    original = current if kept is None else max(kept, current)
    if not 0 <= order <= original:
        raise KernelFileError(page_reporting.ORDER_PATH, f"{order} is not below {original}")
    if original != kept:
        SAVED.save(root, Saved(original))
    page_reporting.write_order(root, order)
    return original


def restore(root: str) -> int | None:
    """Restore the kernel's own order; return it, or None if it was not lowered.

    Raises KernelFileError if it cannot be written; the record is kept, so try again.
    """
    return repair(root).order


def repair(root: str) -> Repaired:
    """Restore the order that this process or a killed one has recorded. Raises as `restore` does.

    This only ever raises the order: one that another process has raised since is left alone.
    """
    why = ""

    def load() -> Saved | None:
        nonlocal why
        kept, why = _kept(root)
        order = _default_order(root) if kept is None else kept
        return None if order is None else Saved(order)

    def is_lowered(saved: Saved) -> bool:
        current = page_reporting.read_order(root)
        return current is not None and 0 <= current < saved.value

    done = SAVED.restore(
        root, load, is_lowered, lambda s: page_reporting.write_order(root, s.value)
    )
    if not done.found:
        return Repaired(False)
    if done.saved is None:
        return Repaired(True, None, why or "the order is as it was")
    return Repaired(True, done.saved.value, why)


def _read_settable(root: str) -> int:
    current = page_reporting.read_order(root)
    path = files.under(root, page_reporting.ORDER_PATH)
    if current is None:
        raise KernelFileError(path, "does not exist: the report order is fixed")
    if not 0 <= current <= _most_order(root):
        raise KernelFileError(path, f"no free block has the order {current}: nothing is reported")
    return current


def _kept(root: str) -> tuple[int | None, str]:
    """Return the order on record, or None and why the record is invalid ("" if there is none)."""
    if not SAVED.is_saved(root):
        return None, ""
    try:
        return SAVED.load(root, _most_order(root) + 1).value, ""
    except KernelFileError as error:
        return None, str(error)


def _most_order(root: str) -> int:
    try:
        return buddyinfo.max_order(buddyinfo.read_buddyinfo(root))
    except KernelFileError:
        return ORDERS_LIMIT - 1


def _default_order(root: str) -> int | None:
    """Return the order that drivers request, if known: the page block order, with pages of 4 KiB."""
    if os.sysconf("SC_PAGE_SIZE") != 4096:
        return None
    try:
        return page_reporting.read_pageblock_order(root)
    except KernelFileError:
        return None


def read_reports(root: str = "/") -> int | None:
    """Count the reports that the kernel has made since boot; None if they cannot be seen.

    A virtio balloon interrupts once per answered report. Use only differences of two counts: on some
    hosts the balloon's other queues share the interrupt.
    """
    names = [b.name.encode() for b in page_reporting.read_balloons(root) if b.reporting and b.bound]
    if not names:
        return None
    try:
        return parse_reports(files.read(root, INTERRUPTS_PATH, INTERRUPTS_LIMIT_BYTES), names)
    except KernelFileError:
        return None


def parse_reports(data: bytes, names: list[bytes]) -> int | None:
    """Sum the interrupts of the balloons `names` in the text of /proc/interrupts; None if none is listed."""
    total = None
    for line in data.split(b"\n")[:-1]:
        words = line.split()
        if words and any(_is_reporting(words[-1], name) for name in names):
            counts = []
            for word in words[1:]:
                if not word.isdigit() or len(word) > 20:
                    break
                counts.append(int(word))
            total = (total or 0) + sum(counts)
    return total


def _is_reporting(action: bytes, balloon: bytes) -> bool:
    """Tell whether a line is the balloon's: one interrupt for all (INTx), for all queues, or per queue."""
    return action in (balloon, balloon + b"-virtqueues", balloon + b"-reporting_vq")
