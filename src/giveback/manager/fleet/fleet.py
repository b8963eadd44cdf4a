"""The VMs that the daemon knows, each with all that is known of it. State; what acts is elsewhere."""

from __future__ import annotations

import asyncio
import math
import os
from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.accounting.observation import Observation
from giveback.accounting.usage import NO_GUEST, STALE_S, GuestPicture, HostPicture, Source
from giveback.errors import InputError
from giveback.guest import protocol
from giveback.guest.observe import make_ledger
from giveback.guest.protocol import from_agent
from giveback.guest.rate_limits import Backoff
from giveback.manager.decide.guest_view import FRESH_S
from giveback.manager.decide.promises import Trust
from giveback.text import shown
from giveback.vmm.base import ChannelKind, VmState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from giveback.guest.session import Ended, Session
    from giveback.manager.decide.promises import Promise
    from giveback.manager.fleet import resident_counts
    from giveback.manager.fleet.discovery import Found
    from giveback.manager.model import Action, GuestView, VmStatus
    from giveback.manager.settings.load import VmSettings
    from giveback.vmm.base import Channel, VmDescription
    from giveback.vmm.mapping import BoundBlock

_ERROR_WORDS_LIMIT = 32
_ACTIONS_KEPT = 200
_RECONNECT_S = (1.0, 30.0)
_HOSTILE_S = (30.0, 900.0)
_MONITOR_S = (15.0, 600.0)
_FORGIVEN_S = 300.0
"""A guest that was cut off and behaved for so long is no longer called hostile."""


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
    """One VM: what it is, how it is reached, what was seen of it last. Implements `session.Owner`."""

    __slots__ = (
        "backend",
        "bound",
        "channel",
        "channel_problem",
        "connect_at_s",
        "connecting",
        "counts",
        "doctor",
        "due_s",
        "errors",
        "falling_back",
        "goal",
        "goal_until_s",
        "guest",
        "guest_at_s",
        "guest_due_s",
        "had_agent",
        "held_by_another",
        "host",
        "hostile_at_s",
        "hostile_until_s",
        "hostility",
        "inspect_at_s",
        "inspected_at_s",
        "inspecting",
        "key",
        "lent_until_s",
        "mappings",
        "missed",
        "monitor",
        "on_answer",
        "on_hello",
        "pid",
        "pidfd",
        "promise",
        "ram_bytes",
        "reading",
        "reconnect",
        "said_line",
        "sampled_at_s",
        "seen",
        "seen_until_s",
        "session",
        "settings",
        "state",
        "status",
        "step",
        "ticks",
        "told",
        "told_until_s",
        "trust",
        "unreadable",
        "unreadable_until_s",
        "view",
        "vm",
        "wanted",
        "wanted_until_s",
    )  # fmt: skip

    def __init__(self, found: Found, settings: VmSettings, now_s: float) -> None:
        self.key, self.backend = found.key, found.backend
        self.describe(found.vm)
        self.pid, self.ticks, self.pidfd = found.vm.pid, found.start_ticks, found.pidfd
        self.settings = settings
        self.errors = Errors()
        # The VMM's side.
        self.state = VmState()
        self.inspect_at_s = now_s
        self.inspected_at_s: float | None = None
        self.inspecting = False
        self.monitor = Backoff(*_MONITOR_S)
        # The host's side.
        self.counts: resident_counts.Counts | None = None
        self.mappings: resident_counts.Mappings | None = None
        self.host: HostPicture | None = None
        self.bound: tuple[BoundBlock, ...] = ()
        self.sampled_at_s: float | None = None
        self.due_s = now_s
        self.reading = False
        self.unreadable = ""
        self.unreadable_until_s = 0.0
        # The guest's side; `said_line` is its agent's last answer as it came, for who borrows it.
        self.guest: GuestPicture = NO_GUEST
        self.guest_at_s: float | None = None
        self.said_line = b""
        self.guest_due_s = 0.0
        self.had_agent = False
        self.missed = 0
        self.step = ""
        # The channel.
        self.session: Session | None = None
        self.connecting = False
        self.connect_at_s = now_s
        self.reconnect = Backoff(*_RECONNECT_S)
        self.hostility = Backoff(*_HOSTILE_S)
        self.hostile_until_s = 0.0
        self.hostile_at_s: float | None = None
        self.channel_problem = ""
        self.held_by_another = False
        self.lent_until_s = 0.0
        self.on_hello: Callable[[Watched], None] = _nobody
        self.on_answer: Callable[[Watched], None] = _nobody
        # What it was told and asked.
        self.told: int | None = None
        self.told_until_s = 0.0
        self.wanted: int | None = None
        self.wanted_until_s = 0.0
        self.goal = 0
        self.goal_until_s = 0.0
        """Until then the goal is `reclaim`'s, and stays on a host that is calm."""
        self.trust = Trust()
        self.promise: Promise | None = None
        self.falling_back = False
        self.doctor: tuple[str, ...] = ()
        # What was made of all this; None where it is to be made anew.
        self.seen: Observation | None = None
        self.seen_until_s: float | None = None
        self.view: GuestView | None = None
        self.status: VmStatus | None = None

    def describe(self, vm: VmDescription) -> None:
        """Take what is known of the VM now; its channel is the first that leads to our agent."""
        self.vm = vm
        ours = (c for c in vm.channels if c.kind is not ChannelKind.QEMU_GUEST_AGENT)
        self.channel: Channel | None = next(ours, None)
        self.ram_bytes = vm.block_bytes or vm.ram_bytes

    @property
    def hears(self) -> bool:
        """Whether an urgency would reach an agent: one has spoken, and answers."""
        return self.session is not None and self.had_agent and self.missed < 2

    # session.Owner

    def heard(self, event: protocol.Event) -> None:
        """What the guest said, already understood and expected."""
        if isinstance(event, protocol.Step):
            self.step = event.text
            self.status = None
            return
        self.missed = 0
        self.had_agent = True
        self.held_by_another = False
        self.channel_problem = ""
        self.reconnect.reset()
        self.changed()
        now_s = _now_s()
        if isinstance(event, protocol.Hello):
            self.told = None
            self.on_hello(self)
        elif isinstance(event, protocol.Memory):
            self.said_line = event.line
            self.take_guest(from_agent(event.said, Source.AGENT), now_s)
            self.on_answer(self)
        elif isinstance(event, protocol.Refused):
            self.errors.add("refused by the agent")
            retry_s = 30.0 if event.retry_s is None else max(1.0, event.retry_s)
            self.guest_due_s = now_s + retry_s

    def wrong(self, word: str) -> None:
        self.errors.add(word)

    def ended(self, why: Ended) -> None:
        """The session is over: it is tried again later, after a hostile end much later."""
        self.session = None
        self.told = None
        self.channel_problem = str(why)
        self.errors.add(str(why))
        self.changed()
        now_s = _now_s()
        if why.is_hostile:
            self.hostile_at_s = now_s
            self.hostile_until_s = now_s + self.hostility.wait_s(_chance())
            self.connect_at_s = self.hostile_until_s
        else:
            self.connect_at_s = now_s + self.reconnect.wait_s(_chance())

    def take_guest(self, guest: GuestPicture, now_s: float) -> None:
        """A new picture of the guest's side, whoever gave it."""
        if guest.total_bytes is None:
            self.errors.add("guest's numbers not believed")
        self.guest, self.guest_at_s = guest, now_s
        self.changed()
        if self.hostile_at_s is not None and now_s - self.hostile_at_s > _FORGIVEN_S:
            self.hostile_at_s = None
            self.hostility.reset()

    def changed(self) -> None:
        """What was made of the pictures is to be made anew."""
        self.seen_until_s = None
        self.view = None
        self.status = None

    def observation(self, now_s: float) -> Observation:
        """Both sides joined; made anew where something changed, or the guest's picture aged."""
        if self.seen is not None and self.seen_until_s is not None and now_s < self.seen_until_s:
            return self.seen
        guest = self.guest
        self.seen_until_s = math.inf
        if self.guest_at_s is not None:
            age_s = (guest.age_s or 0.0) + now_s - self.guest_at_s
            guest = replace(guest, age_s=age_s)
            ahead = (limit_s - age_s for limit_s in (FRESH_S, STALE_S) if limit_s >= age_s)
            self.seen_until_s = now_s + min(ahead, default=math.inf) + 0.1
        ledger = None if self.host is None else make_ledger(self.vm, self.state, self.host, guest)
        self.view = self.status = None
        self.seen = Observation(
            vm=self.vm,
            state=self.state,
            host=self.host,
            guest=guest,
            ledger=ledger,
            bound=self.bound,
            process_rss_bytes=self.counts.rss_bytes if self.counts else None,
            problems=self.state.problems,
        )
        return self.seen

    def close(self) -> None:
        """Let go of what is open."""
        if self.session is not None:
            self.session.close()
            self.session = None
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Fleet:
    """Every VM by its key, and what was done to them."""

    def __init__(self) -> None:
        self.vms: dict[str, Watched] = {}
        self.pids: dict[int, set[str]] = {}
        self.errors = Errors()
        self.actions: deque[Action] = deque(maxlen=_ACTIONS_KEPT)
        self.revision = 0
        """Changes with what a picture of the fleet must not lack."""
        self._last_action_id = 0

    def __iter__(self) -> Iterator[Watched]:
        return iter(self.vms.values())

    def add(self, vm: Watched) -> None:
        self.revision += 1
        self.vms[vm.key] = vm
        self.pids.setdefault(vm.pid, set()).add(vm.key)

    def remove(self, vm: Watched) -> None:
        """Forget a VM that has ended, and let go of what is open."""
        self.revision += 1
        self.vms.pop(vm.key, None)
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
        matching = [vm for vm in self if word in (vm.vm.name, str(vm.pid))]
        if len(matching) == 1:
            return matching[0]
        what = "several VMs are" if matching else "no VM is"
        names = ", ".join(shown(vm.key, 60) for vm in (matching or list(self))[:20]) or "none"
        raise InputError(f"{what} called {shown(word, 80)!r}; give one of: {names}")

    def next_action_id(self) -> int:
        self._last_action_id += 1
        return self._last_action_id

    def record(self, action: Action) -> None:
        """Keep an action, or what came of it: the same `id` again replaces it."""
        self.revision += 1
        for index, kept in enumerate(self.actions):
            if kept.id == action.id:
                self.actions[index] = action
                return
        self.actions.append(action)


def _nobody(vm: Watched) -> None:
    del vm


def _now_s() -> float:
    return asyncio.get_running_loop().time()


def _chance() -> float:
    return os.urandom(1)[0] / 256
