"""The VMs that the daemon knows, each with a record of each side of it. What acts is elsewhere."""

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

_ERROR_WORDS_LIMIT = 32
_ACTIONS_KEPT = 200
VMS_LIMIT = 4096
"""Watched VMs in all; three quarters of them may be one owner's."""
_TOLD_BYTES = 64 << 20
_TOLD_BY_ONE_BYTES = 256 << 10
_REFUSED_SHOWN = 8


class Errors:
    """How often what went wrong, by a bounded set of words."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def add(self, word: str) -> None:
        """Count one more; words beyond the bound count as `other`."""
        known = word in self.counts or len(self.counts) < _ERROR_WORDS_LIMIT
        key = word if known else "other"
        self.counts[key] = self.counts.get(key, 0) + 1


class Watched:
    """One VM: what it is, a record of each side of it, and what is made of them.

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
        """Whose it is: what all VMs of one owner take together is limited."""
        self.settings = settings
        self.errors = Errors()
        self.vmm = VmmState(found.vm, now_s)
        self.host = HostSample(now_s)
        self.guest = GuestState()
        self.channel = ChannelState(self, now_s)
        self.request = ReclaimRequest()
        self.on_hello: Callable[[Watched], None] = _ignore
        self.on_report: Callable[[Watched], None] = _ignore
        # What was made of the records; None where it is to be made again.
        self.seen: Observation | None = None
        self.seen_until_s: float | None = None
        self.view: GuestView | None = None
        self.status: VmStatus | None = None

    @property
    def name(self) -> str:
        return self.vmm.description.name

    @property
    def hears(self) -> bool:
        """Whether an urgency would reach an agent: one has spoken, and answers."""
        guest = self.guest
        connected = self.channel.session is not None
        return connected and guest.had_agent and not schedule.is_silent(guest.missed)

    @property
    def moved_bytes(self) -> int:
        """By how much resident memory has moved since the guest's report; 0 where that is not known."""
        at_s = self.guest.given_at_s
        return 0 if at_s is None else self.host.moved_since(at_s) or 0

    @property
    def is_report_outdated(self) -> bool:
        """Whether the guest's report is not used any more, as resident memory has moved since."""
        return is_outdated(self.moved_bytes, self.vmm.ram_bytes)

    def held_bytes(self, counts: Counts) -> int:
        """Return what its process holds by these sums, as the host would have it again."""
        return self.host.held_bytes(counts, self.vmm.ram_bytes)

    def use(self, settings: VmSettings) -> None:
        """Take other settings."""
        self.settings = settings
        self.changed()

    def on(self, hello: Callable[[Watched], None], report: Callable[[Watched], None]) -> None:
        """Call these when its agent has started, and when a memory report has come."""
        self.on_hello, self.on_report = hello, report

    # channel_state.Listener

    def agent_said(self, event: protocol.Event, now_s: float) -> None:
        """Take what the guest said, already understood and expected."""
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

    def count_error(self, word: str) -> None:
        self.errors.add(word)

    def changed(self) -> None:
        """Make again what was made of the records, when it is next asked for."""
        self.seen_until_s = None
        self.view = None
        self.status = None

    # What is made of the records.

    def observation(self, now_s: float) -> Observation:
        """Both sides joined; made again where something changed, or the guest's report aged."""
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
        """The VM as the arbiter may know it; made again only where something changed."""
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
        """The VM as every surface shows it, but for what changes with time; made by `make`."""
        seen = self.observation(now_s)
        if self.status is None:
            self.status = make(self, seen)
        return self.status

    def status_changed(self) -> None:
        """Make the status again, when it is next asked for; the rest is as it was."""
        self.status = None

    def close(self) -> None:
        """Close what is open."""
        self.channel.close()
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Fleet:
    """Every VM by its key, and what was done to them. How many there are is limited, by owner and in all."""

    def __init__(self, limit: int = VMS_LIMIT) -> None:
        self._places = Budget(limit, max(1, limit * 3 // 4))
        self._told = Budget(_TOLD_BYTES, _TOLD_BYTES * 3 // 4)
        self._told_by: dict[str, int] = {}
        self.refused: dict[int, Hashable] = {}
        """Processes that are VMs and are not watched, because their owner has too many; by PID."""
        self.vms: dict[str, Watched] = {}
        self.pids: dict[int, set[str]] = {}
        self.errors = Errors()
        self.actions: deque[ManagerAction] = deque(maxlen=_ACTIONS_KEPT)
        self.revision = 0
        """Changes with everything that a status of the fleet must show at once."""
        self._last_action_id = 0

    def __iter__(self) -> Iterator[Watched]:
        return iter(self.vms.values())

    def limit(self, vms: int) -> None:
        """Watch at most so many VMs; to be called before the first one."""
        self._places = Budget(vms, max(1, vms * 3 // 4))

    def add(self, vm: Watched) -> bool:
        """Watch a VM; False, and it is closed, where there are too many, or too much is told of it."""
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
        """Say no more of processes that are not there any more."""
        self.refused = {pid: owner for pid, owner in self.refused.items() if pid in present}

    def charge(self, vm: Watched, told: object) -> bool:
        """Keep what is told of a VM, in place of what was; False where that is too much, in all or alone.

        A command line of 256 KiB and a monitor's answers may name thousands of blocks of memory.
        """
        amount, before = len(repr(told)), self._told_by.get(vm.key, 0)
        self._told.give(vm.owner, before)
        fits = amount <= _TOLD_BY_ONE_BYTES and self._told.take(vm.owner, amount)
        if not fits:
            self._told.take(vm.owner, before)
        elif amount:
            self._told_by[vm.key] = amount
        return fits

    @property
    def problems(self) -> tuple[str, ...]:
        """Whose VMs are not all watched, and how many of them."""
        counts: dict[Hashable, int] = {}
        for owner in self.refused.values():
            counts[owner] = counts.get(owner, 0) + 1
        return tuple(
            f"{count} VMs of {_name_of(owner)} are not watched: it has too many, or they tell too much"
            for owner, count in sorted(counts.items(), key=lambda item: -item[1])[:_REFUSED_SHOWN]
        )

    def remove(self, vm: Watched) -> None:
        """Forget a VM that has ended, and let go of what is open."""
        self.revise()
        if self.vms.pop(vm.key, None) is not None:
            self._places.give(vm.owner)
            self._told.give(vm.owner, self._told_by.pop(vm.key, 0))
        keys = self.pids.get(vm.pid, set())
        keys.discard(vm.key)
        if not keys:
            self.pids.pop(vm.pid, None)
        vm.close()

    def chosen(self, word: str) -> Watched:
        """The VM of this key, name or PID. Raises InputError that lists what there is."""
        exact = self.vms.get(word)
        if exact is not None:
            return exact
        matching = [vm for vm in self if word in (vm.name, str(vm.pid))]
        matching = matching or [vm for vm in self if is_given(vm.vmm.description, word)]
        if len(matching) == 1:
            return matching[0]
        what = "several VMs are" if matching else "no VM is"
        names = (
            ", ".join(escape_for_terminal(vm.key, 60) for vm in (matching or list(self))[:20])
            or "none"
        )
        raise InputError(f"{what} called {escape_for_terminal(word, 80)!r}; give one of: {names}")

    def revise(self) -> None:
        """Note that a status of the fleet which was made before is too old to show."""
        self.revision += 1

    def next_action_id(self) -> int:
        self._last_action_id += 1
        return self._last_action_id

    def record(self, action: ManagerAction) -> None:
        """Keep an action, or what came of it: the same `id` again replaces it."""
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
