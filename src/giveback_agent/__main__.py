"""The `giveback-agent` command line. One file in `giveback_agent.commands` is one command.

`run` is dispatched without argparse, which the service must not hold in memory.
"""

from __future__ import annotations

import os
import sys

from giveback_kernel.errors import GivebackError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

COMMANDS = (
    "config",
    "doctor",
    "install",
    "picture",
    "release",
    "repair",
    "run",
    "status",
    "uninstall",
    "urgency",
)


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        if words[-1:] == ["run"] and words[:-1:2] == ["--set"] * (len(words) // 2):
            from giveback_agent.commands.run import run_service

            return run_service("/", words[1::2])
        return _parsed(words)
    except GivebackError as error:
        sys.stderr.write(f"giveback-agent: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Python flushes stdout again at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141


def _parsed(words: list[str]) -> int:
    args = build_parser().parse_args(words)
    return int(args.run(args))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    import argparse
    from importlib import import_module

    from giveback_kernel.version import version_text

    parser = argparse.ArgumentParser(
        prog="giveback-agent", description="Gives this VM's unused memory back to its host."
    )
    parser.add_argument("--version", action="version", version=version_text("giveback-agent"))
    parser.add_argument("--root", default="/", help=argparse.SUPPRESS)
    parser.add_argument(
        "--set", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="a setting for this call, above all files (see `config`)",
    )  # fmt: skip
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        try:
            module = import_module(f"giveback_agent.commands.{name}")
        except ModuleNotFoundError:
            continue
        sub = subparsers.add_parser(name, help=module.HELP, description=module.__doc__)
        module.prepare_parser(sub)
        sub.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
