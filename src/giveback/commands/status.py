"""What the daemon knows and does: the host, its urgency and why, each VM, leases, problems.

Exit code 3: no daemon runs.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from giveback.commands import _daemon, _output, _table
from giveback.manager.http.answers import plain
from giveback.reporters import daemon_status
from giveback.reporters.tables.vm_columns import STATUS, in_order

if TYPE_CHECKING:
    import argparse

    from giveback.manager.http.client import Client
    from giveback.manager.model import DaemonStatus, VmStatus

HELP = "what the running daemon knows of this host and its VMs"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _table.add_arguments(parser, STATUS)
    _daemon.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="one JSON document instead of text")
    _output.add_watch(parser)


def run(args: argparse.Namespace) -> int:
    """Show the status, once or repeatedly. Raises NoDaemonError (exit code 3)."""
    client, problem = _daemon.client_and_problem(args)
    return _output.repeat(lambda: _show(client, problem, args), args.watch)


def _show(client: Client, problem: str, args: argparse.Namespace) -> None:
    status = _chosen(client.status(), args.names)
    if problem:
        lines = tuple(f"settings: {line.strip()}" for line in problem.splitlines())
        status = replace(status, problems=(*lines, *status.problems))
    owners = _table.owners(vm.uid for vm in status.vms)
    if args.json:
        _output.print_json(_document(status, owners, args), watched=args.watch)
    else:
        text = daemon_status.text(status, time.time(), _output.width(), owners, _table.view(args))
        _output.print_page(text, watched=args.watch)


def _chosen(status: DaemonStatus, names: list[str]) -> DaemonStatus:
    """Return the status with only the named VMs and their problems. Raises InputError."""
    if not names:
        return status
    from giveback.manager.fleet.status import vm_problems  # noqa: PLC0415

    vms = tuple(_table.named(status.vms, names, _words_of))
    return replace(status, vms=vms, vm_problems=vm_problems(vms))


def _words_of(vm: VmStatus) -> tuple[str, str, str]:
    return vm.key, vm.name, str(vm.pid)


def _document(
    status: DaemonStatus, owners: dict[int, str], args: argparse.Namespace
) -> dict[str, object]:
    """Return the status as in JSON, with each owner's name."""
    rows = {vm.key: daemon_status.row_of(vm, status, owners) for vm in status.vms}
    if args.sort:
        vms = in_order(status.vms, lambda vm: rows[vm.key], _table.view(args))
        status = replace(status, vms=tuple(vms))
    document = cast("dict[str, object]", plain(status))
    for vm in cast("list[dict[str, object]]", document["vms"]):
        vm["owner"] = rows[str(vm["key"])].owner
    return document
