"""The daemon that a command talks to, found by the same rules everywhere.

--socket; else the socket that --settings, or the user's own settings, name; else the place to which every
daemon leads: the user's own, then the system's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.guest import via_daemon

if TYPE_CHECKING:
    import argparse

    from giveback.manager.http.client import Client

API_NAME = "api.sock"
_SYSTEM_RUNTIME = Path(via_daemon.SYSTEM_FOLDER)
# httpx2 and pydantic take longer to import than `ps` takes to run: only who needs them imports them.


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--socket and --settings."""
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="the daemon's settings, which name its socket"
    )


def client(args: argparse.Namespace) -> Client:
    """Return the client of the daemon that the arguments lead to.

    Settings that are wrong are told on stderr, and a daemon that runs all the same is asked. Raises
    InputError where none is found then.
    """
    return client_and_problem(args)[0]


def client_and_problem(args: argparse.Namespace) -> tuple[Client, str]:
    """Return the same, and what is wrong with the settings; "" where nothing is."""
    from giveback.manager.http.client import Client  # noqa: PLC0415

    path, problem = find(args)
    if problem:
        print(f"giveback: {problem}\ngiveback: asking the daemon at {path}", file=sys.stderr)
    return Client(path), problem


def find(args: argparse.Namespace) -> tuple[str, str]:
    """Return the daemon's socket, and what is wrong with the settings that were to name it."""
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
    """Let this command's questions about guests go to the same daemon: it holds their agents' ports.

    Where none is named, every daemon is found at its known place. A command that asks the VMs themselves
    needs no daemon: wrong settings are only told.
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
    # A user may ask the system's daemon, where none of the user's own runs.
    return found if named or _is_there(found) else _either(found, _SYSTEM_RUNTIME)


def history_path(args: argparse.Namespace) -> Path | None:
    """Where the history is; None where none is kept. Raises InputError for settings that are wrong."""
    from giveback.manager.settings.load import SYSTEM_STATE, load  # noqa: PLC0415

    found = load(args.settings).history
    if found is None or args.settings or found.exists():
        return found
    return _either(found, SYSTEM_STATE)


def _either(own: Path, system_folder: Path) -> Path:
    """The system's, where it can be seen; else the user's own, which is then named in the error."""
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
