"""Run `giveback reclaim`: free memory now, from the guests that return most at least cost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.manager.decide import promises, reclaim_plan
from giveback.manager.decide.allocation import sane
from giveback.manager.decide.delivery import Asked
from giveback.manager.decide.reclaim_plan import asks_of_reclaim, can_give_bytes, cost_of
from giveback.manager.devices import rules
from giveback.manager.fleet.host_sample import read_counts
from giveback.manager.model import ActionKind, ReclaimResult, Returned, is_reached
from giveback_kernel.units import size, span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from giveback.manager.fleet.fleet import Fleet, Watched
    from giveback.manager.fleet.urgency import Arbitration
    from giveback.manager.model import Ask, GuestView


_AFTERWARDS_S = 5.0
"""At the end, guests have a fifth of this to send a new report (`reclaim_plan.answers_until_s`)."""

_WHOLE_ONLY = (
    "not asked for cache: its kernel can only drop all of it, not an amount; `giveback-agent urgency 3` "
    "in the guest drops all; Linux 5.19 with cgroup v2 reclaims a part"
)
_LEFT = "a manual urgency replaced the request"


@dataclass(slots=True)
class _Count:
    """Resident bytes by VM, at the begin and at each VM's first ask, and the bytes expected of each."""

    before: dict[str, int]
    at_first_ask: dict[str, int] = field(default_factory=dict)
    first_at_s: dict[str, float] = field(default_factory=dict)
    expected: dict[str, int] = field(default_factory=dict)
    left: dict[str, tuple[int, Asked]] = field(default_factory=dict)
    """Resident bytes and last ask of each VM at the time when a manual urgency replaced `reclaim`'s."""

    def came(self, key: str, now: dict[str, int]) -> int:
        """Return the bytes that a VM has returned since its first ask; 0 if it grew."""
        if key not in self.at_first_ask:
            return 0
        until = self.left[key][0] if key in self.left else now.get(key, 0)
        return max(0, self.at_first_ask[key] - until)

    def came_in_all(self, now: dict[str, int]) -> int:
        return sum(self.came(key, now) for key in self.at_first_ask)

    def by_themselves(self, now: dict[str, int]) -> int:
        """Return the bytes that came without an ask of `reclaim`.

        They are from VMs that were not asked, or not yet, and from those with a manual urgency since.
        """
        later = {key: self.at_first_ask.get(key, now.get(key, 0)) for key in self.before}
        manually = sum(max(0, held - now.get(key, 0)) for key, (held, _) in self.left.items())
        return manually + sum(max(0, held - later[key]) for key, held in self.before.items())

    def grown(self, now: dict[str, int]) -> int:
        return sum(max(0, now.get(key, 0) - held) for key, held in self.before.items())


class ReclaimOperation:
    """Frees memory on request, one request at a time. A cancelled request asks no more guests."""

    def __init__(
        self, fleet: Fleet, arbitration: Arbitration, root: str, recent: Callable[[], float]
    ) -> None:
        self._fleet = fleet
        self._arbitration = arbitration
        self._root = root
        self._now_s = recent
        self._turn = asyncio.Lock()
        self._count: _Count | None = None

    async def run(self, goal_bytes: int, within_s: float, names: Sequence[str]) -> ReclaimResult:
        """Ask for `goal_bytes` within `within_s`, or for the most that can come.

        Returns at once if no VM can be asked. Raises InputError for an unknown VM, a goal or a time that
        is out of range.
        """
        named = self._checked(goal_bytes, within_s, names)
        # The time runs from here, also while another request is served.
        started_s = self._now_s()
        async with self._turn:
            vms = named or list(self._fleet)
            await self._refresh(vms, within_s)
            most = reclaim_plan.most_bytes(self._views(vms))
            count = _Count(self._resident(list(self._fleet)))
            available = self._available_bytes()
            if not most:
                refused = tuple(self._refused(vm) for vm in vms)
                return ReclaimResult(goal_bytes, 0, self._now_s() - started_s, refused)
            action = self._arbitration.begin_reclaim(goal_bytes, named)
            asked: dict[str, Asked] = {}
            self._count = count
            try:
                await self._ask_until(min(goal_bytes, most), started_s + within_s, vms, count)
            finally:
                asked, self._count = self._end(vms), None
                after = self._resident(list(self._fleet))
                came = count.came_in_all(after)
                self._arbitration.end_reclaim(action, came, list(count.at_first_ask))
                self._close_asks(vms, count, is_enough=is_reached(came, min(goal_bytes, most)))
            took_s = self._now_s() - started_s
            # The reasons below must rest on the guests' present state.
            await self._refresh([vm for vm in vms if vm.key in asked], _AFTERWARDS_S)
            parts = [self._part(vm, count, after, asked.get(vm.key)) for vm in vms]
            return ReclaimResult(
                goal_bytes=goal_bytes,
                returned_bytes=came,
                took_s=took_s,
                parts=tuple(part for part in parts if part.expected_bytes or names),
                most_bytes=most,
                others_returned_bytes=count.by_themselves(after),
                grown_bytes=count.grown(after),
                available_before_bytes=available,
                available_after_bytes=self._available_bytes(),
            )

    def leave(self, vm: Watched) -> None:
        """Stop asking a VM that gets a manual urgency: bytes that come from now on are due to that."""
        count, ask = self._count, vm.request.reclaim
        if count is None or ask is None or vm.key not in count.at_first_ask:
            return
        resident_bytes = self._resident([vm])[vm.key]
        count.left[vm.key] = resident_bytes, ask
        vm.request.end_reclaim()
        self._arbitration.supersede(vm, resident_bytes, _LEFT)

    async def plan(self, goal_bytes: int, within_s: float, names: Sequence[str]) -> ReclaimResult:
        """Return the asks with which `run` would begin, and their cost. Asks for no memory.

        Raises InputError as `run` does.
        """
        named = self._checked(goal_bytes, within_s, names)
        vms, started_s = named or list(self._fleet), self._now_s()
        await self._refresh(vms, within_s)
        views = self._views(vms)
        most = reclaim_plan.most_bytes(views)
        first = asks_of_reclaim(min(goal_bytes, most), 1, views, {}, self._now_s())
        asks = {ask.key: ask for ask in first}
        parts = [self._planned(vm, asks.get(vm.key), views) for vm in vms]
        return ReclaimResult(
            goal_bytes=goal_bytes,
            returned_bytes=0,
            took_s=self._now_s() - started_s,
            parts=tuple(parts),
            most_bytes=most,
            dry_run=True,
        )

    def _checked(self, goal_bytes: int, within_s: float, names: Sequence[str]) -> list[Watched]:
        """Return the VMs with these names. Raises InputError."""
        if goal_bytes <= 0:
            raise InputError(f"{goal_bytes} bytes: nothing to free; ask for more than 0")
        if not 0 < within_s <= reclaim_plan.WITHIN_LIMIT_S:
            raise InputError(
                f"within {span(within_s)}: give more than 0 and at most {span(reclaim_plan.WITHIN_LIMIT_S)}"
            )
        return [self._fleet.chosen(name) for name in names]

    async def _refresh(self, vms: Sequence[Watched], within_s: float) -> None:
        """Ask the guests whose reports are old, and wait for their answers for a short time."""
        asked_at_s = self._now_s()
        until_s = reclaim_plan.answers_until_s(asked_at_s, within_s)
        old = [
            vm
            for vm in vms
            if vm.channel.session is not None
            and (
                vm.is_report_outdated
                or reclaim_plan.is_report_old(vm.guest.reported_at_s, asked_at_s)
            )
        ]
        for vm in old:
            if vm.channel.session is not None:
                vm.channel.session.ask(asked_at_s)
        lent = [vm for vm in vms if vm.is_port_lent]
        port_until_s = reclaim_plan.port_until_s(asked_at_s, within_s)

        def is_waited_for(vm: Watched) -> bool:
            is_there = vm.channel.session is not None or vm.is_port_lent
            return is_there and (vm.guest.reported_at_s or 0.0) < asked_at_s

        while True:
            now_s = self._now_s()
            waited_for = (old if now_s < until_s else []) + (lent if now_s < port_until_s else [])
            if not any(map(is_waited_for, waited_for)):
                return
            await asyncio.sleep(0.05)

    async def _ask_until(
        self, goal_bytes: int, deadline_s: float, vms: Sequence[Watched], count: _Count
    ) -> None:
        started_s = self._now_s()
        while True:
            now_s = self._now_s()
            came = count.came_in_all(self._resident(vms))
            if (
                is_reached(came, goal_bytes)
                or now_s >= deadline_s
                or self._is_left_alone(vms, count)
            ):
                return
            stage = reclaim_plan.stage_at(now_s, started_s, deadline_s)
            self._ask(goal_bytes - came, stage, vms, deadline_s, count)
            await asyncio.sleep(min(reclaim_plan.STEP_S, deadline_s - now_s))

    def _is_left_alone(self, vms: Sequence[Watched], count: _Count) -> bool:
        """Return whether manual urgencies hold for all VMs that could be asked."""
        if not count.left or any(vm.request.reclaim is not None for vm in vms):
            return False
        return not reclaim_plan.most_bytes(self._views(vms))

    def _ask(
        self,
        missing_bytes: int,
        stage: int,
        vms: Sequence[Watched],
        deadline_s: float,
        count: _Count,
    ) -> None:
        now_s, views = self._now_s(), self._views(vms)
        by_key = {vm.key: vm for vm in vms}
        asked = {vm.key: vm.request.reclaim for vm in vms if vm.request.reclaim is not None}
        for ask in asks_of_reclaim(missing_bytes, stage, views, asked, now_s):
            vm, counts = by_key[ask.key], by_key[ask.key].host.counts
            if counts is None:
                continue
            resident_bytes = vm.held_bytes(counts)
            if ask.key not in count.at_first_ask:
                count.at_first_ask[ask.key], count.first_at_s[ask.key] = resident_bytes, now_s
                self._arbitration.supersede(vm, resident_bytes)
            came = count.at_first_ask[ask.key] - resident_bytes
            count.expected[ask.key] = max(0, came) + ask.goal_bytes
            vm.request.ask_by_reclaim(
                Asked(now_s, ask.urgency, ask.goal_bytes, views[ask.key].resident_bytes),
                reclaim_plan.urgency_until_s(deadline_s),
            )
            vm.host.sample_at(now_s)
            if vm.hears:
                self._arbitration.expect(vm, ActionKind.ASK, ask, now_s)
                vm.channel.forget_sent()
                self._arbitration.send_urgency(vm, now_s)

    def _end(self, vms: Sequence[Watched]) -> dict[str, Asked]:
        """Make the arbiter's urgency hold again, at once; return the last ask of each VM."""
        asked = {vm.key: vm.request.reclaim for vm in vms if vm.request.reclaim is not None}
        for vm in vms:
            if vm.key in asked:
                vm.request.end_reclaim()
                # Sent even if the urgency stays the same, because the goal has ended.
                vm.channel.forget_sent()
                self._arbitration.send_urgency(vm, self._now_s())
        return asked

    def _close_asks(self, vms: Sequence[Watched], count: _Count, *, is_enough: bool) -> None:
        """Expect no more of what was asked for: what comes from now on is due to something else."""
        for vm in vms:
            if vm.key in count.at_first_ask and vm.key not in count.left:
                self._arbitration.close_ask(vm, self._now_s(), is_enough=is_enough)

    def _views(self, vms: Sequence[Watched]) -> dict[str, GuestView]:
        """Return the VMs' views by key, for `asks_of_reclaim`: asks of the arbiter are left out."""
        now_s = self._now_s()
        views = []
        for vm in vms:
            if vm.settings.ignore:
                continue
            may_press = vm.request.manual(now_s) is None
            view = replace(vm.view_at(now_s), asked_at_s=None, may_press=may_press)
            if vm.hears and not vm.guest.report.cache_in_parts:
                # `reclaim` names an amount, and such an agent takes no cache for one.
                view = replace(view, cold_bytes=0, warm_bytes=0)
            views.append(view)
        return sane(views)

    def _available_bytes(self) -> int | None:
        host = self._arbitration.sample_host()
        return None if host is None else host.available_bytes

    def _resident(self, vms: Sequence[Watched]) -> dict[str, int]:
        """Return the resident bytes of each process now, by the host's own count; 0 if it has ended."""
        found = {}
        for vm in vms:
            counts = read_counts(self._root, vm.pid)
            found[vm.key] = vm.held_bytes(counts) if counts else 0
            if counts is not None and vm.host.recount(counts, vm.vmm.ram_bytes):
                vm.changed()
        return found

    # Texts.

    def _part(
        self, vm: Watched, count: _Count, after: dict[str, int], ask: Asked | None
    ) -> Returned:
        came, expected = count.came(vm.key, after), count.expected.get(vm.key, 0)
        if vm.key in count.left:
            ask = count.left[vm.key][1]
        urgency = None if ask is None else ask.urgency
        if not after.get(vm.key):
            words = "the VM has ended"
        elif ask is None or not expected:
            words = self._why_not_asked(vm)
        elif promises.is_delivered(expected, came):
            words = "as promised"
        elif vm.key in count.left:
            words = f"{size(came)} of {size(expected)}: {_LEFT}"
        else:
            found = self._arbitration.keeps(vm, self._now_s())
            asked_at_s = count.first_at_s.get(vm.key, ask.at_s)
            short = self._arbitration.shortfall(vm, ask.urgency, asked_at_s, found)
            words = f"{size(came)} of {size(expected)}: {short.why}"
        return Returned(vm.key, expected, came, words, urgency)

    def _planned(self, vm: Watched, ask: Ask | None, views: dict[str, GuestView]) -> Returned:
        if ask is None:
            gives = vm.key in views and can_give_bytes(views[vm.key])
            enough = "not asked: other VMs return enough at less cost"
            return Returned(vm.key, 0, 0, enough if gives else self._why_not_asked(vm))
        how = cost_of(ask) if vm.hears else "by a device (balloon or virtio-mem)"
        return Returned(vm.key, ask.goal_bytes, 0, how, ask.urgency)

    def _refused(self, vm: Watched) -> Returned:
        return Returned(vm.key, 0, 0, self._why_not_asked(vm))

    def _why_not_asked(self, vm: Watched) -> str:
        settings, view = vm.settings, vm.view_at(self._now_s())
        if settings.ignore:
            return "not asked: its settings say ignore"
        if not vm.hears and not settings.may_fall_back:
            return "not asked: no agent answers, and its settings allow no fallback"
        barred = rules.barred(
            vm.vmm.description, vm.vmm.state, although_reports=settings.although_reports
        )
        if not vm.hears and barred:
            return f"not asked: no agent answers, and {barred}"
        manual = vm.request.manual(self._now_s())
        if manual == 0:
            return "not asked: a manual urgency of 0 protects its cache"
        if manual is not None:
            left_s = vm.request.manual_until_s - self._now_s()
            return f"not asked: a manual urgency of {manual} holds for {span(round(left_s))} more"
        if view.pressed:
            return "not asked: the guest itself is short of memory"
        if not view.fresh:
            return "not asked: its numbers are too old, or contradict each other"
        if vm.hears and not vm.guest.report.cache_in_parts:
            return _WHOLE_ONLY
        if not can_give_bytes(view):
            return "not asked: it holds too little above its floors to be worth a pass"
        return "not asked: other VMs return more at less cost"
