"""Where every byte of a VM is: from what the host charges down to what the guest needs.

The rows add up exactly, to the VM's RAM and to what the host charges; docs/ledger.md defines them.
--exact joins guest and host page by page. The guest's agent sends the use of each page (or --guest
FILE has it, made in the guest by `giveback-agent picture --pages`); the host's page tables show
what it holds. With --watch it is repeated, and free pages that stay resident show their age.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.commands import _daemon, _output, _target
from giveback.errors import InputError, VmError
from giveback.reporters import explanation
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from giveback.accounting.observation import Observation

HELP = "where every byte of a VM is, and what would bring it back"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _target.add_arguments(parser)
    _daemon.add_arguments(parser)
    parser.add_argument("--exact", action="store_true", help="page by page")
    _output.add_watch(
        parser,
        30.0,
        "again every SECONDS (30); with --exact, the age of free pages that stay resident",
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    parser.add_argument("--svg", metavar="FILE", help="also draw it, as SVG")
    parser.add_argument("--png", metavar="FILE", help="also draw it, as PNG")


def run(args: argparse.Namespace) -> int:
    """Explain one VM, once or repeatedly."""
    _daemon.use(args)
    target = _target.target(args)
    if args.watch and target.said is not None:
        raise InputError("--watch needs a guest that answers: a file does not change")
    observe = (
        _exactly(target) if args.exact else lambda: asyncio.run(target.observe(by_cgroup=True))
    )
    return _output.repeat(lambda: _show(observe(), args), args.watch)


def _exactly(target: _target.CommandTarget) -> Callable[[], Observation]:
    """Return a function that observes the VM page by page and remembers earlier samples."""
    # numpy takes 90 ms to import, so only --exact imports it.
    from giveback.accounting import page_ledger  # noqa: PLC0415

    ages = page_ledger.Ages()

    def observe() -> Observation:
        seen, said = asyncio.run(target.observe_pages())
        if seen.ledger is None:
            return seen
        return replace(seen, exact=page_ledger.join_pages(seen, said, ages, time.monotonic()))

    return observe


def _show(seen: Observation, args: argparse.Namespace) -> None:
    """Choose the reporters. Raises VmError if the host's side could not be read."""
    if seen.ledger is None:
        raise VmError("; ".join(escape_for_terminal(problem, 300) for problem in seen.problems))
    if args.json:
        _output.print_json(explanation.document(seen), watched=args.watch)
    else:
        _output.print_page(explanation.text(seen, _output.width()))
    for path in filter(None, (args.svg, args.png)):
        # matplotlib takes 1 s to import, so only a picture imports it.
        from giveback.reporters.waterfall_figure import draw  # noqa: PLC0415

        draw(seen, path)
