"""One VM, both sides read and joined: what `ps`, `explain` and `doctor` show."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.accounting.ledger import Ledger, join
from giveback.accounting.observation import Observation
from giveback.accounting.reporting import vmm_takes_reports
from giveback.accounting.usage import NO_GUEST, GuestSnapshot, GuestSource, HostSnapshot
from giveback.errors import VmError
from giveback.guest.host_side import read_host
from giveback.guest.protocol import from_agent
from giveback.guest.query import read_guest, read_pages
from giveback.host import procs
from giveback.host.readers import pool
from giveback.vmm.base import VmState
from giveback.vmm.find import find

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback.vmm.base import Backend, VmDescription

    FoundVm = tuple[Backend, VmDescription]

_AT_ONCE = 32
"""VMs asked at the same time: a host with a thousand is not met with a thousand connections."""


async def observe(
    backend: Backend,
    vm: VmDescription,
    *,
    root: str = "/",
    layout: bool = False,
    timeout_s: float = 2.0,
    guest_timeout_s: float | None = None,
    guest: GuestSnapshot | None = None,
    by_cgroup: bool = False,
    patience_s: float = 0.0,
) -> Observation:
    """Ask the VMM, then the guest, then read the host: the last at once after the guest.

    `guest` is a picture brought from elsewhere; then the guest is not asked, else it has
    `guest_timeout_s` (a quarter of `timeout_s`) for each way to it; an agent that says when it answers again
    is waited for at most `patience_s`. `by_cgroup`: ask it also which service and container has what. Never
    raises VmError.
    """
    if procs.is_stopped(root, vm.pid):
        # Neither its monitor nor its guest would answer, and each would be waited for.
        why = (
            f"the VMM's process is stopped, and answers nothing: kill -CONT {vm.pid} lets it go on"
        )
        return await _with_host(
            vm, VmState(running=False, problems=(why,)), guest or NO_GUEST, root
        )
    state = await backend.inspect(vm, layout=layout, timeout_s=timeout_s)
    vm = state.description or vm
    if guest is None:
        wait_s = guest_timeout_s or timeout_s / 4
        guest = await read_guest(vm, state, time.time(), wait_s, by_cgroup, patience_s)
    return await _with_host(vm, state, guest, root)


async def observe_pages(
    backend: Backend,
    vm: VmDescription,
    *,
    root: str = "/",
    timeout_s: float = 2.0,
    said: dict[str, object] | None = None,
) -> tuple[Observation, dict[str, object]]:
    """Observe a VM whose every page counts; returns what its guest said of its pages, too.

    `said` is what was brought from elsewhere, else the agent is asked. The VMM is asked once: for the
    layout, and for an agent's port that no command line shows. Raises VmError where no agent answers.
    """
    state = await backend.inspect(vm, layout=True, timeout_s=timeout_s)
    vm = state.description or vm
    source = GuestSource.FILE
    if said is None:
        said, source = await read_pages(vm, closed=state.closed_ports), GuestSource.AGENT
    # The host at once after the guest: pages change hands meanwhile.
    return await _with_host(vm, state, from_agent(said, source), root), said


async def _with_host(
    vm: VmDescription, state: VmState, guest: GuestSnapshot, root: str = "/"
) -> Observation:
    """Read the host's side now, and join it with what the VMM and the guest said.

    Never raises VmError: what could not be read is among the problems.
    """
    problems = list(state.problems)
    try:
        host, bound, _ = await read_host(pool.shared(), vm, state, root)
    except VmError as error:
        rss = procs.status_bytes(root, vm.pid).get("VmRSS")
        return Observation(
            vm, state, None, guest, None, (), rss, (*problems, *guest.problems, str(error))
        )
    missing = [block.block.name for block in bound if not block.ranges]
    if missing:
        problems.append(f"no mapping of the process is RAM block {', '.join(missing)}")
    return Observation(
        vm, state, host, guest, make_ledger(vm, state, host, guest), bound, None, tuple(problems)
    )


def recalled(seen: Observation, last: dict[int, tuple[Observation, float]]) -> Observation:
    """Return a VM with its agent's last answer, where the agent gives none just now; `last` is kept up.

    By PID, with the monotonic time of it. How far resident memory has moved since is known, so that numbers
    of before a large change are not used.
    """
    now_s = time.monotonic()
    if seen.guest.source is GuestSource.AGENT:
        last[seen.vm.pid] = seen, now_s
    if not seen.guest.agent_is_there or seen.vm.pid not in last or seen.host is None:
        return seen
    before, at_s = last[seen.vm.pid]
    if before.host is None or before.vm.name != seen.vm.name:
        return seen
    guest = replace(
        before.guest,
        age_s=(before.guest.age_s or 0.0) + now_s - at_s,
        moved_bytes=abs(seen.host.ram_resident_bytes - before.host.ram_resident_bytes),
    )
    ledger = make_ledger(seen.vm, seen.state, seen.host, guest)
    return replace(seen, guest=guest, ledger=ledger)


def make_ledger(
    vm: VmDescription, state: VmState, host: HostSnapshot, guest: GuestSnapshot
) -> Ledger:
    """Join the pictures of a VM: RAM is all its blocks; what is not plugged counts as ballooned."""
    ram_bytes = vm.block_bytes or vm.ram_bytes
    unplugged = max(0, ram_bytes - (state.ram_bytes or vm.ram_bytes))
    return join(
        host,
        guest,
        ram_bytes,
        balloon_bytes=(state.balloon_bytes or 0) + unplugged,
        balloon_in_total=vm.capabilities.deflate_on_oom and not unplugged,
        reporting=vmm_takes_reports(vm, state),
        kept=bool(vm.blockers),
    )


async def observe_all(
    vms: Sequence[tuple[Backend, VmDescription]],
    *,
    root: str = "/",
    layout: bool = False,
    timeout_s: float = 2.0,
) -> list[Observation]:
    """Observe many VMs side by side; one that hangs delays nobody but itself.

    `layout` asks each VMM all that it tells without leaving a mark on its VM.
    """
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(backend: Backend, vm: VmDescription) -> Observation:
        async with gate:
            more = layout and not backend.layout_taints
            return await observe(backend, vm, root=root, layout=more, timeout_s=timeout_s)

    return await asyncio.gather(*(one(backend, vm) for backend, vm in vms))


def observe_host(
    *,
    root: str = "/",
    layout: bool = False,
    timeout_s: float = 2.0,
    chosen: Callable[[Sequence[FoundVm]], Sequence[FoundVm]] = tuple,
) -> list[Observation]:
    """Observe the VMs of this host that are `chosen` of all that are found; every one without it."""
    vms = chosen(find(root))
    return asyncio.run(observe_all(vms, root=root, layout=layout, timeout_s=timeout_s))
