"""Free page reporting: whether it is active, from which order, and the order's parameter.

Source: mm/page_reporting.c, drivers/virtio/virtio_balloon.c, drivers/hv/hv_balloon.c.
"""

from __future__ import annotations

import os

from giveback_kernel import buddyinfo, files, meminfo
from giveback_kernel.buddyinfo import ORDERS_LIMIT
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import signed
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_kernel import kmsg

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Optional, TypeVar

    _PageBlockOrder = TypeVar("_PageBlockOrder", int, Optional[int])

ORDER_PATH = "/sys/module/page_reporting/parameters/page_reporting_order"
VIRTIO_PATH = "/sys/bus/virtio/devices"
UNSET = -1
_BALLOON_ID = b"0x0005"
_F_PAGE_POISON = 4
_F_REPORTING = 5
_DEVICES_LIMIT = 4096

_SAID_ENABLED = "Free page reporting enabled"
_SAID_HYPERV = "Cold memory discard hint enabled"
_SAID_HYPERV_ORDER = "Cold memory discard hint enabled with order"
_HYPERV_LARGE_ORDER = 9
_SAID_HYPERV_DISABLED = "disabling page reporting"
_NOT_AGREED = (
    "no VIRTIO_BALLOON_F_REPORTING: the host does not offer it, or the guest withdrew it because "
    "of init_on_free or page_poison"
)
SAID = (_SAID_ENABLED, _SAID_HYPERV, _SAID_HYPERV_DISABLED)


class Balloon(Record):
    """A virtio balloon device, by the features that host and guest agreed on."""

    name: str
    reporting: bool
    page_poison: bool
    bound: bool


class ReportingState(Record):
    """Whether free pages are reported, and by which evidence.

    `active` None: unknown. `order` is the raw parameter: -1 unset, None if the kernel has none
    (before 5.14, or without page reporting). `order_settable`: this process may write it.
    `may_lower`: it may also be lowered without harm (`takes_smaller_blocks`).
    """

    active: bool | None
    evidence: str
    order: int | None
    order_settable: bool
    driver: str | None = None
    may_lower: bool = False


def parse(data: bytes) -> int:
    """Parse the text of page_reporting_order; -1 is "unset".

    Linux 5.14 to 6.1 does not validate the written value. An order beyond every existing one is
    possible, and means that nothing is reported. Raises KernelFileError if it is not a number.
    """
    order = signed(ORDER_PATH, "the order", data.strip(), 1 << 32)
    if order < UNSET:
        raise KernelFileError(ORDER_PATH, f"the order is absurd: {order}")
    return UNSET if order == (1 << 32) - 1 else order


def read_order(root: str = "/") -> int | None:
    """Read the report order under `root`; None if the kernel has no such parameter.

    Raises KernelFileError if it exists and cannot be read or parsed.
    """
    if not files.exists(root, ORDER_PATH):
        return None
    return parse(files.read(root, ORDER_PATH, 4096))


def write_order(root: str, order: int) -> None:
    """Set the report order. Raises KernelFileError for an order that no kernel has, or for a failure.

    This starts no reporting cycle: one begins when a block of this order or above is next freed.
    """
    if not 0 <= order < ORDERS_LIMIT:
        raise KernelFileError(files.under(root, ORDER_PATH), f"{order} is not an order")
    files.write(root, ORDER_PATH, f"{order}\n")


def effective_order(order: int | None, pageblock_order: _PageBlockOrder) -> int | _PageBlockOrder:
    """Return the order that reporting starts from: the parameter, else the page block order."""
    return pageblock_order if order is None or order < 0 else order


def read_effective_order(root: str, order: int | None) -> int | None:
    """Return the order that reporting starts from, given the parameter `order` as read.

    Reads the page block order only if the parameter is unset; see `read_pageblock_order` for its
    cost and errors.
    """
    known = effective_order(order, None)
    return read_pageblock_order(root) if known is None else known


def read_pageblock_order(root: str = "/") -> int | None:
    """Read the page block order under `root` from pagetypeinfo (root only), else derive it.

    Returns None if it cannot be determined. Costly through pagetypeinfo: call it once. Raises
    KernelFileError.
    """
    from giveback_kernel import huge_pages, pagetypeinfo

    types = pagetypeinfo.read_pagetypeinfo(root)
    if types is not None:
        return types.page_block_order
    try:
        largest: int | None = buddyinfo.max_order(buddyinfo.read_buddyinfo(root))
    except KernelFileError:
        largest = None
    size = meminfo.read_meminfo(root).hugepagesize_bytes
    pmd_size = huge_pages.read_pmd_size_bytes(root)
    return huge_pages.pageblock_order(size, os.sysconf("SC_PAGE_SIZE"), largest, pmd_size)


def parse_features(data: bytes) -> tuple[bool, ...]:
    """Parse a virtio device's `features` file: one character per bit, bit 0 first."""
    return tuple([character == 0x31 for character in data.strip()])


def read_balloons(root: str = "/") -> tuple[Balloon, ...]:
    """List the virtio balloons under `root`, without those that vanish or cannot be read."""
    try:
        names = sorted(os.listdir(files.under(root, VIRTIO_PATH)))[:_DEVICES_LIMIT]
    except OSError:
        return ()
    found = []
    for name in names:
        device = f"{VIRTIO_PATH}/{name}"
        try:
            if files.read(root, device + "/device", 4096).strip() != _BALLOON_ID:
                continue
            bits = parse_features(files.read(root, device + "/features", 4096))
        except KernelFileError:
            continue
        bound = os.path.lexists(files.under(root, device + "/driver"))
        found.append(
            Balloon(
                name,
                bits[_F_REPORTING:][:1] == (True,),
                bits[_F_PAGE_POISON:][:1] == (True,),
                bound,
            )
        )
    return tuple(found)


def judge(
    balloons: tuple[Balloon, ...], log: kmsg.KernelLog, order: int | None
) -> tuple[bool | None, str, str | None]:
    """Decide from the evidence: (active or None, the evidence as text, the driver).

    A bound balloon with VIRTIO_BALLOON_F_REPORTING proves it: its probe fails if registration does.
    An order of -1 disproves it: registration sets one (Linux 6.2, commit aebb02ce8b36).
    """
    for balloon in sorted(balloons, key=lambda one: not one.bound):
        if balloon.reporting:
            said = f"{balloon.name}: VIRTIO_BALLOON_F_REPORTING agreed"
            if balloon.bound:
                return True, f"{said}, virtio_balloon bound", "virtio_balloon"
            # The driver is about to be bound, or has failed.
            return None, f"{said}, but no driver is bound", None
    for message in reversed(log.messages):
        if _SAID_HYPERV_DISABLED in message:
            return False, f"kernel log: {message!r}", "hv_balloon"
        if _SAID_HYPERV in message:
            return True, f"kernel log: {message!r}", "hv_balloon"
    if order == UNSET:
        return False, f"{ORDER_PATH} is -1: no driver registered", None
    if balloons and not any(_SAID_ENABLED in message for message in log.messages):
        names = ", ".join([balloon.name for balloon in balloons])
        return False, f"{names}: {_NOT_AGREED}", None
    return (*_judge_log(log), None)


def _judge_log(log: kmsg.KernelLog) -> tuple[bool | None, str]:
    for message in log.messages:
        if _SAID_ENABLED in message:
            return True, f"kernel log: {message!r}"
    if log.refused is not None:
        return None, f"no virtio balloon, and the kernel log is refused ({log.refused})"
    if not log.complete:
        return None, "no virtio balloon, and the kernel log has lost its oldest messages"
    return False, f"no virtio balloon, and the kernel log does not say {_SAID_ENABLED!r}"


def takes_smaller_blocks(driver: str | None, log: kmsg.KernelLog, order: int | None) -> bool:
    """Return whether the driver that reports is known to accept blocks below 2 MiB.

    hv_balloon before 6.2 counts blocks in units of 2 MiB, less one: a block of 4 KiB becomes a
    discard of 2048 such units, which are in use. It names no order in its message. Since 6.2 the
    host may refuse them, and at the second refusal the driver stops reporting until the next boot.
    So small blocks are accepted only if the kernel's own order is already below 2 MiB, as WSL sets
    it where the host can. Source: hv_free_page_report() in drivers/hv/hv_balloon.c.
    """
    if driver != "hv_balloon":
        return driver == "virtio_balloon"
    named = any(_SAID_HYPERV_ORDER in message for message in log.messages)
    return named and order is not None and 0 <= order < _HYPERV_LARGE_ORDER


def probe(root: str = "/") -> ReportingState:
    """Find out whether free page reporting is active under `root`. Never raises."""
    from giveback_kernel import kmsg

    try:
        order = read_order(root)
    except KernelFileError:
        order = None
    log = kmsg.search(root, SAID)
    active, evidence, driver = judge(read_balloons(root), log, order)
    settable = os.access(files.under(root, ORDER_PATH), os.W_OK)
    may_lower = settable and takes_smaller_blocks(driver, log, order)
    return ReportingState(active, evidence, order, settable, driver, may_lower)
