"""Turn on free page reporting and balloon statistics for a libvirt domain, or plug the agent's port in.

Shows what would change; --yes changes it. Reporting is used by the domain's next start: a running VM
keeps what it has. Other VMMs are told by their own command line: `giveback doctor` says how. With
--agent-port, a VM of QEMU or libvirt that runs gets the virtio-serial port on which the agent is asked.
"""

from __future__ import annotations

import argparse
import asyncio

from giveback.errors import InputError
from giveback.reporters import changes
from giveback.vmm.backends import libvirt
from giveback.vmm.find import choose, find
from giveback_kernel.escaping import escape_for_terminal

HELP = "turn on page reporting for a libvirt domain, or plug the agent's port in (shows it first)"
_PERIOD_S, _PERIOD_LIMIT_S = 5, 3600


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "domain", metavar="VM", help="the domain's name; with --agent-port, or a PID"
    )
    parser.add_argument("--connect", default=libvirt.URI, metavar="URI", help="libvirt's URI")
    parser.add_argument(
        "--period", type=_period, metavar="SECONDS", help="of the statistics (5; 0 off)"
    )
    parser.add_argument("--off", action="store_true", help="turn reporting off again")
    parser.add_argument(
        "--agent-port", action="store_true", help="plug the agent's port into the running VM"
    )
    parser.add_argument(
        "--socket", default="", metavar="PATH", help="the port's socket (beside QEMU's QMP socket)"
    )
    parser.add_argument("--yes", action="store_true", help="change it, not only show it")


def _period(text: str) -> int:
    if not text.isdigit() or len(text) > 4 or int(text) > _PERIOD_LIMIT_S:
        raise argparse.ArgumentTypeError(f"from 0 to {_PERIOD_LIMIT_S} seconds")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Show the difference, and with --yes make it."""
    _check(args)
    if args.agent_port:
        return asyncio.run(_plug(args))
    period_s = _PERIOD_S if args.period is None else args.period
    if not libvirt.available():
        raise InputError("libvirt-python is not installed: pip install 'giveback[libvirt]'")
    before = libvirt.persistent_xml(args.domain, args.connect)
    after = libvirt.changed_xml(before, reporting=not args.off, period_s=period_s)
    difference = libvirt.difference(before, after, escape_for_terminal(args.domain, 60))
    if not difference:
        print("it is so already")
        return 0
    print(changes.difference(difference))
    if not args.yes:
        print("nothing was changed; --yes changes it")
        return 0
    libvirt.define(after, args.connect)
    print("changed: the domain's next start uses it")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Raises InputError for options that would do nothing."""
    if args.agent_port and (args.off or args.period is not None):
        raise InputError("--agent-port plugs a port in, and nothing else: leave --off and --period")
    if args.socket and not args.agent_port:
        raise InputError("--socket is that of the agent's port: it needs --agent-port")


async def _plug(args: argparse.Namespace) -> int:
    """Show the steps of plugging the port in, and with --yes take them."""
    from giveback.vmm.control import agent_port  # noqa: PLC0415

    _, vm = choose(find(), args.domain)
    planned = await agent_port.plan(vm, uri=args.connect, socket=args.socket)
    print(changes.steps(planned))
    if not args.yes:
        print("nothing was changed; --yes does it")
        return 0
    channel = await agent_port.carry_out(planned)
    print(changes.plugged(channel, vm.backend))
    return 0
