"""Find the daemon that a command talks to, by the same rules everywhere.

The order: --socket; the socket named by --settings or the user's own settings; the known places of
every daemon, first the user's own, then the system's.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from giveback.errors import InputError
from giveback.guest import via_daemon

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from giveback.manager.http.client import Client

Found = TypeVar("Found")
API_NAME = "api.sock"
_SYSTEM_RUNTIME = Path(via_daemon.SYSTEM_FOLDER)
# httpx2 and pydantic take longer to import than `ps` takes to run, so only their users import them.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --socket and --settings."""
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="the daemon's settings, which name its socket"
    )


def client(args: argparse.Namespace) -> Client:
    """Return the client of the daemon that the arguments lead to.

    Errors in the settings are printed on stderr, and a daemon that runs nevertheless is asked.
    Raises InputError if none is found then.
    """
    return client_and_problem(args)[0]


def client_and_problem(args: argparse.Namespace) -> tuple[Client, str]:
    """Return the same, and the error in the settings, or ""."""
    from giveback.manager.http.client import Client  # noqa: PLC0415

    path, problem = find(args)
    if problem:
        print(f"giveback: {problem}\ngiveback: asking the daemon at {path}", file=sys.stderr)
    return Client(path), problem


def find(args: argparse.Namespace) -> tuple[str, str]:
    """Return the daemon's socket, and the error in the settings that should name it, or ""."""
    if args.socket:
        return args.socket, ""
    try:
        return str(_socket(args.settings)), ""
    except InputError as error:
        own = Path(via_daemon.default_path()).with_name(API_NAME)
        found = own if _is_there(own) else _either(own, _SYSTEM_RUNTIME)
        if not _is_there(found):
            raise
        return str(found), str(error)


def use(args: argparse.Namespace) -> None:
    """Direct this command's questions about guests to the same daemon, which holds their agents' ports.

    If none is named, a daemon is found at its known place. A command that asks the VMs themselves
    needs no daemon, so errors in the settings are only printed.
    """
    if not args.socket and not args.settings:
        return
    try:
        path, problem = find(args)
    except InputError as error:
        path, problem = "", str(error)
    if problem:
        print(f"giveback: {problem}", file=sys.stderr)
    via_daemon.API_SOCKET.set(path)


def _socket(named: Path | None) -> Path:
    from giveback.manager.settings.load import load  # noqa: PLC0415

    found = load(named).socket
    # A user may ask the system's daemon if the user's own does not run.
    return found if named or _is_there(found) else _either(found, _SYSTEM_RUNTIME)


def from_history(
    args: argparse.Namespace, read: Callable[[str], Found], ask: Callable[[Client], Found]
) -> Found:
    """Return what is read from the history's file, or if that cannot be, from its daemon.

    A daemon that was named by its socket is asked; else the file is read, if this user may. Raises
    InputError, HistoryError, and what `ask` raises.
    """
    from giveback.manager.history.schema import HistoryError  # noqa: PLC0415

    if args.socket and not args.file:
        return ask(client(args))
    path = history_path(args)
    if not args.file and not _may_read(path):
        return ask(client(args))
    try:
        return read(str(path))
    except HistoryError as error:
        if args.file:
            raise
        from giveback.manager.http.client import NoDaemonError  # noqa: PLC0415

        # A daemon that keeps its history elsewhere, by its own settings, is found as well.
        try:
            return ask(client(args))
        except NoDaemonError:
            raise error from None


def _may_read(path: Path) -> bool:
    """Return False if a permission is missing; the reader reports a missing file."""
    try:
        return not path.exists() or os.access(path, os.R_OK)
    except PermissionError:
        return False


def history_path(args: argparse.Namespace) -> Path:
    """Return the path of the history: of --file, else of the settings.

    Raises InputError for invalid settings, and if they keep no history.
    """
    if args.file:
        return Path(args.file)
    from giveback.manager.settings.load import SYSTEM_STATE, load  # noqa: PLC0415

    found = load(args.settings).history
    if found is None:
        raise InputError("the settings keep no history: set keep = true in their [history]")
    if args.settings or found.exists():
        return found
    return _either(found, SYSTEM_STATE)


def _either(own: Path, system_folder: Path) -> Path:
    """Return the system's path if it is visible; else the user's own, which the error then names."""
    system = system_folder / own.name
    try:
        return system if system.exists() else own
    except PermissionError:
        return system


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except PermissionError:
        return True
