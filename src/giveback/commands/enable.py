"""Turn on what gives a VM's memory back: page reporting, statistics, the agent's port.

Shows what would change; --yes changes it, --undo takes it back. A libvirt domain uses it from its
next start: a running VM keeps its configuration. So do VMs of Proxmox and Incus, whose own programs
are run for it. For a QEMU without a manager it shows the options for the next start, and with --yes
does over QMP what can be done while it runs. --statistics makes the VMM ask a running guest for its
numbers at once. With --agent-port, a running VM of QEMU or libvirt gets the port on which the agent
is asked.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import TYPE_CHECKING

from giveback.accounting import next_steps
from giveback.commands import _daemon
from giveback.errors import InputError, VmError
from giveback.host.started_by import started_by
from giveback.reporters import changes
from giveback.vmm.backends import libvirt
from giveback.vmm.find import choose, find, is_called, is_given
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from giveback.vmm.base import Backend, VmDescription

HELP = "turn on page reporting and statistics, or plug the agent's port in (shows it first)"
_PERIOD_S, _PERIOD_LIMIT_S = 5, 3600
_TIMEOUT_S = 3.0


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "domain", metavar="VM", help="the VM's name, or its VMM's PID where it runs"
    )
    parser.add_argument(
        "--connect", metavar="URI", help=f"libvirt's URI (where the VM is, else {libvirt.URI})"
    )
    parser.add_argument(
        "--period", type=_period, metavar="SECONDS", help="of the statistics (5; 0 off)"
    )
    parser.add_argument(
        "--off", "--undo", action="store_true", dest="off", help="turn reporting off again"
    )
    parser.add_argument(
        "--manager",
        choices=("proxmox", "incus"),
        help="VM is its VMID, or NAME or PROJECT/NAME (found without this where the VM runs)",
    )
    parser.add_argument(
        "--statistics", action="store_true", help="ask the running guest for its numbers, at once"
    )
    parser.add_argument(
        "--agent-port", action="store_true", help="plug the agent's port into the running VM"
    )
    parser.add_argument(
        "--port-socket",
        default="",
        metavar="PATH",
        help="the agent's port's socket (beside QEMU's QMP socket)",
    )
    parser.add_argument("--yes", action="store_true", help="change it, not only show it")
    _daemon.add_arguments(parser)


def _period(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or int(text) > _PERIOD_LIMIT_S:
        raise argparse.ArgumentTypeError(f"from 0 to {_PERIOD_LIMIT_S} seconds")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Show the difference, and with --yes apply it."""
    _check(args)
    _daemon.use(args)
    vms = find()
    if args.manager:
        return _managed(args, args.manager, args.domain)
    if args.agent_port:
        return asyncio.run(_plug(args, choose(vms, args.domain)[1]))
    period_s = _PERIOD_S if args.period is None else args.period
    if args.statistics:
        return asyncio.run(_ask_for_statistics(args, choose(vms, args.domain)[1], period_s))
    named = [pair for pair in vms if is_called(pair[1], args.domain)]
    named = named or [pair for pair in vms if is_given(pair[1], args.domain)]
    if len(named) == 1 and named[0][1].backend == "qemu":
        manager, managed = _manager_of(named[0][1])
        if manager:
            return _managed(args, manager, managed)
    if len(named) == 1 and named[0][1].backend != "libvirt":
        return asyncio.run(_without_libvirt(args, *named[0], period_s))
    if not libvirt.available():
        if not named:
            choose(vms, args.domain)
        raise InputError("libvirt-python is not installed: pip install 'giveback[libvirt]'")
    try:
        return _domain(args, named[0][1] if len(named) == 1 else None, period_s)
    except VmError as error:
        if named:
            raise
        # It may be a domain that is not started; libvirt's answer is the second half of the
        # message.
        name = escape_for_terminal(args.domain, 80)
        raise InputError(f"no VM that runs is called {name!r}, nor a domain: {error}") from error


def _check(args: argparse.Namespace) -> None:
    """Raise InputError for options that would have no effect."""
    if args.agent_port and (args.off or args.period is not None or args.statistics):
        raise InputError(
            "--agent-port plugs a port in, and nothing else: leave --off and --period (and --statistics)"
        )
    if args.statistics and args.off:
        raise InputError(
            "--statistics leaves reporting as it is: leave --off (--period 0 stops it)"
        )
    if args.manager and (args.agent_port or args.statistics or args.period is not None):
        raise InputError(
            "--manager changes what a VM is started with: leave --agent-port, --statistics and --period"
        )
    if args.port_socket and not args.agent_port:
        raise InputError("--port-socket is that of the agent's port: it needs --agent-port")


def _manager_of(vm: VmDescription) -> tuple[str, str]:
    """Return the manager of a VM that runs, and what it calls the VM; '' if none has started it."""
    from giveback.host.procs import read_process  # noqa: PLC0415
    from giveback.vmm.control import incus, proxmox  # noqa: PLC0415

    process = read_process("/", vm.pid)
    vmid = proxmox.vmid_of(process) if process else ""
    if vmid and proxmox.is_run_by("/", vmid, vm.pid):
        return "proxmox", vmid
    instance = incus.instance_of(process) if process else ""
    if instance and incus.is_run_by(instance, vm.pid):
        return "incus", instance
    return "", ""


def _managed(args: argparse.Namespace, manager: str, name: str) -> int:
    """Change what a VM of Proxmox or Incus is started with."""
    from giveback.vmm.control import incus, managed, proxmox  # noqa: PLC0415

    of = proxmox if manager == "proxmox" else incus
    change = of.change(name, of.read(name), reporting=not args.off)
    if not change.command:
        print(f"{change.name}: it is so already")
        return 0
    print(changes.difference(changes.unified(change.before, change.after, change.name)))
    if not args.yes:
        print("\n".join(filter(None, ("nothing was changed; --yes changes it", change.refusal))))
        return 0
    if change.refusal:
        raise InputError(f"{change.name}: nothing was changed: {change.refusal}")
    managed.apply(change)
    print(f"changed: {change.then}")
    return 0


def _uri(args: argparse.Namespace, vm: VmDescription | None) -> str:
    """Return libvirt's URI: the given one, else that of the session in which the domain runs."""
    return args.connect or (vm.control if vm else "") or libvirt.URI


def _domain(args: argparse.Namespace, vm: VmDescription | None, period_s: int) -> int:
    """Change the configuration that a libvirt domain uses from its next start."""
    uri, name = _uri(args, vm), libvirt.domain_of(vm) if vm else args.domain
    before = libvirt.persistent_xml(name, vm.pid if vm else None, uri)
    after = libvirt.changed_xml(before, reporting=not args.off, period_s=period_s)
    difference = libvirt.difference(before, after, escape_for_terminal(name, 60))
    if not difference:
        print("it is so already")
        return 0
    print(changes.difference(difference))
    if not args.yes:
        print("nothing was changed; --yes changes it")
        return 0
    libvirt.define(after, uri)
    print("changed: the domain's next start uses it")
    return 0


async def _without_libvirt(
    args: argparse.Namespace, backend: Backend, vm: VmDescription, period_s: int
) -> int:
    """Show what the VM's next start needs, and do what can be done now."""
    if args.off:
        raise InputError(
            f"{escape_for_terminal(vm.name)}: --off is for VMs of libvirt, Proxmox and Incus: reporting of "
            "this VM is as its command line says; --statistics --period 0 turns statistics off"
        )
    state = await backend.inspect(vm, timeout_s=_TIMEOUT_S)
    vm = state.description or vm
    print(changes.next_start(vm, next_steps.start_options(vm), started_by("/", vm.pid)))
    if vm.backend != "qemu" or not vm.control or state.problems:
        print(changes.nothing_live(vm, state.problems))
        return 0
    from giveback.vmm.control import live  # noqa: PLC0415

    planned = await live.plan(vm, period_s)
    print(changes.live(vm, planned))
    if not planned.steps:
        return 0
    if not args.yes:
        print("nothing was changed; --yes does what can be done now")
        return 0
    await live.carry_out(planned)
    print("done; `giveback doctor` shows what came of it")
    return 0


async def _ask_for_statistics(args: argparse.Namespace, vm: VmDescription, period_s: int) -> int:
    """Have the guest asked for its numbers every `period_s` seconds from now on; 0 stops it."""
    from giveback.vmm.control.address import control_of  # noqa: PLC0415

    await control_of(vm, _uri(args, vm)).set_statistics_period(period_s)
    print(changes.statistics(vm, period_s))
    return 0


async def _plug(args: argparse.Namespace, vm: VmDescription) -> int:
    """Show the steps of plugging in the port, and with --yes take them."""
    from giveback.vmm.control import agent_port  # noqa: PLC0415

    planned = await agent_port.plan(vm, uri=_uri(args, vm), socket=args.port_socket)
    print(changes.steps(planned))
    if not args.yes:
        print("nothing was changed; --yes does it")
        return 0
    channel = await agent_port.carry_out(planned)
    print(changes.plugged(channel, vm.backend))
    return 0
