"""Room now, for something that is about to start: the guests that give most for the least go first."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.manager.decide import promises
from giveback.manager.decide.allocation import Asked, plan, sane
from giveback.manager.devices import rules
from giveback.manager.fleet import resident_counts
from giveback.manager.fleet.urgency import view
from giveback.manager.model import ActionKind, ReclaimResult, Returned
from giveback.text import size

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback.manager.fleet.fleet import Fleet, Watched
    from giveback.manager.fleet.urgency import Asking

WITHIN_LIMIT_S = 3600.0
_STEP_S = 0.5
_FRESH_S = 5.0
_ANSWERS_S = 3.0
_CHEAP_FOR = 1 / 3
"""For so much of the time only what costs the guests little is taken."""


class Room:
    """Makes room, one request after the other; one that is cancelled asks for no more."""

    def __init__(
        self, fleet: Fleet, asking: Asking, root: str, recent: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._asking = asking
        self._root = root
        self._now_s = recent
        self._turn = asyncio.Lock()

    async def make(self, goal_bytes: int, within_s: float, words: Sequence[str]) -> ReclaimResult:
        """Ask for `goal_bytes` within `within_s`. Raises InputError for what cannot be asked for."""
        if goal_bytes <= 0:
            raise InputError(f"{goal_bytes} bytes: nothing to make room for")
        if not 0 < within_s <= WITHIN_LIMIT_S:
            raise InputError(f"within {within_s:g} s: from a moment to {WITHIN_LIMIT_S:.0f} s")
        named = [self._fleet.chosen(word) for word in words]
        # Its time runs from here: who asked waits no longer than that, whoever else is served before.
        started_s = self._now_s()
        async with self._turn:
            vms = named or [vm for vm in self._fleet if not vm.settings.ignore]
            before = self._resident(vms)
            asked: dict[str, Asked] = {}
            try:
                await self._refresh(vms, within_s)
                await self._ask_until(goal_bytes, started_s + within_s, vms, before, asked)
            finally:
                self._let_go([vm for vm in vms if vm.key in asked])
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
        """Ask guests whose numbers are not of now; wait a little for their answers."""
        until_s = self._now_s() + min(_ANSWERS_S, within_s / 5)
        old = [
            vm
            for vm in vms
            if vm.session is not None
            and (vm.guest_at_s is None or self._now_s() - vm.guest_at_s > _FRESH_S)
        ]
        for vm in old:
            if vm.session is not None:
                vm.session.ask(self._now_s())
        asked_at_s = self._now_s()
        while self._now_s() < until_s:
            if all((vm.guest_at_s or 0.0) >= asked_at_s or vm.session is None for vm in old):
                return
            await asyncio.sleep(0.05)

    async def _ask_until(
        self,
        goal_bytes: int,
        deadline_s: float,
        vms: Sequence[Watched],
        before: dict[str, int],
        asked: dict[str, Asked],
    ) -> None:
        started_s = self._now_s()
        while True:
            now_s = self._now_s()
            came = _came(before, self._resident(vms))
            if came >= goal_bytes or now_s >= deadline_s:
                return
            pressing = now_s - started_s > (deadline_s - started_s) * _CHEAP_FOR
            left_s = deadline_s - now_s
            self._ask(goal_bytes - came, 3 if pressing else 2, vms, asked, left_s)
            await asyncio.sleep(min(_STEP_S, left_s))

    def _ask(
        self,
        missing_bytes: int,
        urgency: int,
        vms: Sequence[Watched],
        asked: dict[str, Asked],
        left_s: float,
    ) -> None:
        now_s = self._now_s()
        views = sane([replace(view(vm, now_s), asked_at_s=None) for vm in vms])
        by_key = {vm.key: vm for vm in vms}
        expected = sum(
            max(0, ask.goal_bytes - max(0, ask.resident_bytes - views[key].resident_bytes))
            for key, ask in asked.items()
            if key in views and ask.waited_for(now_s)
        )
        asks = plan(max(0, missing_bytes - expected), urgency, views, asked, now_s)
        offered = sum(ask.goal_bytes for ask in asks) + expected
        if urgency < 3 and offered < missing_bytes:
            # What is cheap does not suffice: no time is lost on it.
            asks = plan(max(0, missing_bytes - expected), 3, views, asked, now_s)
        for ask in asks:
            vm = by_key[ask.key]
            asked[ask.key] = Asked(
                now_s, ask.urgency, ask.goal_bytes, views[ask.key].resident_bytes
            )
            vm.goal, vm.goal_until_s = ask.goal_bytes, now_s + left_s
            vm.due_s = now_s
            vm.trust = replace(vm.trust, asked_at_s=now_s)
            if not vm.hears:
                continue
            self._asking.promise(
                vm, ActionKind.RECLAIM, ask.urgency, ask.goal_bytes, ask.reason, now_s
            )
            vm.wanted, vm.wanted_until_s = ask.urgency, now_s + left_s + promises.GRACE_S / 3
            self._asking.tell(vm, now_s)

    def _let_go(self, vms: Sequence[Watched]) -> None:
        """What the arbiter wants holds again, at once."""
        for vm in vms:
            vm.wanted = None
            vm.goal, vm.goal_until_s = 0, 0.0
            self._asking.tell(vm, self._now_s())

    def _resident(self, vms: Sequence[Watched]) -> dict[str, int]:
        """What each process holds now, by the host's own count; one that has ended holds nothing."""
        found = {}
        for vm in vms:
            counts = resident_counts.read_counts(self._root, vm.pid)
            found[vm.key] = counts.resident_bytes if counts else 0
            if counts is not None and counts != vm.counts:
                vm.counts = counts
                if vm.mappings is not None:
                    vm.host = resident_counts.carried(vm.mappings, counts, vm.ram_bytes)
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
        why = vm.doctor[0] if vm.doctor else "the guest is busy, or needs more than it said"
        words = f"{size(came)} of {size(expected)}: {why}"
    return Returned(vm.key, expected, came, words)


def _why_not_asked(vm: Watched) -> str:
    settings = vm.settings
    if settings.ignore:
        return "not asked: its settings say ignore"
    if not vm.hears and not settings.may_fall_back:
        return "not asked: no agent answers there, and no fallback is allowed"
    barred = rules.barred(vm.vm, vm.state, although_reports=settings.although_reports)
    if not vm.hears and barred:
        return f"not asked: no agent answers there, and {barred}"
    if vm.view is not None and vm.view.pressed:
        return "not asked: the guest is short of memory itself"
    if vm.view is not None and not vm.view.fresh:
        return "not asked: its numbers are too old"
    return "not asked: others give more for less, or it has nothing to give"
