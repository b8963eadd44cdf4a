"""Deep report: for a while, let the kernel report free blocks of every size.

The order goes to the lowest allowed at once: every list is drained at the same time, so that one step
takes as long as the first of many (docs/deep-report.md). `Hold` says when it is over. `lower`, `restore`
and `repair` change the kernel's `page_reporting_order` so that a kill at any point is repaired by the
next start: the kernel's own value is in a file under /run before anything is changed, and stays there
until it is back.
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
    """What `repair` found and did: `order` is what it set, None where it set nothing."""

    found: bool
    order: int | None = None
    why: str = ""


def lower(root: str, order: int) -> int:
    """Set a lower report order, the kernel's own kept first; returns the kernel's own.

    It may be called again while lowered. Raises KernelFileError, and AgentError where the state
    cannot be kept: nothing is changed then.
    """
    kept, why = _kept(root)
    if why:
        repair(root)
    current = _read_settable(root)
    # Another hand may have raised it since; then theirs is the one to come back to.
    original = current if kept is None else max(kept, current)
    if not 0 <= order <= original:
        raise KernelFileError(page_reporting.ORDER_PATH, f"{order} is not below {original}")
    if original != kept:
        SAVED.save(root, Saved(original))
    page_reporting.write_order(root, order)
    return original


def restore(root: str) -> int | None:
    """Put the kernel's own order back; returns it, or None where nothing was lowered.

    Raises KernelFileError where it could not be written; the state is kept, so try again.
    """
    return repair(root).order


def repair(root: str) -> Repaired:
    """Undo what is on record, by this process or a killed one. Raises KernelFileError as `restore`.

    The order is only ever raised: one that another hand has raised since is left alone.
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
        raise KernelFileError(path, "is not there: the report order is fixed")
    if not 0 <= current <= _most_order(root):
        raise KernelFileError(path, f"{current} is no block's order: nothing is reported")
    return current


def _kept(root: str) -> tuple[int | None, str]:
    """Return the order on record, or None and why it is not to be trusted ("" where none is kept)."""
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
    """Return the order drivers ask for, where that is known: the page block's, with 4 KiB pages."""
    if os.sysconf("SC_PAGE_SIZE") != 4096:
        return None
    try:
        return page_reporting.read_pageblock_order(root)
    except KernelFileError:
        return None


def read_reports(root: str = "/") -> int | None:
    """Count the reports that the kernel has made since boot; None where that is not seen.

    A virtio balloon interrupts once per answered report. Only the difference of two counts means
    anything: on some hosts the interrupt is shared by the balloon's other queues.
    """
    names = [b.name.encode() for b in page_reporting.read_balloons(root) if b.reporting and b.bound]
    if not names:
        return None
    try:
        return parse_reports(files.read(root, INTERRUPTS_PATH, INTERRUPTS_LIMIT_BYTES), names)
    except KernelFileError:
        return None


def parse_reports(data: bytes, names: list[bytes]) -> int | None:
    """Sum the interrupts of these balloons from the text of /proc/interrupts; None where none is."""
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
    """The balloon's own line: one interrupt for all (INTx), one for all queues, or one per queue."""
    return action in (balloon, balloon + b"-virtqueues", balloon + b"-reporting_vq")
