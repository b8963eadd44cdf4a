"""Deep report: for a while, let the kernel report free blocks of every size.

`next_order` decides, from numbers alone; `lower`, `restore` and `repair` change the kernel's
`page_reporting_order` so that a kill at any point is repaired by the next start: the kernel's own
value is in a file under /run before anything is changed, and stays there until it is back.
"""

from __future__ import annotations

import os

from giveback_agent import files, runtime
from giveback_agent.errors import KernelFileError
from giveback_agent.kernel import buddyinfo, page_reporting
from giveback_agent.kernel.buddyinfo import ORDERS_LIMIT
from giveback_agent.kernel.fields import number
from giveback_agent.record import Record

MIB = 1 << 20
STATE_PATH = runtime.FOLDER + "/report-order"
STATE_LIMIT_BYTES = 16
INTERRUPTS_PATH = "/proc/interrupts"
INTERRUPTS_LIMIT_BYTES = 8 << 20

# A pass starts 2 s after the nudge and takes 1/16 of each list every 2 s: 34 s, and a little.
DRAIN_S = 38.0
# Two periods of the kernel's without a report: it has none left.
QUIET_S = 5.0
# Below this the kernel's own lists are as large as what would come back.
LEAST_GAIN_BYTES = 8 * MIB
# A step that gained less than this is not followed by a lower one.
LEAST_STEP_BYTES = 1 * MIB

LOWER, HOLD, RESTORE, STOP = "lower", "hold", "restore", "stop"


class Look(Record):
    """What a decision rests on. `original` is the kernel's own order, `current` what it is now.

    `trapped_by_order_bytes[o]`: free bytes in blocks of exactly order o, as buddyinfo.by_order gives
    them. `held_s`: since the order was last lowered. `quiet_s`: since the last report the kernel
    made, or None where that is not seen. `last_gain_bytes`: what the host got back since the order
    was last lowered, or None where nobody tells.
    """

    current: int
    original: int
    lowest: int
    trapped_by_order_bytes: tuple[int, ...]
    idle: bool
    held_s: float = 0.0
    quiet_s: float | None = None
    last_gain_bytes: int | None = None


class Step(Record):
    """What to do: LOWER (to `order`, then nudge), HOLD, RESTORE or STOP (nothing is lowered)."""

    kind: str
    order: int
    why: str


def next_order(now: Look) -> Step:
    """Decide the next step. Pure; whatever the numbers, a lowered order ends in RESTORE."""
    lowered = now.current < now.original
    if not now.idle:
        return _end(now, "work is back")
    if not lowered:
        return _first(now)
    if not drained(now.held_s, now.quiet_s):
        return Step(HOLD, now.current, "the kernel is still reporting")
    if now.last_gain_bytes is not None and now.last_gain_bytes < LEAST_STEP_BYTES:
        return _end(now, "the last step gained nothing")
    target = worth_order(now.trapped_by_order_bytes, now.current, now.lowest, LEAST_STEP_BYTES)
    if target is None:
        return _end(now, "all that is worth it is reported")
    return Step(LOWER, target, "smaller blocks are worth it too")


def drained(held_s: float, quiet_s: float | None) -> bool:
    """Tell whether the kernel has reported all there is: it fell silent, or has had its time."""
    if held_s >= DRAIN_S:
        return True
    return quiet_s is not None and quiet_s >= QUIET_S and held_s >= QUIET_S


def worth_order(
    by_order_bytes: tuple[int, ...], below: int, lowest: int, least_bytes: int
) -> int | None:
    """Return the order to go to at once, or None where the blocks under `below` hold too little.

    It is the lowest allowed order that has blocks at all: every list is drained at the same time, so
    that one step to the end takes as long as the first of many (docs/deep-report.md).
    """
    lowest = max(0, lowest)
    trapped = by_order_bytes[lowest : max(lowest, below)]
    if sum(trapped) < least_bytes:
        return None
    return next((lowest + index for index, size in enumerate(trapped) if size > 0), None)


def _first(now: Look) -> Step:
    target = worth_order(now.trapped_by_order_bytes, now.current, now.lowest, LEAST_GAIN_BYTES)
    if target is None:
        return Step(STOP, now.current, "little is trapped")
    return Step(LOWER, target, "trapped memory is left")


def _end(now: Look, why: str) -> Step:
    if now.current < now.original:
        return Step(RESTORE, now.original, why)
    return Step(STOP, now.current, why)


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
        _keep(root, original)
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
    kept, why = _kept(root)
    if kept is None and not why:
        return Repaired(False)
    current = page_reporting.read_order(root)
    if kept is None:
        kept = _default_order(root)
    if current is None or kept is None or not 0 <= current < kept:
        _forget(root)
        return Repaired(True, None, why or "the order is as it was")
    page_reporting.write_order(root, kept)
    _forget(root)
    return Repaired(True, kept, why)


def _read_settable(root: str) -> int:
    current = page_reporting.read_order(root)
    path = files.under(root, page_reporting.ORDER_PATH)
    if current is None:
        raise KernelFileError(path, "is not there: the report order is fixed")
    if not 0 <= current <= _most_order(root):
        raise KernelFileError(path, f"{current} is no block's order: nothing is reported")
    return current


def _keep(root: str, order: int) -> None:
    runtime.make_folder(root)
    if not runtime.write_file(root, STATE_PATH, f"{order}\n"):
        path = files.under(root, STATE_PATH)
        raise KernelFileError(path, "cannot be written: a crash could not be repaired")


def _kept(root: str) -> tuple[int | None, str]:
    """Return the order on record, or None and why it is not to be trusted ("" where none is kept)."""
    path = files.under(root, STATE_PATH)
    if not os.path.lexists(path):
        return None, ""
    try:
        data = files.read(root, STATE_PATH, STATE_LIMIT_BYTES)
        return number(STATE_PATH, "the order", data.strip(), _most_order(root) + 1), ""
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


def _forget(root: str) -> None:
    path = files.under(root, STATE_PATH)
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise KernelFileError(path, os.strerror(error.errno or 0), error.errno) from error


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
