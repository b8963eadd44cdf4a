"""Frees memory now, for a program that is about to start: guests that give most for the least go first."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.manager.decide import reclaim_plan
from giveback.manager.decide.allocation import Asked, sane
from giveback.manager.decide.reclaim_plan import asks_of_reclaim
from giveback.manager.devices import rules
from giveback.manager.fleet.host_sample import read_counts
from giveback.manager.model import ActionKind, ReclaimResult, Returned
from giveback_kernel.units import size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback.manager.fleet.fleet import Fleet, Watched
    from giveback.manager.fleet.urgency import Arbitration


class ReclaimOperation:
    """Frees memory on request, one request at a time; a cancelled one asks for nothing more."""

    def __init__(
        self, fleet: Fleet, arbitration: Arbitration, root: str, recent: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._arbitration = arbitration
        self._root = root
        self._now_s = recent
        self._turn = asyncio.Lock()

    async def run(self, goal_bytes: int, within_s: float, words: Sequence[str]) -> ReclaimResult:
        """Ask for `goal_bytes` within `within_s`. Raises InputError for what cannot be asked for."""
        if goal_bytes <= 0:
            raise InputError(f"{goal_bytes} bytes: nothing to make room for")
        if not 0 < within_s <= reclaim_plan.WITHIN_LIMIT_S:
            raise InputError(
                f"within {within_s:g} s: from a moment to {reclaim_plan.WITHIN_LIMIT_S:.0f} s"
            )
        named = [self._fleet.chosen(word) for word in words]
        # Its time runs from here, also while another request is served.
        started_s = self._now_s()
        async with self._turn:
            vms = named or [vm for vm in self._fleet if not vm.settings.ignore]
            before = self._resident(vms)
            try:
                await self._refresh(vms, within_s)
                await self._ask_until(goal_bytes, started_s + within_s, vms, before)
            finally:
                asked = self._end(vms)
            after = self._resident(vms)
            parts = tuple(
                _part(vm, before[vm.key], after.get(vm.key), asked.get(vm.key))
                for vm in vms
                if vm.key in before
            )
            told = tuple(p for p in parts if p.expected_bytes or p.returned_bytes or words)
            total = sum(part.returned_bytes for part in told)
            return ReclaimResult(goal_bytes, total, self._now_s() - started_s, told)

    async def _refresh(self, vms: Sequence[Watched], within_s: float) -> None:
        """Ask guests whose reports are old; wait a little for their answers."""
        asked_at_s = self._now_s()
        until_s = reclaim_plan.answers_until_s(asked_at_s, within_s)
        old = [
            vm
            for vm in vms
            if vm.channel.session is not None
            and reclaim_plan.is_report_old(vm.guest.reported_at_s, asked_at_s)
        ]
        for vm in old:
            if vm.channel.session is not None:
                vm.channel.session.ask(asked_at_s)
        while self._now_s() < until_s:
            if all(
                (vm.guest.reported_at_s or 0.0) >= asked_at_s or vm.channel.session is None
                for vm in old
            ):
                return
            await asyncio.sleep(0.05)

    async def _ask_until(
        self, goal_bytes: int, deadline_s: float, vms: Sequence[Watched], before: dict[str, int]
    ) -> None:
        started_s = self._now_s()
        while True:
            now_s = self._now_s()
            came = _came(before, self._resident(vms))
            if came >= goal_bytes or now_s >= deadline_s:
                return
            urgency = reclaim_plan.urgency_at(now_s, started_s, deadline_s)
            self._ask(goal_bytes - came, urgency, vms, deadline_s)
            await asyncio.sleep(min(reclaim_plan.STEP_S, deadline_s - now_s))

    def _ask(
        self, missing_bytes: int, urgency: int, vms: Sequence[Watched], deadline_s: float
    ) -> None:
        now_s = self._now_s()
        views = sane([replace(vm.view_at(now_s), asked_at_s=None) for vm in vms])
        by_key = {vm.key: vm for vm in vms}
        asked = {vm.key: vm.request.reclaim for vm in vms if vm.request.reclaim is not None}
        for ask in asks_of_reclaim(missing_bytes, urgency, views, asked, now_s):
            vm = by_key[ask.key]
            resident_bytes = views[ask.key].resident_bytes
            vm.request.ask_by_reclaim(
                Asked(now_s, ask.urgency, ask.goal_bytes, resident_bytes), deadline_s
            )
            vm.host.sample_at(now_s)
            if not vm.hears:
                continue
            self._arbitration.expect(vm, ActionKind.RECLAIM, ask, now_s)
            vm.request.override_urgency(ask.urgency, reclaim_plan.urgency_until_s(deadline_s))
            self._arbitration.send_urgency(vm, now_s)

    def _end(self, vms: Sequence[Watched]) -> dict[str, Asked]:
        """Let the arbiter's urgency hold again, at once; return what was asked last of each VM."""
        asked = {vm.key: vm.request.reclaim for vm in vms if vm.request.reclaim is not None}
        for vm in vms:
            if vm.key in asked:
                vm.request.end_reclaim()
                self._arbitration.send_urgency(vm, self._now_s())
        return asked

    def _resident(self, vms: Sequence[Watched]) -> dict[str, int]:
        """What each process holds now, by the host's own count; one that has ended holds nothing."""
        found = {}
        for vm in vms:
            counts = read_counts(self._root, vm.pid)
            found[vm.key] = counts.resident_bytes if counts else 0
            if counts is not None and vm.host.recount(counts, vm.vmm.ram_bytes):
                vm.changed()
        return found


def _came(before: dict[str, int], now: dict[str, int]) -> int:
    return sum(max(0, held - now.get(key, 0)) for key, held in before.items())


def _part(vm: Watched, before: int, after: int | None, ask: Asked | None) -> Returned:
    came = max(0, before - (after or 0))
    expected = ask.goal_bytes if ask else 0
    if not after:
        words = "the VM has ended"
    elif ask is None:
        words = _why_not_asked(vm)
    elif came >= expected:
        words = "as promised" if expected else ""
    else:
        doctor = vm.request.doctor
        why = doctor[0] if doctor else "the guest is busy, or needs more than it said"
        words = f"{size(came)} of {size(expected)}: {why}"
    return Returned(vm.key, expected, came, words)


def _why_not_asked(vm: Watched) -> str:
    settings = vm.settings
    if settings.ignore:
        return "not asked: its settings say ignore"
    if not vm.hears and not settings.may_fall_back:
        return "not asked: no agent answers there, and no fallback is allowed"
    barred = rules.barred(
        vm.vmm.description, vm.vmm.state, although_reports=settings.although_reports
    )
    if not vm.hears and barred:
        return f"not asked: no agent answers there, and {barred}"
    if vm.view is not None and vm.view.pressed:
        return "not asked: the guest is short of memory itself"
    if vm.view is not None and not vm.view.fresh:
        return "not asked: its numbers are too old"
    return "not asked: others give more for less, or it has nothing to give"
