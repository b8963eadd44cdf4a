"""What a VM, an owner and the host used in a time: GiB hours, percentiles, money. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback.manager.history.usage.advice import HOUR_S, Advice, advise
from giveback.manager.history.usage.grains import GRAIN_S
from giveback_kernel.units import GIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback.manager.history.usage.grains import Grain, HostGrain, RecordedVm
    from giveback.manager.settings.values import MemoryMark

GAPS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Amounts:
    """Memory times time, in GiB hours. `returned` is free memory that the host had back meanwhile."""

    ram_gib_hours: float = 0.0
    held_gib_hours: float = 0.0
    needed_gib_hours: float = 0.0
    returned_gib_hours: float = 0.0

    def __add__(self, other: Amounts) -> Amounts:
        """Add each amount."""
        return Amounts(
            self.ram_gib_hours + other.ram_gib_hours,
            self.held_gib_hours + other.held_gib_hours,
            self.needed_gib_hours + other.needed_gib_hours,
            self.returned_gib_hours + other.returned_gib_hours,
        )


@dataclass(frozen=True, slots=True)
class Needed:
    """Percentiles of what was needed, of the most in each quarter of an hour; None if unknown."""

    p50_bytes: int | None = None
    p95_bytes: int | None = None
    p99_bytes: int | None = None
    most_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class VmUsage:
    """What one VM used. `unknown_s`: how long it was recorded without knowing what it needed."""

    name: str
    backend: str
    uid: int | None
    label: str
    ram_bytes: int
    recorded_s: int
    unknown_s: int
    amounts: Amounts
    needed: Needed
    advice: Advice
    more: int | None
    """How many more such VMs the host could have held at its worst moment; None if unknown."""


@dataclass(frozen=True, slots=True)
class OwnerUsage:
    """What all VMs of one label, or without one of one user, used."""

    label: str
    uid: int | None
    vms: int
    amounts: Amounts


@dataclass(frozen=True, slots=True)
class Gap:
    """A time in which nothing was recorded: no daemon ran, or it could not write."""

    from_s: int
    to_s: int


@dataclass(frozen=True, slots=True)
class HostUsage:
    """The host's side. `spare_bytes`: available memory above its mark, at the worst moment."""

    total_bytes: int | None
    recorded_s: int
    spare_bytes: int | None
    gaps: tuple[Gap, ...]
    """The longest ones, at most 20, in order of time."""
    gaps_s: int
    """All of them together."""


@dataclass(frozen=True, slots=True)
class UsageReport:
    """What `giveback usage` shows. Times are wall seconds; the price is per GiB hour, None if not set."""

    from_s: int
    to_s: int
    host: HostUsage
    vms: tuple[VmUsage, ...]
    owners: tuple[OwnerUsage, ...]
    price_per_gib_hour: float | None = None
    currency: str = ""


def vm_usage(vm: RecordedVm, grains: Sequence[Grain], spare_bytes: int | None) -> VmUsage:
    """Return what a VM used, from its grains in order of time."""
    known = [grain for grain in grains if grain.needed_most_bytes is not None]
    ram_bytes = next((g.ram_bytes for g in reversed(grains) if g.ram_bytes), 0)
    needed = needed_of(known)
    return VmUsage(
        vm.name, vm.backend, vm.uid, vm.label, ram_bytes,
        recorded_s=sum(grain.covered_s for grain in grains),
        unknown_s=sum(grain.covered_s for grain in grains if grain.needed_most_bytes is None),
        amounts=Amounts(
            gib_hours((g.ram_bytes, g.covered_s) for g in grains),
            gib_hours((g.held_bytes, g.covered_s) for g in grains),
            gib_hours((g.needed_bytes, g.covered_s) for g in grains),
            gib_hours((g.returned_bytes, g.covered_s) for g in grains),
        ),
        needed=needed,
        advice=advise(needed_by_hour(known), ram_bytes),
        more=_more(needed, grains, spare_bytes),
    )  # fmt: skip


def needed_by_hour(grains: Iterable[Grain]) -> dict[int, int]:
    """Return the most that was needed in each hour, by the hour's start."""
    hours: dict[int, int] = {}
    for grain in grains:
        hour_s = grain.at_s // HOUR_S * HOUR_S
        hours[hour_s] = max(hours.get(hour_s, 0), grain.needed_most_bytes or 0)
    return hours


def needed_of(grains: Sequence[Grain]) -> Needed:
    """Return the percentiles, each grain weighted by the time that it covers."""
    values = sorted((g.needed_most_bytes or 0, g.covered_s) for g in grains)
    if not values:
        return Needed()
    p50, p95, p99 = (percentile(values, part) for part in (0.50, 0.95, 0.99))
    return Needed(p50, p95, p99, values[-1][0])


def percentile(values: Sequence[tuple[int, int]], part: float) -> int:
    """Return the least value at or below which `part` of the weight lies; values are sorted pairs."""
    total = sum(weight for _, weight in values)
    below = 0
    for value, weight in values:
        below += weight
        if below >= part * total:
            return value
    return values[-1][0]


def gib_hours(amounts: Iterable[tuple[int | None, int]]) -> float:
    """Return bytes times seconds as GiB hours; what is unknown counts as nothing."""
    return sum((held or 0) * covered_s for held, covered_s in amounts) / GIB / HOUR_S


def _more(needed: Needed, grains: Sequence[Grain], spare_bytes: int | None) -> int | None:
    """Return how many more VMs of its p99 and its VMM's own memory would have fitted."""
    own = max((grain.own_bytes or 0 for grain in grains), default=0)
    if spare_bytes is None or not needed.p99_bytes:
        return None
    return max(0, spare_bytes) // (needed.p99_bytes + own)


def owners_of(vms: Iterable[VmUsage]) -> tuple[OwnerUsage, ...]:
    """Return the sums by label and, where a VM has none, by user; the largest first."""
    sums: dict[tuple[str, int | None], tuple[int, Amounts]] = {}
    for vm in vms:
        key = (vm.label, None if vm.label else vm.uid)
        count, amounts = sums.get(key, (0, Amounts()))
        sums[key] = (count + 1, amounts + vm.amounts)
    found = [OwnerUsage(*key, count, amounts) for key, (count, amounts) in sums.items()]
    return tuple(sorted(found, key=lambda owner: -owner.amounts.held_gib_hours))


def host_usage(grains: Sequence[HostGrain], from_s: int, to_s: int, short: MemoryMark) -> HostUsage:
    """Return the host's side; `short` is the mark below which it counts as short."""
    total_bytes = next((g.total_bytes for g in reversed(grains) if g.total_bytes), None)
    least = [g.available_least_bytes for g in grains if g.available_least_bytes is not None]
    gaps = gaps_in(grains, from_s, to_s)
    longest = sorted(sorted(gaps, key=lambda gap: gap.from_s - gap.to_s)[:GAPS_SHOWN], key=_start)
    return HostUsage(
        total_bytes=total_bytes,
        recorded_s=sum(grain.covered_s for grain in grains),
        spare_bytes=min(least) - short.of(total_bytes) if least and total_bytes else None,
        gaps=tuple(longest),
        gaps_s=sum(gap.to_s - gap.from_s for gap in gaps),
    )


def _start(gap: Gap) -> int:
    return gap.from_s


def gaps_in(grains: Sequence[HostGrain], from_s: int, to_s: int) -> list[Gap]:
    """Return the times of at least one whole grain between `from_s` and `to_s` without a record."""
    gaps, end_s = [], from_s // GRAIN_S * GRAIN_S
    for grain in grains:
        if grain.at_s - end_s >= GRAIN_S:
            gaps.append(Gap(end_s, grain.at_s))
        end_s = max(end_s, grain.at_s + GRAIN_S)
    if to_s - end_s >= GRAIN_S:
        gaps.append(Gap(end_s, to_s))
    return gaps
