"""All VMs of this host, one line each: RAM, resident, in use, cache, free but still held, returned.

FREE HELD is held but unused: free in the guest, still resident on the host. `?` stands where the
guest's side is not known; `giveback doctor VM` says why.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from giveback.accounting.activity import activity_of
from giveback.arguments import span_of
from giveback.commands import _daemon, _output, _table
from giveback.errors import VmError
from giveback.guest.observe import observe_host, recalled
from giveback.host.memory import read_host_view
from giveback.host.process_sample import read_process_sample
from giveback.reporters import vm_table
from giveback.reporters.tables.vm_columns import PS
from giveback.vmm.base import key_of
from giveback.vmm.find import find
from giveback_kernel.errors import GivebackError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable

    from giveback.accounting.observation import Observation
    from giveback.host.process_sample import ProcessSample
    from giveback.vmm.base import Backend, VmDescription

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@+-]{0,99}", re.ASCII)
HELP = "list this host's VMs: RAM, resident, in use, cache, free but still held, returned"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    _table.add_arguments(parser, PS)
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON document instead of a table; with --watch one object a line",
    )
    _output.add_watch(parser)
    parser.add_argument(
        "--names",
        dest="only_names",
        action="store_true",
        help="only the names, one a line, for scripts and completion: those of plain characters",
    )
    parser.add_argument(
        "--timeout",
        type=lambda text: span_of(text, "--timeout", _output.LEAST_S, _output.MOST_S),
        default=0.8,
        metavar="SECONDS",
        help="how long one VM may take to answer (0.8)",
    )
    _daemon.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Show the VMs, once or repeatedly. Raises InputError for a name that no VM has."""
    _daemon.use(args)
    if args.only_names:
        print("".join(f"{name}\n" for name in _plain_names(args)), end="")
        return 0
    before: dict[int, ProcessSample] = {}
    last: dict[int, tuple[Observation, float]] = {}
    return _output.repeat(lambda: _show(args, before, last), args.watch)


def _plain_names(args: argparse.Namespace) -> list[str]:
    """Return the names of all VMs that this user may see, here or by the daemon.

    A shell would run what a stranger's name says, so others are left out.
    """
    found = {vm.name for _, vm in find()}
    if os.geteuid():
        with contextlib.suppress(GivebackError):
            found |= {vm.name for vm in _daemon.client(args).status().vms}
    return sorted(name for name in found if _PLAIN.fullmatch(name))


def _show(
    args: argparse.Namespace,
    before: dict[int, ProcessSample],
    last: dict[int, tuple[Observation, float]],
) -> None:
    """Show the VMs now; the samples of their processes in `before` are replaced by the current ones."""
    skipped: list[VmError] = []
    observations = observe_host(
        timeout_s=args.timeout,
        chosen=lambda found: _table.named(found, args.names, _words_of),
        skipped=skipped,
    )
    observations = [recalled(seen, last) for seen in observations]
    host = _host_side((seen.vm.pid for seen in observations), before)
    view = _table.view(args)
    if args.json:
        documents = vm_table.documents(observations, host, view)
        if args.watch:
            now_s = time.time()
            for one in documents:
                _output.print_json({"wall_s": now_s, **one}, watched=args.watch)
        else:
            _output.print_json(documents)
        _output.tell_not_shown(skipped)
    else:
        text = vm_table.text(observations, _output.width(), host, view)
        more = _output.not_shown(skipped)
        _output.print_page(f"{text}\n{more}" if more else text, watched=args.watch)


def _words_of(found: tuple[Backend, VmDescription]) -> tuple[str, str, str]:
    vm = found[1]
    return key_of(vm), vm.name, str(vm.pid)


def _host_side(pids: Iterable[int], before: dict[int, ProcessSample]) -> vm_table.HostSide:
    now = {pid: sample for pid in pids if (sample := read_process_sample("/", pid)) is not None}
    activities = {pid: activity_of(sample, before.get(pid)) for pid, sample in now.items()}
    before.clear()
    before.update(now)
    try:
        ram_bytes = read_host_view(now_s=0.0).total_bytes
    except VmError:
        ram_bytes = None
    owners = _table.owners(activity.uid for activity in activities.values())
    return vm_table.HostSide(ram_bytes, activities, owners)
