"""Run the service: sample the guest, and return memory to the host when it is idle, until stopped."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

HELP = "run the service: return memory to the host whenever the guest is idle"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options: it has none, as settings are in files or in --set."""
    del parser


def run(args: argparse.Namespace) -> int:
    """Run the service with parsed arguments; return its exit code."""
    return run_service(args.root, args.set)


def run_service(root: str, overrides: list[str]) -> int:
    """Run the service under `root`; return its exit code. Raises UsageError for a bad override."""
    from giveback_agent.runtime import reexec, run_dir
    from giveback_agent.settings import load

    lock = run_dir.hold_lock(root)
    if root == "/":
        words = [word for override in overrides for word in ("--set", override)]
        # The lock ends with this process image; the new image takes it again.
        reexec.replace_process(root, [*words, "run"])
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
    """Print one line for the journal. A closed stderr is ignored."""
    if sys.stderr is None:  # closed before the start
        return
    try:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()
    except (OSError, ValueError):
        pass
