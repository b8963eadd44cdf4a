"""Problems of VMs as lines. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.errors import NOT_OPENED, NOT_READABLE

if TYPE_CHECKING:
    from collections.abc import Iterable

_NAMED = 5


def lines_of(problems: Iterable[tuple[str, str, str]]) -> list[str]:
    """Return one line for each (key, name, problem) of VMs; those that may not be read share one line.

    A user without root's rights sees all VMs of a host: of each other user's, several things are refused.
    """
    listed = list(problems)
    closed = {key: name for key, name, problem in listed if problem.endswith(NOT_READABLE)}
    refusals = (NOT_READABLE, NOT_OPENED)
    lines = [
        f"{name}: {problem}"
        for key, name, problem in listed
        if key not in closed or not problem.endswith(refusals)
    ]
    if not closed:
        return lines
    names = sorted(set(closed.values()))
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    are = "VM is another user's, so its" if len(closed) == 1 else "VMs are other users', so their"
    listing = ", ".join(names[:_NAMED]) + more
    words = f"{len(closed)} {are} memory is not known ({listing}): run as root"
    return [words, *lines]
