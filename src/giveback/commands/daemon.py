"""Look after this host's VMs: send their agents how badly the host needs memory, check what comes back.

Runs in the foreground until SIGTERM or Ctrl-C; SIGHUP reads the settings again. While the host has
memory, guests keep their caches. When it runs short, it takes memory from the guests that can give
most at the least cost. `giveback status`, `history` and `reclaim` talk to it.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError

if TYPE_CHECKING:
    import argparse

HELP = "run the host manager: memory back from VMs when the host needs it"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="the settings (/etc/giveback/giveback.toml, if there is one)",
    )
    parser.add_argument(
        "--check", action="store_true", help="only check the settings, and say what holds"
    )
    parser.add_argument(
        "--print-unit", action="store_true", help="only print the systemd unit that runs it"
    )


def run(args: argparse.Namespace) -> int:
    """Run until stopped; return 2 if it cannot start."""
    if args.print_unit:
        from giveback.manager.systemd_unit import unit_text  # noqa: PLC0415

        print(unit_text(_program()), end="")
        return 0
    try:
        from giveback.host.memory import read_host_view  # noqa: PLC0415
        from giveback.host.readers.pool import shared  # noqa: PLC0415
        from giveback.manager import logs  # noqa: PLC0415
        from giveback.manager.lifecycle import manage  # noqa: PLC0415
        from giveback.manager.settings.load import load  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise InputError(f"the daemon needs {error.name}: pip install 'giveback[host]'") from error
    settings = load(args.settings)
    if args.check:
        read_host_view("/", settings.cgroup, now_s=0.0)
        print(f"{settings.source}: good; socket {settings.socket}, state {settings.state}")
        return 0
    logs.set_up(sys.stderr, settings.log_level)
    # Now, while this process has no threads and none of a guest's data in its memory.
    shared().start()
    asyncio.run(manage(settings, args.settings))
    return 0


def _program() -> str:
    """Return the path of the running command, or of the one beside the Python that runs a module.

    Raises InputError if there is none: a unit that names no program never starts.
    """
    for name in (sys.argv[0], str(Path(sys.executable).with_name("giveback"))):
        found = shutil.which(name)
        if found is not None:
            return str(Path(found).absolute())
    raise InputError(
        f"{sys.argv[0]} is not a program that systemd can start: install giveback (pip install "
        "'giveback[host]') and run its own `giveback daemon --print-unit`"
    )
