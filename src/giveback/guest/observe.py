"""Observe a VM: read its host and guest sides and join them, for `ps`, `explain` and `doctor`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.accounting.ledger import Ledger, join
from giveback.accounting.next_steps import stopped
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
"""VMs asked at the same time, so that a host with a thousand VMs gets no thousand connections at once."""


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
    """Ask the VMM, then the guest; then read the host's side immediately after the guest answered.

    - `guest`: a snapshot from another source; the guest is then not asked.
    - `guest_timeout_s`: the time for each channel to the guest; a quarter of `timeout_s` if None.
    - `patience_s`: how long to wait at most for an agent that says when it answers again.
    - `by_cgroup`: ask the guest also for memory by service and container.

    Never raises VmError: failures are among the observation's problems.
    """
    if procs.is_stopped(root, vm.pid):
        # Neither its monitor nor its guest would answer; each would cost a timeout.
        why = stopped(vm.pid)
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
    """Observe a VM page by page; return the observation and the guest's answer about its pages.

    `said` is an answer from another source; if None, the agent is asked. The VMM is asked once, for the
    layout and for an agent's port that the command line does not show. Raises VmError if no agent answers.
    """
    state = await backend.inspect(vm, layout=True, timeout_s=timeout_s)
    vm = state.description or vm
    source = GuestSource.FILE
    if said is None:
        said, source = await read_pages(vm, closed=state.closed_ports), GuestSource.AGENT
    # Read the host immediately after the guest, because pages change in between.
    return await _with_host(vm, state, from_agent(said, source), root), said


async def _with_host(
    vm: VmDescription, state: VmState, guest: GuestSnapshot, root: str = "/"
) -> Observation:
    """Read the host's side now, and join it with the VMM's state and the guest's snapshot.

    Never raises VmError: failures are among the observation's problems.
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
        problems.append(f"no mapping of the process was found for RAM block {', '.join(missing)}")
    return Observation(
        vm, state, host, guest, make_ledger(vm, state, host, guest), bound, None, tuple(problems)
    )


def recalled(seen: Observation, last: dict[int, tuple[Observation, float]]) -> Observation:
    """Return the observation with its agent's last answer if the agent gives none now.

    `last` maps each PID to its last answered observation and the monotonic time of it; it is updated
    here. The change of resident memory since is recorded, so that the ledger refuses outdated numbers.
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
    """Join the snapshots of a VM. RAM is the sum of its blocks; unplugged memory counts as ballooned."""
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
    """Observe many VMs concurrently; a VM that hangs delays only its own result.

    `layout` asks each VMM also for its memory layout, unless that would mark the VM as tainted.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(backend: Backend, vm: VmDescription) -> Observation:
        async with slots:
            more = layout and not backend.layout_taints
            return await observe(backend, vm, root=root, layout=more, timeout_s=timeout_s)

    return await asyncio.gather(*(one(backend, vm) for backend, vm in vms))


def observe_host(
    *,
    root: str = "/",
    layout: bool = False,
    timeout_s: float = 2.0,
    chosen: Callable[[Sequence[FoundVm]], Sequence[FoundVm]] = tuple,
    skipped: list[VmError] | None = None,
) -> list[Observation]:
    """Find the VMs of this host and observe those that `chosen` selects; all of them by default.

    Add to `skipped` why a process could not be read.
    """
    vms = chosen(find(root, skipped))
    return asyncio.run(observe_all(vms, root=root, layout=layout, timeout_s=timeout_s))
