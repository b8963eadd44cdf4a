"""The VMs that the daemon knows, each with one record for each side of it. Other modules act on them."""

from __future__ import annotations

import os
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.accounting.observation import Observation
from giveback.accounting.usage import GuestSource, is_outdated
from giveback.errors import InputError
from giveback.guest import protocol
from giveback.guest.observe import make_ledger
from giveback.guest.protocol import from_agent
from giveback.host.budgets import Budget, owner_of
from giveback.manager.decide import schedule
from giveback.manager.decide.guest_view import view_of
from giveback.manager.decide.request import ReclaimRequest
from giveback.manager.fleet.channel_state import ChannelState
from giveback.manager.fleet.guest_state import GuestState
from giveback.manager.fleet.host_sample import HostSample
from giveback.manager.fleet.vmm_state import VmmState
from giveback.vmm.find import is_given
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from collections.abc import Set as AbstractSet

    from giveback.manager.decide.resident_counts import Counts
    from giveback.manager.fleet.discovery import Found
    from giveback.manager.model import GuestView, ManagerAction, VmStatus
    from giveback.manager.settings.load import VmSettings

_ERROR_KINDS_LIMIT = 32
_ACTIONS_KEPT = 200
VMS_LIMIT = 4096
"""The most VMs that are watched; one owner may have three quarters of them."""
_DESCRIPTIONS_BYTES = 64 << 20
_DESCRIPTION_BYTES = 256 << 10
_REFUSED_SHOWN = 8


class Errors:
    """Counts of errors, by kind; the number of kinds is bounded."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, kind: str) -> None:
        """Count one error; kinds beyond the bound count as `other`."""
        known = kind in self.counts or len(self.counts) < _ERROR_KINDS_LIMIT
        key = kind if known else "other"
        self.counts[key] = self.counts.get(key, 0) + 1


class Watched:
    """One VM: its identity, a record of each side, and what is derived from these records.

    The records assign their own fields. Implements `channel_state.Listener`.
    """

    __slots__ = (
        "backend",
        "channel",
        "errors",
        "guest",
        "host",
        "key",
        "on_hello",
        "on_report",
        "owner",
        "pid",
        "pidfd",
        "request",
        "seen",
        "seen_until_s",
        "settings",
        "status",
        "ticks",
        "view",
        "vmm",
    )

    def __init__(self, found: Found, settings: VmSettings, now_s: float) -> None:
        self.key, self.backend = found.key, found.backend
        self.pid, self.ticks, self.pidfd = found.vm.pid, found.start_ticks, found.pidfd
        self.owner = owner_of(found.uid)
        """The owner of the process: the resources of all VMs of one owner are limited together."""
        self.settings = settings
        self.errors = Errors()
        self.vmm = VmmState(found.vm, now_s)
        self.host = HostSample(now_s)
        self.guest = GuestState()
        self.channel = ChannelState(self, now_s)
        self.request = ReclaimRequest()
        self.on_hello: Callable[[Watched], None] = _ignore
        self.on_report: Callable[[Watched], None] = _ignore
        # Derived from the records; None if it must be derived again.
        self.seen: Observation | None = None
        self.seen_until_s: float | None = None
        self.view: GuestView | None = None
        self.status: VmStatus | None = None

    @property
    def name(self) -> str:
        """The VM's name, which a user of the host chose."""
        return self.vmm.description.name

    @property
    def hears(self) -> bool:
        """Whether an urgency would reach an agent: one has answered before, and is not silent."""
        guest = self.guest
        connected = self.channel.session is not None
        return connected and guest.had_agent and not schedule.is_silent(guest.missed)

    @property
    def is_port_lent(self) -> bool:
        """Whether another client has the port of an agent that answered before."""
        channel = self.channel
        return channel.session is None and channel.held_by_another and self.guest.had_agent

    @property
    def moved_bytes(self) -> int:
        """The change of resident memory since the guest's report, without sign; 0 if unknown."""
        at_s = self.guest.given_at_s
        return 0 if at_s is None else self.host.moved_since(at_s) or 0

    @property
    def is_report_outdated(self) -> bool:
        """Whether resident memory has changed too much since the guest's report to use it."""
        return is_outdated(self.moved_bytes, self.vmm.ram_bytes)

    def held_bytes(self, counts: Counts) -> int:
        """Return the bytes that the host would have again without its process, by these sums."""
        return self.host.held_bytes(counts, self.vmm.ram_bytes)

    def use(self, settings: VmSettings) -> None:
        """Apply new settings."""
        self.settings = settings
        self.changed()

    def on(self, hello: Callable[[Watched], None], report: Callable[[Watched], None]) -> None:
        """Set the functions to call when its agent has started, and when a memory report came."""
        self.on_hello, self.on_report = hello, report

    # channel_state.Listener

    def agent_said(self, event: protocol.Event, now_s: float) -> None:
        """Take a message of the guest that was parsed and expected."""
        if isinstance(event, protocol.StepEvent):
            self.guest.take_step(event.text, now_s)
            self.status = None
            return
        self.guest.hear()
        self.changed()
        if isinstance(event, protocol.Hello):
            self.guest.greet(now_s)
            self.on_hello(self)
        elif isinstance(event, protocol.MemoryReport):
            self.guest.take_line(event.line, now_s)
            report = from_agent(event.said, GuestSource.AGENT)
            if report.total_bytes is None:
                self.errors.add("guest's numbers not believed")
                self.guest.evade()
            else:
                self.guest.answer()
            self.guest.take_report(report, now_s)
            self.channel.forgive(now_s)
            self.on_report(self)
        elif isinstance(event, protocol.AskRefused):
            self.errors.add("refused by the agent")
            self.guest.evade()
            self.guest.ask_at(now_s + schedule.refused_wait_s(event.retry_s))

    def count_error(self, kind: str) -> None:
        """Count one error of this VM."""
        self.errors.add(kind)

    def changed(self) -> None:
        """Discard what was derived from the records; it is derived again when it is next read."""
        self.seen_until_s = None
        self.view = None
        self.status = None

    # Derived from the records.

    def observation(self, now_s: float) -> Observation:
        """Return host and guest side joined; kept until a record changes or the report passes an age."""
        if self.seen is not None and self.seen_until_s is not None and now_s < self.seen_until_s:
            return self.seen
        vmm, host = self.vmm, self.host
        guest, self.seen_until_s = self.guest.aged(now_s)
        if guest.age_s is not None:
            guest = replace(guest, moved_bytes=host.moved_since(now_s - guest.age_s))
        ledger = None
        if host.usage is not None:
            ledger = make_ledger(vmm.description, vmm.state, host.usage, guest)
        self.view = self.status = None
        self.seen = Observation(
            vm=vmm.description,
            state=vmm.state,
            host=host.usage,
            guest=guest,
            ledger=ledger,
            bound=host.bound,
            process_rss_bytes=host.counts.rss_bytes if host.counts else None,
            problems=vmm.state.problems,
        )
        return self.seen

    def view_at(self, now_s: float) -> GuestView:
        """Return the arbiter's view of the VM; kept until a record changes."""
        seen = self.observation(now_s)
        if self.view is None:
            self.view = view_of(
                seen,
                self.settings,
                key=self.key,
                hears=self.hears,
                is_hostile=self.channel.hostile_at_s is not None,
                trust=self.request.trust,
                asked_at_s=self.request.reclaim_at_s,
            )
        return self.view

    def status_at(self, now_s: float, make: Callable[[Watched, Observation], VmStatus]) -> VmStatus:
        """Return the VM's status without the values that change with time; made by `make`, and kept."""
        seen = self.observation(now_s)
        if self.status is None:
            self.status = make(self, seen)
        return self.status

    def status_changed(self) -> None:
        """Discard the status only; it is made again when it is next read."""
        self.status = None

    def close(self) -> None:
        """Close the session and the pidfd."""
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Fleet:
    """All VMs by key, and the actions on them. The number of VMs is limited, by owner and in total."""

    def __init__(self, limit: int = VMS_LIMIT) -> None:
        self._places = Budget(limit, max(1, limit * 3 // 4))
        self._descriptions = Budget(_DESCRIPTIONS_BYTES, _DESCRIPTIONS_BYTES * 3 // 4)
        self._description_bytes: dict[str, int] = {}
        self.refused: dict[int, Hashable] = {}
        """Owners of VMs that are not watched, because a limit was reached; by PID."""
        self.vms: dict[str, Watched] = {}
        self.pids: dict[int, set[str]] = {}
        self.errors = Errors()
        self.actions: deque[ManagerAction] = deque(maxlen=_ACTIONS_KEPT)
        self.revision = 0
        """A number that changes with everything that the fleet's status must show at once."""
        self._last_action_id = 0

    def __iter__(self) -> Iterator[Watched]:
        return iter(self.vms.values())

    def limit(self, vms: int) -> None:
        """Set the most VMs to watch; call it before the first `add`."""
        self._places = Budget(vms, max(1, vms * 3 // 4))

    def add(self, vm: Watched) -> bool:
        """Watch a VM. Close it and return False if there are too many, or its description is too large."""
        if not self._places.take(vm.owner):
            self.refused[vm.pid] = vm.owner
            vm.close()
            return False
        if not self.charge(vm, vm.vmm.description):
            self._places.give(vm.owner)
            self.refused[vm.pid] = vm.owner
            vm.close()
            return False
        self.refused.pop(vm.pid, None)
        self.revise()
        self.vms[vm.key] = vm
        self.pids.setdefault(vm.pid, set()).add(vm.key)
        return True

    def forget_refused(self, present: AbstractSet[int]) -> None:
        """Forget refused VMs whose processes have ended."""
        self.refused = {pid: owner for pid, owner in self.refused.items() if pid in present}

    def charge(self, vm: Watched, description: object) -> bool:
        """Charge a VM's owner for a new description of the VM, in place of the old one.

        Return False if it exceeds the limit of one VM, of the owner or of all. A command line of 256 KiB
        and a monitor's answers may name thousands of blocks of memory.
        """
        amount, before = len(repr(description)), self._description_bytes.get(vm.key, 0)
        self._descriptions.give(vm.owner, before)
        fits = amount <= _DESCRIPTION_BYTES and self._descriptions.take(vm.owner, amount)
        if not fits:
            self._descriptions.take(vm.owner, before)
        elif amount:
            self._description_bytes[vm.key] = amount
        return fits

    @property
    def problems(self) -> tuple[str, ...]:
        """One line for each owner with VMs that are not watched, with their number; at most 8."""
        counts: dict[Hashable, int] = {}
        for owner in self.refused.values():
            counts[owner] = counts.get(owner, 0) + 1
        return tuple(
            f"{count} VMs of {_name_of(owner)} are not watched: there are too many, or their command "
            "lines are too long"
            for owner, count in sorted(counts.items(), key=lambda item: -item[1])[:_REFUSED_SHOWN]
        )

    def remove(self, vm: Watched) -> None:
        """Forget a VM that has ended, and close its session and pidfd."""
        self.revise()
        if self.vms.pop(vm.key, None) is not None:
            self._places.give(vm.owner)
            self._descriptions.give(vm.owner, self._description_bytes.pop(vm.key, 0))
        keys = self.pids.get(vm.pid, set())
        keys.discard(vm.key)
        if not keys:
            self.pids.pop(vm.pid, None)
        vm.close()

    def chosen(self, name: str) -> Watched:
        """Return the VM with this key, name or PID. Raises InputError, which lists the VMs."""
        exact = self.vms.get(name)
        if exact is not None:
            return exact
        matching = [vm for vm in self if name in (vm.name, str(vm.pid))]
        matching = matching or [vm for vm in self if is_given(vm.vmm.description, name)]
        if len(matching) == 1:
            return matching[0]
        what = "several VMs are" if matching else "no VM is"
        names = (
            ", ".join(escape_for_terminal(vm.key, 60) for vm in (matching or list(self))[:20])
            or "none"
        )
        raise InputError(f"{what} called {escape_for_terminal(name, 80)!r}; give one of: {names}")

    def revise(self) -> None:
        """Make every earlier status of the fleet too old to show."""
        self.revision += 1

    def next_action_id(self) -> int:
        """Return the id for a new action; ids count from 1."""
        self._last_action_id += 1
        return self._last_action_id

    def record(self, action: ManagerAction) -> None:
        """Keep an action; one with a known `id` replaces the earlier one, to add its result."""
        self.revise()
        for index, kept in enumerate(self.actions):
            if kept.id == action.id:
                self.actions[index] = action
                return
        self.actions.append(action)


def _name_of(owner: Hashable) -> str:
    if isinstance(owner, int):
        return f"uid {owner}"
    if isinstance(owner, tuple):
        first = int(owner[1]) << 16
        return f"uids {first} to {first + 0xFFFF}"
    return "an unknown user"


def _ignore(vm: Watched) -> None:
    del vm
