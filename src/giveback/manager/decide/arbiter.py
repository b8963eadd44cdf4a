"""Decide how badly the host needs memory, and which guests are asked for it. Pure: no clock, no I/O.

Urgency has the agent's meaning: 0 keep caches, 1 take cold cache, 2 take half of the warm cache, 3 take
all above the floor. The host's own urgency sets the speed and the reach. Warm cache is taken at 3 only,
and only if trapped memory and cold cache of all guests together are too little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from giveback.manager.decide import forecast
from giveback.manager.decide.allocation import (
    AMOUNT_LIMIT_BYTES,
    plan,
    raised,
    sane,
    still_expected,
)
from giveback.manager.decide.delivery import Asked, Belief, Deliveries, belief, closed, left_of
from giveback.manager.decide.forecast import ForecastSample
from giveback.manager.model import Ask, Decision, GuestView
from giveback_kernel.units import MIB, size, span

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from giveback.host.memory import HostView
    from giveback.manager.decide.request import ReclaimRequest
    from giveback.manager.settings.load import ArbiterSettings

# A host stalls badly long before its memory is all used. Below half of the `short` mark urgency is 3.
_CRITICAL_OF_SHORT = 0.5
_SOON_S = 5.0
# The time that an agent needs to free warm cache, with a margin.
_WARM_LEAD_S = 5.0
# PSI memory, avg10 in per cent. systemd-oomd kills at 60; a host with enough memory shows 0.
_SOME_STALLED = 10.0
_FULL_STALLED = 5.0
_FULL_STALLED_BADLY = 20.0
# A cgroup that thrashes within its own limit stalls as well, although the host has enough memory.
_STALLS_COUNT_BELOW_CALM_TIMES = 2
_SWAP_IN_BYTES_PER_S = 1 * MIB
_SWAP_IN_BADLY_BYTES_PER_S = 32 * MIB
# Hysteresis: available memory must exceed a mark by this factor before the mark counts as left.
_LEAVING = 1.25
# The most that one process can take between two samples by touching new memory, measured.
_FASTEST_HOG_BYTES_PER_S = 2 << 30
_SAMPLE_CALM_S = (0.5, 10.0)
_SAMPLE_S = {1: 1.0, 2: 0.5, 3: 0.25}


@dataclass(frozen=True, slots=True)
class ArbiterState:
    """The arbiter's memory between two decisions. Begin with `ArbiterState()`."""

    urgency: int = 0
    samples: tuple[ForecastSample, ...] = ()
    swap_in: tuple[float, int] | None = None
    """The time of the last sample, and the bytes swapped in from boot until then."""
    lower_since_s: float | None = None
    """Since when a lower urgency has been enough, without a break."""
    lower_most: int = 0
    """The highest urgency that was needed since then."""
    deliveries: Deliveries = field(default_factory=Deliveries)
    """How much all VMs returned of what they were asked for."""


@dataclass(frozen=True, slots=True)
class _Marks:
    """The amounts of available memory at which the urgency changes."""

    calm_bytes: int
    short_bytes: int
    critical_bytes: int


def decide(
    host: HostView,
    guests: Sequence[GuestView],
    asked: Mapping[str, Asked],
    state: ArbiterState,
    settings: ArbiterSettings,
) -> tuple[Decision, ArbiterState, dict[str, Asked]]:
    """Return the decision, the state for the next call, and each guest's open ask.

    `asked` is the third value that the last call returned. Never raises, whatever the numbers are. The
    result does not depend on the order of `guests`. The asks are sorted by their goals, largest first.
    """
    host = _sane_host(host)
    if state.samples and host.at_s < state.samples[-1].at_s:
        # A time in the future comes from another clock: no wait may depend on it.
        deliveries = replace(state.deliveries, open_asks={})
        state, asked = ArbiterState(urgency=state.urgency, deliveries=deliveries), {}
    marks = marks_of(host.total_bytes, settings)
    samples = forecast.keep((*state.samples, ForecastSample(host.at_s, host.available_bytes)))
    slope = forecast.slope_bytes_per_s(samples, noise_bytes=host.total_bytes // 200)
    trouble_in_s = forecast.seconds_until(host.available_bytes, marks.critical_bytes, slope)
    swap_rate = _swap_in_rate(host, state)
    needed, why = _urgency_needed(host, marks, trouble_in_s, swap_rate, state, settings)
    state = _settle(needed, host, state, settings)
    if state.urgency > needed:
        why += f"; urgency {state.urgency} until that has lasted {span(settings.calm_for_s)}"
    # An urgency that is only kept until calm has lasted asks for no memory.
    deficit = _deficit(host, marks, slope, needed, settings) if needed else 0
    views = sane(guests)
    asked = {key: ask for key, ask in asked.items() if key in views}
    deliveries = closed(state.deliveries, asked, views, host.at_s)
    asks: tuple[Ask, ...] = ()
    if deficit:
        near = _deficit_soon(host, marks, slope)
        believed = belief(deliveries, views, needed, host.at_s)
        before = asked
        asks, asked = _ask((deficit, near), needed, views, asked, believed, host.at_s)
        deliveries = closed(deliveries, asked, views, host.at_s)
        fresh = {key: ask for key, ask in asked.items() if before.get(key) != ask}
        deliveries = replace(deliveries, open_asks={**deliveries.open_asks, **fresh})
    swap_in = (host.at_s, host.swap_in_bytes)
    state = replace(state, samples=samples, swap_in=swap_in, deliveries=deliveries)
    next_s = _next_sample_s(host, marks, trouble_in_s, state.urgency)
    calm_urgency = int(settings.on_calm == "cold")
    decision = Decision(state.urgency, deficit, trouble_in_s, asks, why, next_s, calm_urgency)
    return decision, state, asked


def _ask(
    deficits: tuple[int, int],
    urgency: int,
    guests: Mapping[str, GuestView],
    asked: dict[str, Asked],
    believed: Belief,
    now_s: float,
) -> tuple[tuple[Ask, ...], dict[str, Asked]]:
    """Return the asks for what is missing and not yet expected; and all open asks, with these."""
    asks = raised(deficits[0], urgency, guests, asked, now_s)
    asked = asked | {
        ask.key: Asked(now_s, ask.urgency, ask.goal_bytes, guests[ask.key].resident_bytes)
        for ask in asks
    }
    coming = still_expected(guests, asked, now_s, urgency, believed)
    rest, soon = (max(0, deficit - coming) for deficit in deficits)
    new = plan(rest, urgency, guests, asked, now_s, warm_deficit_bytes=soon, belief=believed)
    new = tuple(ask for ask in new if ask.key not in {one.key for one in asks})
    fresh = {}
    for ask in new:
        guest = guests[ask.key]
        goal = ask.goal_bytes + left_of(asked.get(ask.key), guest, now_s)
        fresh[ask.key] = Asked(now_s, ask.urgency, goal, guest.resident_bytes)
    both = sorted((*asks, *new), key=lambda ask: (-ask.goal_bytes, ask.key))
    return tuple(both), asked | fresh


def arbiter_urgency(
    decision: Decision, guest: GuestView, asked: Asked | None, state: ArbiterState
) -> int:
    """Return the urgency that the arbiter sends to a guest, as a lease until the next decision.

    A guest with an open ask gets the ask's urgency. The others keep their caches, or return cold cache
    if the settings say so. On a host at urgency 3 they get 1: each follows its own policy.
    """
    calm = decision.calm_urgency
    if decision.urgency and asked is not None and not guest.pressed and state.samples:
        waiting = asked.waited_for(state.samples[-1].at_s)
        return asked.urgency if waiting else max(calm, int(decision.urgency >= 3))
    return 1 if decision.urgency >= 3 else calm


def urgency_for(
    decision: Decision | None,
    guest: GuestView,
    request: ReclaimRequest,
    state: ArbiterState,
    now_s: float,
) -> int | None:
    """Return the urgency to send to a guest now; None before the first decision.

    A manual urgency comes before `reclaim`'s, and `reclaim`'s before the arbiter's. A manual urgency is
    obeyed as given, below the VM's floor too. The other two send 0 at the floor: an agent may go on for
    as long as its urgency holds.
    """
    manual = request.manual(now_s)
    if manual is not None:
        return manual
    at_floor = guest.floor_bytes > 0 and 0 < guest.resident_bytes <= guest.floor_bytes
    of_reclaim = request.of_reclaim(now_s)
    if of_reclaim is not None:
        return 0 if at_floor else of_reclaim
    if decision is None:
        return None
    return 0 if at_floor else arbiter_urgency(decision, guest, request.arbiter, state)


def marks_of(total_bytes: int, settings: ArbiterSettings) -> _Marks:
    """Return the marks of a host of this size; `calm` is above `short` whatever the settings say."""
    short = settings.short.of(total_bytes)
    calm = max(settings.calm.of(total_bytes), short + short // 10)
    return _Marks(calm, short, int(short * _CRITICAL_OF_SHORT))


def _sane_host(host: HostView) -> HostView:
    total = min(max(0, host.total_bytes), AMOUNT_LIMIT_BYTES)
    available = min(max(0, host.available_bytes), total)
    remarks = host.remarks
    if host.available_bytes > total > 0 and not remarks:
        remarks = (f"MemAvailable cannot be more than all {size(total)}",)
    at_s = host.at_s if math.isfinite(host.at_s) else 0.0
    return replace(
        host,
        at_s=at_s,
        total_bytes=total,
        available_bytes=available,
        psi_memory_some_avg10=_percent(host.psi_memory_some_avg10),
        psi_memory_full_avg10=_percent(host.psi_memory_full_avg10),
        swap_in_bytes=min(max(0, host.swap_in_bytes), 1 << 64),
        remarks=remarks,
    )


def _percent(value: float | None) -> float:
    """Return the percentage; 0 if the host does not report it, or it is not a finite number."""
    return value if value is not None and math.isfinite(value) else 0.0


def _swap_in_rate(host: HostView, state: ArbiterState) -> float:
    if state.swap_in is None:
        return 0.0
    then_s, then_bytes = state.swap_in
    return forecast.rate(host.swap_in_bytes - then_bytes, host.at_s - then_s)


def _urgency_needed(
    host: HostView,
    marks: _Marks,
    trouble_in_s: float | None,
    swap_rate: float,
    state: ArbiterState,
    settings: ArbiterSettings,
) -> tuple[int, str]:
    """Return the least urgency that this sample calls for, and the reason in words.

    Monotonic: less available memory never lowers the urgency.
    """
    available = host.available_bytes
    had = f"{size(available)} available of {size(host.total_bytes)}"
    if host.remarks:
        had += f" by estimate ({host.remarks[0]})"
    critical, short = _held(marks, state.urgency)
    soon = math.inf if trouble_in_s is None else trouble_in_s
    if available < critical:
        return 3, f"{had}: below {size(marks.critical_bytes)}"
    if soon < _SOON_S:
        return 3, f"{had}: runs out in {span(soon)}"
    stalls, why = _stalls(host, marks, swap_rate)
    if stalls == 3:
        return 3, f"{had}: {why}"
    if available < short:
        return 2, f"{had}: below {size(marks.short_bytes)}"
    if soon < settings.horizon_s / 2:
        return 2, f"{had}: runs out in {span(soon)}"
    if stalls:
        return stalls, f"{had}: {why}"
    if soon < settings.horizon_s:
        return 1, f"{had}: runs out in {span(soon)}"
    if state.urgency and available < marks.calm_bytes:
        return 1, f"{had}: still below {size(marks.calm_bytes)}"
    if trouble_in_s is not None:
        return 0, f"{had}: enough for now, runs out in {span(soon)} at this rate"
    return 0, f"{had}: enough"


def _held(marks: _Marks, urgency: int) -> tuple[float, float]:
    """Return the critical and the short mark in bytes; raised while the host is below them (hysteresis)."""
    critical = marks.critical_bytes * (_LEAVING if urgency >= 3 else 1)
    short = float(marks.short_bytes)
    if urgency >= 2:
        short = min(short * _LEAVING, (short + marks.calm_bytes) / 2)
    return critical, short


def _stalls(host: HostView, marks: _Marks, swap_rate: float) -> tuple[int, str]:
    """Return the urgency that stalls and swap-in call for, and the reason in words.

    They count only if memory is scarce enough to be their cause. If the kernel's numbers contradict each
    other, available memory cannot rule that out, so they count.
    """
    doubted = bool(host.remarks)
    enough = host.available_bytes >= marks.calm_bytes * _STALLS_COUNT_BELOW_CALM_TIMES
    if enough and not doubted:
        return 0, ""
    some, full = host.psi_memory_some_avg10 or 0.0, host.psi_memory_full_avg10 or 0.0
    scarce = doubted or host.available_bytes < marks.calm_bytes
    if scarce and full >= _FULL_STALLED_BADLY:
        return 3, f"all tasks stall {full:.0f} % of the time for memory"
    if scarce and swap_rate >= _SWAP_IN_BADLY_BYTES_PER_S:
        return 3, f"{size(int(swap_rate))} are swapped in per second"
    if full >= _FULL_STALLED:
        return 2, f"all tasks stall {full:.0f} % of the time for memory"
    if some >= _SOME_STALLED:
        return 2, f"tasks stall {some:.0f} % of the time for memory"
    if scarce and swap_rate >= _SWAP_IN_BYTES_PER_S:
        return 2, f"{size(int(swap_rate))} are swapped in per second"
    return 0, ""


def _settle(
    needed: int, host: HostView, state: ArbiterState, settings: ArbiterSettings
) -> ArbiterState:
    """Return the state with its next urgency: raised at once, lowered only after `calm_for_s`.

    It is then lowered to the highest urgency that was needed in that time.
    """
    if needed >= state.urgency:
        return replace(state, urgency=needed, lower_since_s=None, lower_most=0)
    if state.lower_since_s is None:
        return replace(state, lower_since_s=host.at_s, lower_most=needed)
    most = max(state.lower_most, needed)
    if host.at_s - state.lower_since_s < settings.calm_for_s:
        return replace(state, lower_most=most)
    return replace(state, urgency=most, lower_since_s=None, lower_most=0)


def _deficit(
    host: HostView, marks: _Marks, slope: float, needed: int, settings: ArbiterSettings
) -> int:
    """Return the bytes missing to the calm mark at the end of the horizon; at most half of the host.

    At urgency 2 and 3 it is at least a quarter of the short mark: a host that stalls needs memory even if
    its available memory looks sufficient.
    """
    coming = int(min(host.total_bytes, max(0.0, -slope) * settings.horizon_s))
    least = marks.short_bytes // 4 if needed >= 2 else 0
    missing = marks.calm_bytes - host.available_bytes + coming
    return max(least, min(host.total_bytes // 2, missing))


def _deficit_soon(host: HostView, marks: _Marks, slope: float) -> int:
    """Return the bytes that are missing to the short mark within _WARM_LEAD_S.

    Warm cache is taken for these only: a shortage later in the horizon may never come.
    """
    coming = int(min(host.total_bytes, max(0.0, -slope) * _WARM_LEAD_S))
    return max(0, marks.short_bytes - host.available_bytes + coming)


def _next_sample_s(
    host: HostView, marks: _Marks, trouble_in_s: float | None, urgency: int
) -> float:
    """Return the seconds to the next sample: before the fastest hog could have reached the short mark.

    It is sooner if memory is forecast to run out.
    """
    if urgency:
        return min(_SAMPLE_S[urgency], max(_SAMPLE_S[3], (trouble_in_s or math.inf) / 10))
    shortest, longest = _SAMPLE_CALM_S
    if trouble_in_s is not None:
        longest = min(longest, max(shortest, trouble_in_s / 10))
    above_mark = max(0, host.available_bytes - marks.short_bytes)
    return min(longest, max(shortest, above_mark / _FASTEST_HOG_BYTES_PER_S))
