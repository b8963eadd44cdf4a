"""Answers to the host, made and written by a forked child of the service.

The child may import modules and allocate memory that the service must not hold. Each line is written
completely before the next. If the host does not read in time, the answer is abandoned.
"""

from __future__ import annotations

import os
import select
import time

from giveback_agent.host_link import json_lines
from giveback_agent.host_link.memory_event import memory_report
from giveback_kernel.errors import GivebackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PAGES_LIMIT_BYTES = 16 << 20
_PART_BYTES = 24 << 10
_BUDDYINFO_LIMIT_BYTES = 16 << 10


def answer(
    root: str,
    ask: str,
    number: object,
    fd: int,
    until_s: float,
    cgroups: bool = False,
    promise: Callable[[], dict[str, object]] = dict,
) -> None:
    """Write the answer to `ask` (`memory` or `pages`) on `fd`, until `until_s` of the monotonic clock.

    `promise` returns fields to add: how much cache a pass would reclaim, and the floors. Raises OSError if
    the host does not read any more.
    """
    for message in messages(root, ask, number, cgroups, promise):
        line = json_lines.line_of(message)
        if not line:
            line = json_lines.line_of(_error(ask, number, "too long to send"))
        write(fd, line, until_s)


def messages(
    root: str,
    ask: str,
    number: object,
    cgroups: bool = False,
    promise: Callable[[], dict[str, object]] = dict,
) -> Iterator[dict[str, object]]:
    """Yield the messages of an answer: `memory`, for `pages` also its parts; or one `error`."""
    try:
        report = {**memory_report(root, pages=ask == "pages", cgroups=cgroups), **promise()}
    except GivebackError as error:
        yield _error(ask, number, str(error)[:400])
        return
    pages = str(report.pop("pages", ""))
    if len(pages) > PAGES_LIMIT_BYTES:
        text = f"the runs of its pages take more than {PAGES_LIMIT_BYTES} bytes"
        yield _error(ask, number, text)
        return
    if len(str(report["buddyinfo"])) > _BUDDYINFO_LIMIT_BYTES:
        report["buddyinfo"] = ""
    yield {**report, "id": number}
    if ask == "pages":
        parts = [pages[at : at + _PART_BYTES] for at in range(0, len(pages), _PART_BYTES)]
        for part, text in enumerate(parts):
            yield {"event": "pages", "id": number, "part": part, "of": len(parts), "data": text}


def _error(ask: str, number: object, text: str) -> dict[str, object]:
    return {"event": "error", "ask": ask, "id": number, "text": text}


def write(fd: int, data: bytes, until_s: float) -> None:
    """Write all of `data`, waiting until the host reads.

    Raises OSError if the host does not read in time, or is gone.
    """
    waiting = select.poll()
    waiting.register(fd, select.POLLOUT)
    while data:
        left_s = until_s - time.monotonic()
        ready = waiting.poll(max(0.0, left_s) * 1000)
        if not ready or ready[0][1] & (select.POLLHUP | select.POLLERR):
            raise OSError("the host does not read the answer")
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            continue
