"""Shared parts of `ps` and `status`: NAME…, --columns, --sort, and the owners of the VMMs."""

from __future__ import annotations

import pwd
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.reporters.tables.vm_columns import TableView, parse_columns, parse_sort
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Sequence
    from typing import TypeVar

    from giveback.reporters.tables.vm_columns import Column

    Item = TypeVar("Item")

_LISTED = 20
_COMPARED = 64
"""Characters of a name that are compared: a stranger may have given one of thousands."""


def add_arguments(parser: argparse.ArgumentParser, known: Sequence[Column]) -> None:
    """Add NAME…, --columns and --sort, with the known columns."""
    names = ", ".join(column.word for column in known)
    parser.add_argument(
        "names", metavar="NAME", nargs="*", help="only these VMs, by name, key or their VMM's PID"
    )
    parser.add_argument(
        "--columns",
        type=lambda text: parse_columns(text, known),
        default=(),
        metavar="A,B,C",
        help=f"these columns, in this order (else all that fit): {names}".replace("%", "%%"),
    )
    parser.add_argument(
        "--sort",
        type=lambda text: parse_sort(text, known),
        metavar="COLUMN",
        help="by this column, the largest number or A first; -COLUMN the other way round "
        "(else by free-held)",
    )


def view(args: argparse.Namespace) -> TableView:
    """Return the operator's choice of columns and order."""
    column, is_reversed = args.sort or (None, False)
    return TableView(args.columns, column, is_reversed)


def named(
    items: Sequence[Item], names: Sequence[str], words_of: Callable[[Item], tuple[str, str, str]]
) -> list[Item]:
    """Return the items that the names select: all of them without names.

    `words_of` returns an item's key, name and PID; each of them selects it. Raises InputError for a
    name that selects none; it lists those that exist, the most alike first.
    """
    if not names:
        return list(items)
    words = [words_of(item) for item in items]
    missing = [name for name in names if not any(name in known for known in words)]
    if missing:
        said = ", ".join(f"'{escape_for_terminal(name, 80)}'" for name in missing[:_LISTED])
        alike = sorted(words, key=lambda known: -_likeness(known[1], missing[0]))
        there = [f"{escape_for_terminal(name, 60)} (pid {pid})" for _, name, pid in alike[:_LISTED]]
        there += [f"and {len(words) - _LISTED} more"] if len(words) > _LISTED else []
        hint = f"give a name, a key or a PID of: {', '.join(there)}" if there else "no VM runs here"
        raise InputError(f"no VM is called {said}; {hint}")
    return [item for item, known in zip(items, words, strict=True) if set(names) & set(known)]


def _likeness(name: str, wanted: str) -> float:
    return SequenceMatcher(None, name[:_COMPARED], wanted[:_COMPARED]).ratio()


def owners(uids: Iterable[int | None]) -> dict[int, str]:
    """Return the names of users; users without a name are left out."""
    found = {}
    for uid in {uid for uid in uids if uid is not None}:
        try:
            found[uid] = pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            continue
    return found
