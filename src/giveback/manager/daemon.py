"""The manager: it finds and samples VMs, decides, sends urgencies, and verifies the results.

It is one event loop in which nothing blocks. All times that affect decisions are monotonic, so that setting
the clock changes no decision.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import resource
import time
from typing import TYPE_CHECKING

import structlog

from giveback.errors import InputError, VmError
from giveback.host.memory import read_host_view
from giveback.host.readers.pool import shared
from giveback.manager.decide import schedule
from giveback.manager.fleet import discovery
from giveback.manager.fleet.connections import Connections
from giveback.manager.fleet.fleet import VMS_LIMIT, Fleet, Watched
from giveback.manager.fleet.reclaim import ReclaimOperation
from giveback.manager.fleet.sampler import Sampler
from giveback.manager.fleet.status import condition_of, problems_of, status_of, vm_problems
from giveback.manager.fleet.urgency import Arbitration
from giveback.manager.http.requests import LEASE_MOST_S
from giveback.manager.model import URGENCIES, DaemonStatus
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import span

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from giveback.manager.devices.fallback import Fallbacks
    from giveback.manager.model import HistoryRecorder, ReclaimResult
    from giveback.manager.settings.load import DaemonSettings
    from giveback.vmm.base import Backend

TICK_S = 0.25
SCAN_S = 1.0
HOST_S = 0.5
"""Seconds between two samples of the host. A new decision is made only if a sample calls for it."""
CONNECT_S = 1.0
RECORD_S = 10.0
RECOVER_S = 10.0
STATUS_S = 2.0
"""Seconds for which a status is reused if nothing important changed: one of 1,000 VMs takes some ms."""


class NoRecorder:
    """A `model.HistoryRecorder` that records nothing."""

    problems: tuple[str, ...] = ()

    def status(self, status: DaemonStatus) -> None:
        """Do nothing."""
        del status

    def action(self, action: object) -> None:
        """Do nothing."""
        del action


_DESCRIPTORS_KEPT = 256
"""Descriptors for the API's clients, the history, the readers' pipes, and VMMs' monitors."""
_DESCRIPTORS_OF_A_VM = 2


class Daemon:
    """The manager; it implements `model.Manager`. `run` runs it until `stop`.

    `acts` False: it only samples, and sends nothing to guests. `other_problems` are shown with its own.
    """

    def __init__(
        self,
        settings: DaemonSettings,
        *,
        recorder: HistoryRecorder | None = None,
        fallbacks: Fallbacks | None = None,
        root: str = "/",
        backends: Sequence[Backend] | None = None,
        acts: bool = True,
        other_problems: Callable[[], tuple[str, ...]] = lambda: (),
    ) -> None:
        self.settings = settings
        self.started_wall_s = time.time()
        self.fleet = Fleet()
        self._recorder: HistoryRecorder = NoRecorder() if recorder is None else recorder
        self._fallbacks = fallbacks
        self._other_problems = other_problems
        self._root = root
        self._readers = shared()
        self._finder = discovery.Finder(root, backends)
        self._arbitration = Arbitration(self.fleet, self._recorder, root, acts=acts)
        self._arbitration.cgroup = settings.cgroup
        self._sampler = Sampler(self.fleet, self._arbitration, fallbacks, root)
        self._connections = Connections(self.fleet)
        self._reclaim = ReclaimOperation(self.fleet, self._arbitration, root, self._now_s)
        self._stopping = asyncio.Event()
        self._logged: tuple[str, ...] = ()
        self._is_decision_due = False
        self._reload_problems: tuple[str, ...] = ()
        self._last_status: DaemonStatus | None = None
        self._last_mark: object = None
        self._last_until_s = 0.0
        self._log = structlog.get_logger("giveback.daemon")

    # model.Manager

    def status(self) -> DaemonStatus:
        """Return the present status, or one of at most 2 s ago if nothing important has changed."""
        now_s = self._now_s()
        mark = (self.fleet.revision, self._reload_problems, self._arbitration.decision)
        last = self._last_status
        if last is not None and mark == self._last_mark and now_s < self._last_until_s:
            return last
        self._last_status, self._last_mark = self._status(now_s), mark
        self._last_until_s = now_s + STATUS_S
        return self._last_status

    def _status(self, now_s: float) -> DaemonStatus:
        leases = self._fallbacks.leases() if self._fallbacks else ()
        held: dict[tuple[int, int], int] = {}
        for lease in leases:
            place = (lease.pid, lease.start_ticks)
            held[place] = held.get(place, 0) + abs(lease.before_bytes - lease.target_bytes)
        host = self._arbitration.host
        vms = tuple(
            status_of(
                vm, now_s, held.get((vm.pid, vm.ticks), 0), host.total_bytes if host else None
            )
            for vm in self.fleet
        )
        return DaemonStatus(
            wall_s=time.time(),
            started_wall_s=self.started_wall_s,
            host=host,
            decision=self._arbitration.decision,
            vms=vms,
            actions=tuple(self.fleet.actions),
            leases=leases,
            errors=dict(self.fleet.errors.counts),
            problems=self._problems(),
            settings_source=self.settings.source,
            vm_problems=vm_problems(vms),
        )

    async def reclaim(
        self, goal_bytes: int, within_s: float, vms: Sequence[str] = (), *, dry_run: bool = False
    ) -> ReclaimResult:
        """Free memory now, or only plan it, as `model.Manager.reclaim`."""
        if dry_run:
            return await self._reclaim.plan(goal_bytes, within_s, vms)
        self._refuse_unless_acting()
        result = await self._reclaim.run(goal_bytes, within_s, vms)
        self._log.info(
            "reclaimed",
            goal_bytes=goal_bytes,
            returned_bytes=result.returned_bytes,
            took_s=round(result.took_s, 2),
        )
        return result

    async def set_urgency(self, vm: str, urgency: int, lease_s: float) -> None:
        """Send one guest a manual urgency, as `model.Manager.set_urgency`."""
        if urgency not in URGENCIES or not 0 < lease_s <= LEASE_MOST_S:
            raise InputError(
                f"urgency {urgency} for {span(lease_s)}: give 0 to 3, and at most an hour"
            )
        self._refuse_unless_acting()
        chosen = self.fleet.chosen(vm)
        if not chosen.hears:
            why = condition_of(chosen)[1]
            raise VmError(f"{escape_for_terminal(chosen.key)}: no agent answers: {why}")
        now_s = self._now_s()
        self._reclaim.leave(chosen)
        chosen.request.set_manual(urgency, now_s + lease_s)
        chosen.channel.forget_sent()
        if not self._arbitration.send_urgency(chosen, now_s):
            raise VmError(
                f"{escape_for_terminal(chosen.key)}: the guest does not read what it is sent"
            )

    def _refuse_unless_acting(self) -> None:
        if not self._arbitration.acts:
            raise InputError(
                "this daemon only watches: run `giveback daemon` or `giveback web` as root"
            )

    # Start, reload, stop.

    async def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Manage the VMs until `stop`; then release all leases and close all sessions.

        `ready` is called after the first sample of the host.
        """
        self.fleet.limit(_vms_limit())
        # Failures of monitors are counted and shown per VM; qemu.qmp would log each one as well.
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        await self._recover()
        with contextlib.suppress(VmError):  # `_scan` tries again at once, and counts a failure.
            await self.discover()
        self._sample_host(force=True)
        ready()
        async with asyncio.TaskGroup() as group:
            for name, work in (
                ("discovery", self._every(SCAN_S, self._scan)),
                ("connections", self._every(CONNECT_S, self._connect)),
                ("sampling", self._every(TICK_S, self._sample_vms)),
                ("host", self._every(HOST_S, self._decide_if_due)),
                ("record", self._every(RECORD_S, self._record)),
                ("recovery", self._every(RECOVER_S, self._recover)),
            ):
                group.create_task(work, name=name)
        await self._shut_down()

    def stop(self) -> None:
        """Make `run` end in order."""
        self._stopping.set()

    def reload(self, settings: DaemonSettings) -> None:
        """Apply new settings, all at once."""
        if settings.cgroup != self.settings.cgroup:
            self._arbitration.forget_samples()
            self._arbitration.cgroup = settings.cgroup
        self.settings = settings
        self._reload_problems = ()
        for vm in self.fleet:
            vm.use(settings.for_vm(vm.name))
            vm.host.hurry(self._now_s())
        # The new settings decide at the next sample of the host, within half a second.
        self._is_decision_due = True

    def reload_failed(self, why: str) -> None:
        """Show why a reload was refused, one error per line; the old settings stay in effect."""
        first, *more = why.splitlines()
        self._reload_problems = (
            f"settings not reloaded, the old ones stay in effect: {first}",
            *(f"settings: {line.strip()}" for line in more),
        )
        self.fleet.errors.add("settings refused")

    async def discover(self) -> None:
        """Find new VMs once. Raises VmError if no process can be read."""
        known = self.fleet.pids
        found = await self._finder.scan(known.__contains__)
        self.fleet.forget_refused(self._finder.present)
        now_s, added = self._now_s(), list[Watched]()
        for one in found:
            vm = Watched(one, self.settings.for_vm(one.vm.name), now_s)
            vm.on(hello=self._send_again, report=self._sampler.count)
            if not self.fleet.add(vm):
                self.fleet.errors.add("too many VMs of one user")
                continue
            added.append(vm)
            if vm.pidfd >= 0:
                asyncio.get_running_loop().add_reader(vm.pidfd, self._vanished, vm)
        if added:
            self._log.info("found", vms=len(added), first=added[0].key, all=len(self.fleet.vms))

    # Periodic tasks.

    async def _every(self, period_s: float, work: Callable[[], Awaitable[None]]) -> None:
        """Call `work` periodically until `stop`. A failure is counted and logged, and ends nothing."""
        while not self._stopping.is_set():
            (failure,) = await asyncio.gather(work(), return_exceptions=True)
            if isinstance(failure, (GivebackError, OSError)):
                self.fleet.errors.add("host cannot be read")
                self._log.warning("failed", why=str(failure))
            elif failure is not None:
                # A fault of giveback must not leave guests with an urgency that is out of date.
                self.fleet.errors.add("internal error")
                self._log.error("internal error", exc_info=failure)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), period_s)

    async def _scan(self) -> None:
        for vm in [vm for vm in self.fleet if vm.pidfd < 0]:
            if discovery.has_ended(self._root, vm.pid, vm.ticks):
                self._vanished(vm)
        await self.discover()
        for problem in self._readers.problems:
            if problem not in self._logged:
                self._log.warning("not read", why=problem)
        self._logged = self._readers.problems

    async def _connect(self) -> None:
        self._connections.step(self._now_s())

    async def _sample_vms(self) -> None:
        self._sampler.step(self._now_s())

    async def _decide_if_due(self) -> None:
        is_due, self._is_decision_due = self._is_decision_due, False
        self._sample_host(force=is_due)

    async def _record(self) -> None:
        self._recorder.status(self.status())

    async def _recover(self) -> None:
        if self._fallbacks is None:
            return
        for action in await self._fallbacks.recover():
            self._arbitration.keep(action)

    def _sample_host(self, *, force: bool) -> None:
        now_s = self._now_s()
        host = read_host_view(self._root, self.settings.cgroup, now_s=now_s)
        before = self._arbitration.host
        if force or schedule.is_decision_due(self._arbitration.decision, before, host):
            self._arbitration.decide(host, self.settings.arbiter, now_s)

    def _send_again(self, vm: Watched) -> None:
        """Send the urgency to an agent that has just started: it does not have the earlier one."""
        self._arbitration.send_urgency(vm, self._now_s())

    def _vanished(self, vm: Watched) -> None:
        if vm.pidfd >= 0:
            asyncio.get_running_loop().remove_reader(vm.pidfd)
        self._finder.forget(vm.pid)
        self.fleet.remove(vm)
        self._log.debug("gone", vm=vm.key)

    async def _shut_down(self) -> None:
        """Release all balloons and virtio-mem, and end all urgencies within a second."""
        if self._fallbacks is not None:
            for action in await self._fallbacks.release_all(10.0):
                self._arbitration.keep(action)
        for vm in self.fleet:
            if vm.channel.session is not None and vm.channel.sent_urgency is not None:
                vm.channel.session.send_urgency(1, schedule.GOODBYE_LEASE_S)
        # One turn of the loop sends what fits into the sockets' buffers; no guest is waited for.
        await asyncio.sleep(0)
        await self._sampler.close()
        await self._connections.close()
        self._readers.close()
        self._recorder.status(self.status())
        for vm in list(self.fleet):
            self._vanished(vm)

    def _problems(self) -> tuple[str, ...]:
        words = [*self._recorder.problems, *self._readers.problems, *self.fleet.problems]
        if self._fallbacks is not None:
            words += self._fallbacks.problems
        words += self._reload_problems
        words += self._other_problems()
        return problems_of(self.fleet.errors.counts, tuple(words))

    def _now_s(self) -> float:
        return time.monotonic()


def _vms_limit() -> int:
    """Raise the limit of open files to the hard limit; return the most VMs that it allows.

    A VM needs two descriptors: of its process and of its agent's channel. Some are kept for the API and
    everything else.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return VMS_LIMIT
    kept = min(_DESCRIPTORS_KEPT, soft // 2)
    return max(1, min(VMS_LIMIT, (soft - kept) // _DESCRIPTORS_OF_A_VM))
