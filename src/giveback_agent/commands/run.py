"""Run the service: watch the guest and give memory back when it is idle, until stopped."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "the service: give memory back whenever the guest is idle"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """`run` has no options of its own: settings are in files or `--set`."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Run the service with parsed arguments."""
    return run_service(args.root, args.set)


def run_service(root: str, overrides: list[str]) -> int:
    """Run the service under `root`; returns its exit code. Raises UsageError for a bad override."""
    from giveback_agent import settings
    from giveback_agent.service import Service

    loaded = settings.load(root, overrides)
    for warning in loaded.warnings:
        say(warning)
    return Service(root, loaded.settings, say).run()


def say(line: str) -> None:
    """Print one line for the journal; a closed stderr is no reason to end."""
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except OSError:
        pass
