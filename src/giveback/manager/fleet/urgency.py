"""Send each guest its urgency after a decision, and verify how much it returned."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from giveback.accounting.diagnosis import Severity, findings
from giveback.guest.protocol import Goal
from giveback.host.facts import read_facts
from giveback.host.memory import read_host_view
from giveback.manager.decide import promises, schedule
from giveback.manager.decide.arbiter import ArbiterState, decide, urgency_for
from giveback.manager.decide.guest_view import is_pressed
from giveback.manager.decide.shortfall import AgentAnswer, Shortfall, shortfall_of
from giveback.manager.fleet.host_sample import read_counts
from giveback.manager.model import ActionKind, ManagerAction, is_reached
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback.accounting.diagnosis import Finding
    from giveback.host.memory import HostView
    from giveback.manager.fleet.fleet import Fleet, Watched
    from giveback.manager.model import Ask, Decision, HistoryRecorder
    from giveback.manager.settings.load import ArbiterSettings

_DOCTOR_LIMIT = 4
_NAMED_LIMIT = 4


class Arbitration:
    """The last decision, and its effects: asks, urgencies, verdicts."""

    def __init__(
        self, fleet: Fleet, recorder: HistoryRecorder, root: str = "/", *, acts: bool = True
    ) -> None:
        self.acts = acts
        """False: guests are watched, and neither asked for memory nor sent an urgency."""
        self.host: HostView | None = None
        self.decision: Decision | None = None
        self.cgroup: str | None = None
        """The control group that stands for the host; None: the host itself."""
        self._fleet = fleet
        self._recorder = recorder
        self._root = root
        self._state = ArbiterState()
        self._log = structlog.get_logger("giveback.asking")

    def sample_host(self) -> HostView | None:
        """Return the host's memory now, or the last sample if it cannot be read; None before the first."""
        if self.host is None:
            return None
        try:
            return read_host_view(self._root, self.cgroup, now_s=self.host.at_s)
        except GivebackError:
            return self.host

    def forget_samples(self) -> None:
        """Forget the samples, because another cgroup stands for the host now: no trend joins the two."""
        self._state = replace(self._state, samples=(), swap_in=None)

    def decide(self, host: HostView, settings: ArbiterSettings, now_s: float) -> Decision:
        """Decide by this sample of the host, and send every guest its urgency if it changed."""
        before = self.decision
        self.host = host
        views = [vm.view_at(now_s) for vm in self._fleet] if self.acts else []
        asked = {vm.key: vm.request.arbiter for vm in self._fleet if vm.request.arbiter}
        decision, self._state, asked_now = decide(host, views, asked, self._state, settings)
        self.decision = decision
        if before is None or before.urgency != decision.urgency or decision.asks:
            self._fleet.revise()
            self._log.info(
                "decided",
                urgency=decision.urgency,
                reason=decision.reason,
                deficit_bytes=decision.deficit_bytes,
                asked=len(decision.asks),
            )
        for key in asked.keys() | asked_now.keys():
            self._fleet.vms[key].request.ask_by_arbiter(asked_now.get(key))
        for ask in decision.asks:
            vm = self._fleet.vms[ask.key]
            vm.request.allow_device(ask.goal_bytes)
            if vm.hears:
                self.expect(vm, ActionKind.ASK, ask, now_s)
        if not decision.urgency:
            for vm in self._fleet:
                vm.request.calm(now_s)
        elif before is None or not before.urgency:
            self._hurry(now_s)
        for vm in self._fleet:
            self.send_urgency(vm, now_s)
        return decision

    def _hurry(self, now_s: float) -> None:
        """Sample every VM within seconds, because the host has just become short of memory."""
        for index, vm in enumerate(self._fleet):
            soon_s = now_s + schedule.hurried_wait_s(index)
            vm.host.hurry(soon_s)
            vm.guest.hurry(soon_s)

    def urgency_for(self, vm: Watched, now_s: float) -> int | None:
        """Return the urgency to send to the guest now; None before the first decision."""
        decision = None if vm.settings.ignore else self.decision
        return urgency_for(decision, vm.view_at(now_s), vm.request, self._state, now_s)

    def send_urgency(self, vm: Watched, now_s: float) -> bool:
        """Send or renew a guest's urgency; return False if that was not needed, or not possible."""
        channel, request = vm.channel, vm.request
        if not self.acts or channel.session is None or not channel.session.is_open:
            return False
        urgency = self.urgency_for(vm, now_s)
        if urgency is None:
            return False
        until_s = request.until_s(now_s)
        lease_s = schedule.lease_s(urgency, None if until_s is None else until_s - now_s)
        left_s, by = channel.sent_until_s - now_s, request.set_by(now_s)
        is_known = channel.sent_urgency == urgency and channel.sent_by == by
        if is_known and not schedule.is_to_renew(left_s, lease_s):
            return False
        resident_bytes = vm.view_at(now_s).resident_bytes
        wanted_bytes = request.goal_bytes(resident_bytes, now_s) if urgency else None
        goal = None if wanted_bytes is None else Goal(wanted_bytes, request.goal_number)
        if not channel.send_urgency(urgency, lease_s, now_s, goal, by):
            return False
        vm.status_changed()
        return True

    def expect(self, vm: Watched, kind: ActionKind, ask: Ask, now_s: float) -> None:
        """Record an ask with the resident bytes of the VM's process now, to judge it later."""
        counts = read_counts(self._root, vm.pid)
        if counts is None or ask.goal_bytes <= 0:
            return
        held_bytes = vm.held_bytes(counts)
        raised = vm.request.expect_more(ask.goal_bytes, held_bytes, now_s, ask.urgency)
        if raised is not None:
            self._record(raised)
            return
        action = ManagerAction(
            id=self._fleet.next_action_id(),
            wall_s=time.time(),
            vm=vm.key,
            kind=kind,
            urgency=ask.urgency,
            expected_bytes=ask.goal_bytes,
            reason=escape_for_terminal(ask.reason, 200),
        )
        vm.request.expect(action, held_bytes, now_s)
        vm.host.sample_at(now_s)
        vm.changed()
        self._record(action)

    def begin_reclaim(self, goal_bytes: int, named: Sequence[Watched]) -> ManagerAction:
        """Record a `reclaim` as one action with its goal; `named`: the VMs that it may ask, () for all."""
        keys = [vm.key for vm in named]
        action = ManagerAction(
            id=self._fleet.next_action_id(),
            wall_s=time.time(),
            vm=keys[0] if len(keys) == 1 else "",
            kind=ActionKind.RECLAIM,
            urgency=1,
            expected_bytes=goal_bytes,
            reason=f"from {_listed(keys)}" if keys else "from whichever VM gives it for the least",
        )
        self._record(action)
        return action

    def end_reclaim(self, action: ManagerAction, came_bytes: int, asked: Sequence[str]) -> None:
        """Record the result of a `reclaim`: the bytes from the VMs `asked` (keys) while it ran."""
        reached = is_reached(came_bytes, action.expected_bytes)
        words = (
            "" if reached else f"{size(came_bytes)} of {size(action.expected_bytes)} came in time"
        )
        self._record(
            replace(
                action,
                vm=asked[0] if len(asked) == 1 else action.vm,
                reason=f"asked of {_listed(asked)}"
                if asked
                else f"{action.reason}: none was asked",
                measured_bytes=came_bytes,
                verdict=words,
            )
        )

    def close_ask(self, vm: Watched, now_s: float, *, is_enough: bool) -> None:
        """Expect no more of what an ended `reclaim` asked this VM for, unless the arbiter waits for it, too.

        `is_enough`: all that was wanted has come, so who was asked for more is not judged by that. Else it
        is, if it has had the time of a pass.
        """
        request, counts = vm.request, vm.host.counts
        if request.arbiter is not None or request.promise is None or counts is None:
            return
        self.check(
            vm, now_s, is_over=not is_enough and promises.has_had_a_pass(request.promise, now_s)
        )
        why = "all that was wanted came" if is_enough else "its time was over"
        self.supersede(vm, vm.held_bytes(counts), why)

    def supersede(
        self,
        vm: Watched,
        resident_bytes: int,
        why: str = "asked again before its time was over",
    ) -> None:
        """Close the VM's open promise: bytes that come from now on count for the next."""
        closed = vm.request.supersede(resident_bytes)
        if closed is not None:
            action, came_bytes = closed
            words = "" if came_bytes >= action.expected_bytes else why
            self._record(replace(action, measured_bytes=max(0, came_bytes), verdict=words))

    def take_done(self, vm: Watched, action: ManagerAction, now_s: float) -> None:
        """Record an action of a fallback, to judge it later; steps in a row are one action."""
        taking = action.kind in (ActionKind.BALLOON, ActionKind.VIRTIO_MEM)
        whole = vm.request.expect_step(action, now_s) if taking else None
        if whole is not None:
            self._record(whole)
            return
        numbered = self.keep(replace(action, vm=vm.key))
        counts, nothing_expected = vm.host.counts, vm.request.promise is None
        if taking and nothing_expected and counts is not None and action.expected_bytes > 0:
            vm.request.expect(numbered, vm.held_bytes(counts), now_s)

    def keep(self, action: ManagerAction) -> ManagerAction:
        """Record an action of a fallback under the next id."""
        numbered = replace(action, id=self._fleet.next_action_id())
        self._record(numbered)
        return numbered

    def check(self, vm: Watched, now_s: float, *, is_over: bool = False) -> None:
        """Judge the VM's open promise, if it can be judged now; `is_over`: its time is over already."""
        request, counts = vm.request, vm.host.counts
        due = None
        if counts is not None:
            due = request.due(vm.held_bytes(counts), now_s, is_over=is_over)
        if counts is None or due is None:
            return
        action, measured_bytes = due
        short = None
        if not promises.is_delivered(action.expected_bytes, measured_bytes):
            found = self.keeps(vm, now_s)
            short = self.shortfall(vm, action.urgency, request.asked_at_s(now_s), found)
            request.explain(
                tuple(
                    escape_for_terminal(f"{f.what}: {f.evidence}; {f.remedy}", 300)
                    for f in found[:_DOCTOR_LIMIT]
                )
                or (escape_for_terminal(short.why, 300),)
            )
        is_excused = short is not None and short.is_excused
        request.judge(vm.held_bytes(counts), now_s, is_excused=is_excused, is_over=is_over)
        if short is None and not promises.is_short(request.trust):
            request.explain(())
        words = promises.verdict(
            action.expected_bytes, measured_bytes, "" if short is None else short.why
        )
        vm.changed()
        self._record(replace(action, measured_bytes=max(0, measured_bytes), verdict=words))

    def keeps(self, vm: Watched, now_s: float) -> tuple[Finding, ...]:
        """Return the findings of `giveback doctor` that keep this VM's memory on the host."""
        found = findings(vm.observation(now_s), read_facts(vm.pid, self._root))
        return tuple(f for f in found if f.severity is not Severity.BLINDS)

    def shortfall(
        self, vm: Watched, urgency: int, asked_at_s: float, found: Sequence[Finding]
    ) -> Shortfall:
        """Return why the VM returned less than an ask of this time and urgency."""
        guest = vm.guest
        report = guest.report
        answer = AgentAnswer(
            hears=vm.hears,
            is_pressed=is_pressed(report),
            learned_floor_bytes=report.learned_floor_bytes or 0,
            returnable_bytes=report.returnable_cold_bytes,
            has_begun=guest.step_at_s is not None and guest.step_at_s >= asked_at_s,
            step=guest.step,
        )
        return shortfall_of(urgency, answer, found)

    def _record(self, action: ManagerAction) -> None:
        if action.measured_bytes is not None and action.took_s is None:
            action = replace(action, took_s=max(0.0, time.time() - action.wall_s))
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


def _listed(keys: Sequence[str]) -> str:
    """Return the names of VMs, the first few of them, and how many more."""
    names = ", ".join(escape_for_terminal(key, 60) for key in keys[:_NAMED_LIMIT])
    return f"{names} and {len(keys) - _NAMED_LIMIT} more" if len(keys) > _NAMED_LIMIT else names
