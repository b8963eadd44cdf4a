"""This host's VMs without a daemon: found and asked as `giveback ps` and `explain` do it."""

from __future__ import annotations

import asyncio
import contextvars
import pwd
import threading
import time
from typing import TYPE_CHECKING

from giveback.accounting.diagnosis import findings
from giveback.errors import InputError, VmError
from giveback.guest.observe import observe, observe_host, recalled
from giveback.host.facts import read_facts
from giveback.host.memory import read_host_view
from giveback.host.process_sample import read_process_sample
from giveback.reporters import explanation
from giveback.reporters import findings as findings_text
from giveback.top.from_observations import snapshot_of
from giveback.vmm.find import find

if TYPE_CHECKING:
    from collections.abc import Iterable

    from giveback.accounting.observation import Observation
    from giveback.host.memory import HostView
    from giveback.top.model import ReclaimPlan, TopSnapshot, TopVm

EVERY_S = 2.0
_VM_TIMEOUT_S = 0.8
_ONE_TIMEOUT_S = 3.0
_PATIENCE_S = 15.0
_NO_DAEMON = (
    "no daemon runs, and only a daemon asks VMs for memory: systemctl start giveback-daemon, or "
    "`giveback daemon` as root"
)


class HostSource:
    """The host itself. `why_alone` is said on the screen."""

    def __init__(self, why_alone: str = "no daemon") -> None:
        self.label = f"{why_alone}: VMs of this host as `giveback ps` lists them"
        self._last: dict[int, tuple[Observation, float]] = {}
        self._owners: dict[int, str] = {}
        self._ended = threading.Event()
        self._pause_s = 0.0
        # Threads begin without the context of the command, which may name a daemon's socket.
        self._context = contextvars.copy_context()

    def next(self) -> TopSnapshot:
        """Observe the VMs; from the second time on after EVERY_S, or as long as it took the last time."""
        self._ended.wait(self._pause_s)
        began_s = time.monotonic()
        found = self._context.copy().run(self._snapshot)
        # A host whose VMs answer slowly is not asked all the time.
        self._pause_s = max(EVERY_S, time.monotonic() - began_s)
        return found

    def _snapshot(self) -> TopSnapshot:
        observations = [
            recalled(seen, self._last) for seen in observe_host(timeout_s=_VM_TIMEOUT_S)
        ]
        there = {seen.vm.pid for seen in observations}
        self._last = {pid: last for pid, last in self._last.items() if pid in there}
        uids = {pid: _uid_of(pid) for pid in there}
        self._owners |= names_of(uids.values(), self._owners)
        return snapshot_of(observations, _host_view(), time.time(), uids, self._owners)

    def explain(self, vm: TopVm, width: int) -> str:
        """Return what `giveback explain` prints. Raises VmError if the host's side cannot be read."""
        seen = self._context.copy().run(observe_one, vm, by_cgroup=True)
        if seen.ledger is None:
            raise VmError("; ".join(seen.problems) or "the VM's memory could not be read")
        return explanation.text(seen, width)

    def doctor(self, vm: TopVm) -> str:
        """Return what `giveback doctor` prints."""
        seen = self._context.copy().run(observe_one, vm)
        return findings_text.text([(seen, findings(seen, read_facts(seen.vm.pid)))])

    def plan(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        """Raise InputError: only a daemon plans."""
        del goal_bytes, keys
        raise InputError(_NO_DAEMON)

    def reclaim(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        """Raise InputError: only a daemon asks VMs."""
        return self.plan(goal_bytes, keys)

    def close(self) -> None:
        """End the pause of `next`."""
        self._ended.set()


def observe_one(vm: TopVm, *, by_cgroup: bool = False) -> Observation:
    """Observe one VM with all questions that leave no mark on it. Raises VmError if it is gone."""
    for backend, found in find():
        if found.pid == vm.pid:
            return asyncio.run(
                observe(
                    backend,
                    found,
                    layout=not backend.layout_taints,
                    timeout_s=_ONE_TIMEOUT_S,
                    guest_timeout_s=_ONE_TIMEOUT_S,
                    by_cgroup=by_cgroup,
                    patience_s=_PATIENCE_S,
                )
            )
    raise VmError(f"{vm.name}: no process {vm.pid} on this host is a VM")


def names_of(uids: Iterable[int | None], known: dict[int, str]) -> dict[int, str]:
    """Return the names of those users that are not known yet; a user without a name by number."""
    found = {}
    for uid in {uid for uid in uids if uid is not None and uid not in known}:
        try:
            found[uid] = pwd.getpwuid(uid).pw_name
        except (KeyError, OverflowError):
            found[uid] = str(uid)
    return found


def _uid_of(pid: int) -> int | None:
    sample = read_process_sample("/", pid)
    return None if sample is None else sample.uid


def _host_view() -> HostView | None:
    try:
        return read_host_view(now_s=time.monotonic())
    except VmError:
        return None
