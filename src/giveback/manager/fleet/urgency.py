"""What the arbiter wants is told to the guests, and what they promised is checked."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from giveback.accounting.diagnosis import Severity, findings
from giveback.accounting.usage import Source
from giveback.host.facts import read_facts
from giveback.manager.decide import promises
from giveback.manager.decide.arbiter import ArbiterState, decide, told_urgency
from giveback.manager.decide.guest_view import view_of
from giveback.manager.fleet import resident_counts
from giveback.manager.model import Action, ActionKind
from giveback.text import shown

if TYPE_CHECKING:
    from giveback.accounting.diagnosis import Finding
    from giveback.host.memory import HostView
    from giveback.manager.fleet.fleet import Fleet, Watched
    from giveback.manager.model import Decision, GuestView, Recorder
    from giveback.manager.settings.load import ArbiterSettings

LEASE_CALM_S = 120.0
LEASE_URGENT_S = 30.0
"""A dead manager's word holds no longer; renewed at a third of it."""
_RENEWED_AT = 1 / 3
_DOCTOR_LIMIT = 4


class Asking:
    """The last decision, and all that follows from it."""

    def __init__(self, fleet: Fleet, recorder: Recorder, root: str = "/") -> None:
        self.host: HostView | None = None
        self.decision: Decision | None = None
        self._fleet = fleet
        self._recorder = recorder
        self._root = root
        self._state = ArbiterState()
        self._log = structlog.get_logger("giveback.asking")

    def views(self, now_s: float) -> list[GuestView]:
        """Every VM as the arbiter may know it."""
        return [view(vm, now_s) for vm in self._fleet]

    def forget_looks(self) -> None:
        """What stands for the host is another thing now: no trend leads from one to the other."""
        self._state = replace(self._state, looks=(), swap_in=None)

    def decide(self, host: HostView, settings: ArbiterSettings, now_s: float) -> Decision:
        """Decide by this look at the host, and tell every guest that is to hear something new."""
        before = self.decision
        self.host = host
        decision, self._state = decide(host, self.views(now_s), self._state, settings)
        self.decision = decision
        if before is None or before.urgency != decision.urgency or decision.asks:
            self._fleet.revision += 1
            self._log.info(
                "decided",
                urgency=decision.urgency,
                reason=decision.reason,
                deficit_bytes=decision.deficit_bytes,
                asked=len(decision.asks),
            )
        for ask in decision.asks:
            vm = self._fleet.vms.get(ask.key)
            if vm is not None:
                vm.goal = ask.goal_bytes
                if vm.hears:
                    self.promise(vm, ActionKind.ASK, ask.urgency, ask.goal_bytes, ask.reason, now_s)
        if not decision.urgency:
            for vm in self._fleet:
                if now_s >= vm.goal_until_s:
                    vm.goal = 0
        elif before is None or not before.urgency:
            self._hurry(now_s)
        self.tell_all(now_s)
        return decision

    def _hurry(self, now_s: float) -> None:
        """The host has just become short: what is known of each VM is made fresh within seconds."""
        for index, vm in enumerate(self._fleet):
            soon_s = now_s + index % 20 / 10
            vm.due_s = min(vm.due_s, soon_s)
            vm.guest_due_s = min(vm.guest_due_s, soon_s)

    def tell_all(self, now_s: float) -> None:
        """Every guest hears what holds for it now, if that is new to it or about to expire."""
        for vm in self._fleet:
            self.tell(vm, now_s)

    def urgency_for(self, vm: Watched, now_s: float) -> int | None:
        """What the guest is to hear now; None while nothing is known of the host yet."""
        if vm.wanted is not None:
            if now_s < vm.wanted_until_s:
                # What is said by hand is meant; what `reclaim` says ends at the floor.
                is_by_hand = now_s >= vm.goal_until_s
                return vm.wanted if is_by_hand or not _is_at_floor(vm, now_s) else 0
            vm.wanted = None
        if self.decision is None or vm.settings.ignore:
            return None
        # An agent knows no goal: it goes on for as long as it is told to.
        if _is_at_floor(vm, now_s):
            return 0
        return told_urgency(self.decision, view(vm, now_s), self._state)

    def tell(self, vm: Watched, now_s: float) -> bool:
        """Say or renew a guest's urgency; False where it needed no word, or took none."""
        if vm.session is None or not vm.session.is_open:
            return False
        urgency = self.urgency_for(vm, now_s)
        if urgency is None:
            return False
        lease_s = LEASE_URGENT_S if urgency else LEASE_CALM_S
        if vm.wanted is not None:
            lease_s = max(1.0, min(lease_s, vm.wanted_until_s - now_s))
        left_s = vm.told_until_s - now_s
        if vm.told == urgency and left_s > lease_s * (1 - _RENEWED_AT):
            return False
        if not vm.session.tell(urgency, lease_s):
            return False
        vm.told, vm.told_until_s = urgency, now_s + lease_s
        vm.status = None
        return True

    def promise(
        self,
        vm: Watched,
        kind: ActionKind,
        urgency: int,
        goal_bytes: int,
        reason: str,
        now_s: float,
    ) -> None:
        """Note what a VM is asked for, with what it holds now."""
        counts = resident_counts.read_counts(self._root, vm.pid)
        if counts is None or goal_bytes <= 0:
            return
        if vm.promise is not None:
            vm.promise = promises.raised(vm.promise, goal_bytes, counts.resident_bytes, now_s)
            self._record(vm.promise.action)
            return
        action = Action(
            id=self._fleet.next_action_id(),
            wall_s=time.time(),
            vm=vm.key,
            kind=kind,
            urgency=urgency,
            expected_bytes=goal_bytes,
            reason=shown(reason, 200),
        )
        vm.promise = promises.promised(action, counts.resident_bytes, now_s)
        vm.due_s = now_s
        vm.changed()
        self._record(action)

    def take_done(self, vm: Watched, action: Action, now_s: float) -> None:
        """An action that a fallback has done to a VM: kept, and checked as any; steps as one."""
        before = vm.promise
        taking = action.kind in (ActionKind.BALLOON, ActionKind.VIRTIO_MEM)
        if taking and before is not None and before.action.kind is action.kind:
            vm.promise = promises.added(before, action, now_s)
            self._record(vm.promise.action)
            return
        numbered = self.keep(replace(action, vm=vm.key))
        if taking and before is None and vm.counts is not None and action.expected_bytes > 0:
            vm.promise = promises.promised(numbered, vm.counts.resident_bytes, now_s)

    def keep(self, action: Action) -> Action:
        """Record what a fallback has done, under the next number."""
        numbered = replace(action, id=self._fleet.next_action_id())
        self._record(numbered)
        return numbered

    def check(self, vm: Watched, now_s: float) -> None:
        """Judge what the VM promised, where that can be judged now."""
        promise, counts = vm.promise, vm.counts
        if promise is None or counts is None:
            return
        if not promises.is_due(promise, counts.resident_bytes, now_s):
            return
        vm.promise = None
        action = promise.action
        measured = promise.before_bytes - counts.resident_bytes
        vm.trust = promises.judged(vm.trust, action.expected_bytes, measured)
        found: tuple[Finding, ...] = ()
        if not promises.is_delivered(action.expected_bytes, measured):
            seen = vm.observation(now_s)
            found = findings(seen, read_facts(vm.pid, self._root))
            keeping = [f for f in found if f.severity is not Severity.BLINDS] or list(found)
            vm.doctor = tuple(
                shown(f"{f.what}: {f.evidence}; {f.remedy}", 300) for f in keeping[:_DOCTOR_LIMIT]
            )
            found = tuple(keeping)
        elif not promises.is_short(vm.trust):
            vm.doctor = ()
        words = promises.verdict(action.expected_bytes, measured, found)
        vm.changed()
        self._record(replace(action, measured_bytes=measured, verdict=words))

    def _record(self, action: Action) -> None:
        self._fleet.record(action)
        self._recorder.action(action)
        self._log.info(
            "action" if action.measured_bytes is None else "verified",
            vm=action.vm,
            kind=str(action.kind),
            urgency=action.urgency,
            expected_bytes=action.expected_bytes,
            measured_bytes=action.measured_bytes,
            verdict=action.verdict,
        )


def view(vm: Watched, now_s: float) -> GuestView:
    """A VM for the arbiter; made anew only where something changed."""
    seen = vm.observation(now_s)
    if vm.view is None:
        vm.view = view_of(
            seen,
            vm.settings,
            key=vm.key,
            hears=vm.hears,
            reliability=vm.trust.reliability,
            asked_at_s=vm.trust.asked_at_s,
        )
        if vm.hostile_at_s is not None and vm.guest.source is Source.AGENT:
            vm.view = replace(vm.view, fresh=False)
    return vm.view


def _is_at_floor(vm: Watched, now_s: float) -> bool:
    """Whether it holds no more than its settings leave it, whatever the host needs."""
    floor_bytes = vm.settings.floor_bytes
    return floor_bytes > 0 and 0 < view(vm, now_s).resident_bytes <= floor_bytes
