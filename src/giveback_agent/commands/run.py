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
    from giveback_agent.runtime import reexec, run_dir
    from giveback_agent.settings import load

    lock = run_dir.hold_lock(root)
    if root == "/":
        words = [word for override in overrides for word in ("--set", override)]
        # The lock ends with this process image and is taken again by what it becomes.
        reexec.anew(root, [*words, "run"])
    try:
        # Before the service lowers its priority: under WSL this asks Windows, within a time limit.
        wsl = load.detect_wsl(root)
        loaded = load.load(root, overrides, wsl)
        for warning in loaded.warnings:
            say(f"giveback-agent: {warning}")
        from giveback_agent.service.loop import Service

        return Service(root, loaded.settings, say, under_wsl=wsl is not None).run()
    finally:
        run_dir.release_lock(root, lock)


def say(line: str) -> None:
    """Print one line for the journal; a closed stderr is no reason to end."""
    if sys.stderr is None:  # closed before the start
        return
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
