"""A host that loses memory, with guests that keep their word and guests that do not: simulated time.

The real arbiter decides and the real requests judge; what the guests do is made up. A liar says that it
could return nearly all that the host counts for it, and returns nothing, or less, or only at first.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from manager_hosts import GIB, MIB, SETTINGS, guest_of, host_of

from giveback.manager.decide import arbiter
from giveback.manager.decide.arbiter import ArbiterState, urgency_for
from giveback.manager.decide.request import ReclaimRequest
from giveback.manager.model import ActionKind, Decision, GuestView, ManagerAction

STEP_S = 0.125
STARTS_AFTER_S = 1.0
GIVES_BYTES_PER_S = 256 * MIB
LIMIT_S = 400.0
Claims = Literal["trapped", "cold", "warm"]
HONEST = guest_of("honest", cold=128, trapped=128, warm=1024)


class Lie(StrEnum):
    """What a guest does that was asked for memory which it said it could return."""

    NOTHING = "returns nothing"
    HALF = "returns half, once"
    FIRST = "returns all the first time, nothing after"
    NEW_NAME = "ends, and comes back under another name"
    PRESSED = "says that it is short itself"


@dataclass
class SimulatedVm:
    """One VM: what it shows the arbiter, what it truly holds, what it was asked for."""

    view: GuestView
    lie: Lie | None = None
    real_bytes: int = 0
    """What the host has less for it: a liar's view may show more."""
    request: ReclaimRequest = field(default_factory=ReclaimRequest)
    urgency: int = 0
    told_at_s: float = 0.0
    kept_word: int = 0
    """How often it returned what it was asked for."""


@dataclass
class LosingHost:
    """A host whose memory goes to something that is no VM."""

    total_bytes: int
    vms: dict[str, SimulatedVm]
    other_bytes: int
    now_s: float = 0.0
    state: ArbiterState = field(default_factory=ArbiterState)
    decision: Decision | None = None
    available_by_s: list[tuple[float, int]] = field(default_factory=list)
    names: int = 0

    @property
    def available_bytes(self) -> int:
        return self.total_bytes - self.other_bytes - sum(vm.real_bytes for vm in self.vms.values())

    def seconds_to_oom(self, bytes_per_s: int, limit_s: float = LIMIT_S) -> float:
        """Return after how many seconds nothing is available; `limit_s` where that does not come."""
        decide_at_s = self.now_s
        while self.now_s < limit_s:
            if self.now_s >= decide_at_s:
                decide_at_s = self.now_s + self._decide()
            self.other_bytes += int(bytes_per_s * STEP_S)
            for vm in list(self.vms.values()):
                self._give(vm)
            self.now_s += STEP_S
            self.available_by_s.append((self.now_s, self.available_bytes))
            if self.available_bytes <= 0:
                return self.now_s
        return limit_s

    def _decide(self) -> float:
        host = host_of(max(0, self.available_bytes), self.now_s, self.total_bytes)
        for vm in self.vms.values():
            vm.request.judge(vm.view.resident_bytes, self.now_s)
            trust = vm.request.trust
            vm.view = replace(
                vm.view, reliability=trust.reliability, proven_bytes=trust.proven_bytes
            )
        views = [vm.view for vm in self.vms.values()]
        asked = {key: vm.request.arbiter for key, vm in self.vms.items() if vm.request.arbiter}
        decision, self.state, now_asked = arbiter.decide(host, views, asked, self.state, SETTINGS)
        self.decision = decision
        for key, vm in self.vms.items():
            vm.request.ask_by_arbiter(now_asked.get(key))
        for ask in decision.asks:
            vm = self.vms[ask.key]
            resident = vm.view.resident_bytes
            if vm.request.expect_more(ask.goal_bytes, resident, self.now_s, ask.urgency) is None:
                action = ManagerAction(
                    1, 0.0, ask.key, ActionKind.ASK, ask.urgency, ask.goal_bytes, ask.reason
                )
                vm.request.expect(action, resident, self.now_s)
        for vm in self.vms.values():
            urgency = urgency_for(decision, vm.view, vm.request, self.state, self.now_s) or 0
            if urgency != vm.urgency:
                vm.urgency, vm.told_at_s = urgency, self.now_s
        return decision.look_again_s

    def _give(self, vm: SimulatedVm) -> None:
        """Cold and trapped at urgency 1, a part of the warm cache at 2, all of it at 3."""
        if vm.urgency < 1 or self.now_s - vm.told_at_s < STARTS_AFTER_S:
            return
        if vm.lie is not None and not self._keeps_word(vm, vm.lie):
            return
        view = vm.view
        left = int(GIVES_BYTES_PER_S * STEP_S)
        trapped = min(left, view.trapped_bytes)
        cold = min(left - trapped, view.cold_bytes)
        warm_goes = {2: view.warm_bytes // 64, 3: view.warm_bytes}.get(vm.urgency, 0)
        warm = min(left - trapped - cold, warm_goes)
        gone = trapped + cold + warm
        if vm.lie is not None:
            gone = min(gone, vm.real_bytes)
        vm.real_bytes -= gone
        vm.view = replace(
            view,
            resident_bytes=view.resident_bytes - gone,
            trapped_bytes=view.trapped_bytes - trapped,
            cold_bytes=view.cold_bytes - cold,
            warm_bytes=view.warm_bytes - warm,
        )

    def _keeps_word(self, vm: SimulatedVm, lie: Lie) -> bool:
        """Whether a liar returns memory now; what it does instead is done here."""
        if lie is Lie.HALF:
            asked = vm.request.arbiter
            return asked is not None and (
                asked.resident_bytes - vm.view.resident_bytes < asked.goal_bytes // 2
            )
        if lie is Lie.FIRST:
            vm.kept_word += 1
            return vm.kept_word <= 1 / STEP_S
        if lie is Lie.NEW_NAME and self.now_s - vm.told_at_s >= 2 * STARTS_AFTER_S:
            self.vms.pop(vm.view.key)
            self.names += 1
            key = f"liar-{self.names:06}"
            self.vms[key] = SimulatedVm(replace(vm.view, key=key), lie, vm.real_bytes)
        if lie is Lie.PRESSED:
            vm.view = replace(vm.view, pressed=True)
        return False


def losing_host(
    liars: int,
    lie: Lie = Lie.NOTHING,
    *,
    claimed_mib: int = 8192,
    real_mib: int = 64,
    claims: Claims = "cold",
    honest: GuestView = HONEST,
    available_mib: int = 7168,
) -> LosingHost:
    """Return a host of 64 GiB with 20 guests like `honest`, and liars.

    Each liar holds `real_mib` and shows `claimed_mib` more, which it `claims` to be trapped memory,
    cold or warm cache. What is available at first is the same with and without liars.
    """
    vms: dict[str, SimulatedVm] = {}
    for number in range(20):
        view = replace(honest, key=f"honest-{number:03}")
        vms[view.key] = SimulatedVm(view, None, view.resident_bytes)
    for number in range(liars):
        claimed = {claims: claimed_mib}
        view = replace(guest_of("liar", **claimed), key=f"liar-{number:03}")
        view = replace(view, resident_bytes=(claimed_mib + real_mib) * MIB)
        vms[view.key] = SimulatedVm(view, lie, real_mib * MIB)
    total = 64 * GIB
    held = sum(vm.real_bytes for vm in vms.values())
    return LosingHost(total, vms, total - held - available_mib * MIB, names=liars)
