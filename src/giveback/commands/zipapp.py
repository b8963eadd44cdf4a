"""Write the guest agent as one file, to be copied into any guest with Python 3.9 or later."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.guest.zipapps import agent_zipapp

if TYPE_CHECKING:
    import argparse

HELP = "write giveback-agent.pyz, the agent as one file for a guest"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the file to write."""
    parser.add_argument("file", nargs="?", type=Path, default=Path("giveback-agent.pyz"))


def run(args: argparse.Namespace) -> int:
    """Write the file; return 0."""
    try:
        args.file.write_bytes(agent_zipapp())
        args.file.chmod(0o755)
    except OSError as error:
        raise InputError(
            f"{args.file}: {error.strerror}: choose a file that can be written"
        ) from error
    print(f"{args.file}: copy it into the guest, then: sudo python3 {args.file.name} doctor")
    return 0
