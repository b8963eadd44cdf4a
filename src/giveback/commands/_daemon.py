"""The daemon that a command talks to: by --socket, by the settings, or where the system's is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from giveback.manager.http.client import Client
from giveback.manager.settings import load

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--socket and --settings."""
    parser.add_argument("--socket", metavar="PATH", help="the daemon's socket")
    parser.add_argument(
        "--settings", type=Path, metavar="FILE", help="the daemon's settings, which name its socket"
    )


def client(args: argparse.Namespace) -> Client:
    """Raises InputError for settings that are wrong."""
    return Client(args.socket or str(_socket(args.settings)))


def _socket(named: Path | None) -> Path:
    found = load.load(named).socket
    # A user may ask the system's daemon, where none of the user's own runs.
    return found if named or found.exists() else _either(found, load.SYSTEM_RUNTIME)


def history_path(args: argparse.Namespace) -> Path | None:
    """Where the history is; None where none is kept. Raises InputError for settings that are wrong."""
    found = load.load(args.settings).history
    if found is None or args.settings or found.exists():
        return found
    return _either(found, load.SYSTEM_STATE)


def _either(own: Path, system_folder: Path) -> Path:
    """The system's, where it can be seen; else the user's own, which is then named in the error."""
    system = system_folder / own.name
    try:
        return system if system.exists() else own
    except PermissionError:
        return system
