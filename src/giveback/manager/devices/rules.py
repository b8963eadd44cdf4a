"""Decide when a device may take memory from a guest, how much, and when it must release it. Pure.

The guest keeps what it needs plus a headroom. It needs its total minus what it says is available. The
numbers of a stuck guest freeze without an error (QEMU asks again only once it was answered). So only numbers
that have changed count; the clock of their stamps does not matter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from giveback.accounting.usage import GuestSource
from giveback.vmm.base import Answer
from giveback_kernel.units import MIB, size, span

if TYPE_CHECKING:
    from giveback.accounting.usage import GuestSnapshot
    from giveback.vmm.base import VmDescription, VmState

# The most of one step: a guest that is asked for more at once stalls while it reclaims it.
STEP_MOST_BYTES = 256 * MIB
STEP_PART = 16
STEP_LEAST_BYTES = 8 * MIB
# The memory that must stay available: below it, memory is released at once.
HEADROOM_LEAST_BYTES = 64 * MIB
HEADROOM_PART = 8
# A step must leave this factor of the headroom, so that small changes in the guest do not undo it.
MARGIN = 1.5
FRESH_S = 20.0
STALE_S = 45.0
"""Leases are released once the guest's numbers have not changed for this long."""
UNWANTED_S = 120.0
"""Leases are released once no request has needed them for this long."""
CALM_AFTER_PRESSURE_S = 60.0
STUCK_S = 30.0
"""A guest that has not returned a step's memory after this long will not return it."""
# A guest with these rates is short of memory, whatever it says is available.
SWAP_IN_BYTES_PER_S = 1 * MIB
MAJOR_FAULTS_PER_S = 100.0
_STAMP_MOVED_S = 0.5


@dataclass(frozen=True, slots=True)
class Numbers:
    """The guest's own numbers at one of its updates; `stamp_s` differs between two updates."""

    stamp_s: float
    total_bytes: int
    available_bytes: int
    swap_in_bytes: int | None = None
    major_faults: int | None = None


@dataclass(frozen=True, slots=True)
class Watch:
    """The state of one guest between two samples. Times are monotonic. Begin with `Watch()`."""

    numbers: Numbers | None = None
    moved_at_s: float | None = None
    """The time of the last change of its numbers; None before the first."""
    swap_in_bytes_per_s: float = 0.0
    major_faults_per_s: float = 0.0
    pressed_at_s: float | None = None
    stepped_at_s: float | None = None
    stepped_stamp_s: float | None = None
    wanted_at_s: float | None = None


def numbers_of(state: VmState, guest: GuestSnapshot, now_s: float, wall_s: float) -> Numbers | None:
    """Return the guest's numbers: its balloon statistics if they are fresh, else its agent's."""
    said = state.statistics
    by_balloon = None
    if said is not None and said.updated_s and said.available_bytes is not None:
        total = said.total_bytes
        if total is not None and said.available_bytes <= total:
            by_balloon = Numbers(
                said.updated_s,
                total,
                said.available_bytes,
                said.swap_in_bytes,
                said.major_faults,
            )
    if by_balloon is not None and abs(wall_s - by_balloon.stamp_s) <= FRESH_S:
        return by_balloon
    if guest.source in (GuestSource.AGENT, GuestSource.GUEST_AGENT) and guest.age_s is not None:
        total, available = guest.total_bytes, guest.available_bytes
        if total is not None and available is not None and available <= total:
            return Numbers(now_s - guest.age_s, total, available)
    return by_balloon


def noted(watch: Watch, numbers: Numbers | None, now_s: float) -> Watch:
    """Return the watch after a sample of the guest's numbers."""
    before = watch.numbers
    if numbers is None:
        return watch
    if before is None:
        # The first may be of any age; only a second one shows that the guest still answers.
        return replace(watch, numbers=numbers)
    elapsed_s = abs(numbers.stamp_s - before.stamp_s)
    if elapsed_s < _STAMP_MOVED_S:
        return watch
    watch = replace(
        watch,
        numbers=numbers,
        moved_at_s=now_s,
        swap_in_bytes_per_s=_rate(before.swap_in_bytes, numbers.swap_in_bytes, elapsed_s),
        major_faults_per_s=_rate(before.major_faults, numbers.major_faults, elapsed_s),
    )
    return replace(watch, pressed_at_s=now_s) if pressed(watch) else watch


def _rate(before: int | None, now: int | None, elapsed_s: float) -> float:
    return 0.0 if before is None or now is None else max(0, now - before) / elapsed_s


def headroom_bytes(total_bytes: int) -> int:
    """Return the memory that must stay available in a guest of this size."""
    return max(HEADROOM_LEAST_BYTES, total_bytes // HEADROOM_PART)


def pressed(watch: Watch) -> str:
    """Return why the guest is short of memory, in words; "" if it is not."""
    numbers = watch.numbers
    if numbers is None:
        return ""
    least = headroom_bytes(numbers.total_bytes)
    if numbers.available_bytes < least:
        return f"the guest has {size(numbers.available_bytes)} available, below {size(least)}"
    if watch.swap_in_bytes_per_s > SWAP_IN_BYTES_PER_S:
        return f"the guest swaps in {size(int(watch.swap_in_bytes_per_s))} per second"
    if watch.major_faults_per_s > MAJOR_FAULTS_PER_S:
        return f"the guest has {watch.major_faults_per_s:.0f} major faults per second"
    return ""


def must_release(watch: Watch, held_since_s: float, now_s: float) -> str:
    """Return why a lease must be released now, in words; "" if it need not."""
    why = pressed(watch)
    if why:
        return why
    moved_s = now_s - max(watch.moved_at_s or held_since_s, held_since_s)
    if moved_s > STALE_S:
        return f"the guest's numbers have not changed for {span(round(moved_s))}"
    wanted_s = now_s - (held_since_s if watch.wanted_at_s is None else watch.wanted_at_s)
    if wanted_s > UNWANTED_S:
        return f"no request has needed it for {span(round(wanted_s))}"
    return ""


def barred(vm: VmDescription, state: VmState, *, although_reports: bool = False) -> str:
    """Return why no device may take memory from this VM, in words; "" if one may."""
    blockers = (*vm.blockers, *state.blockers)
    if blockers:
        return f"its VMM keeps memory that a guest returns: {blockers[0]}"
    if state.running is False:
        return "it is paused"
    if state.reporting_negotiated is Answer.YES and not although_reports:
        return "it reports its free pages by itself"
    return ""


def not_yet(watch: Watch, now_s: float) -> str:
    """Return why no step may be taken now, in words; "" if one may."""
    if watch.numbers is None or watch.moved_at_s is None:
        return "the guest's numbers have not changed yet"
    if now_s - watch.moved_at_s > FRESH_S:
        return "the guest's numbers are old"
    if watch.stepped_stamp_s is not None and (
        abs(watch.numbers.stamp_s - watch.stepped_stamp_s) < _STAMP_MOVED_S
    ):
        return "the guest has sent no numbers since the last step"
    if watch.pressed_at_s is not None and now_s - watch.pressed_at_s < CALM_AFTER_PRESSURE_S:
        return "the guest was short of memory in the last minute"
    return ""


def step_bytes(
    numbers: Numbers,
    *,
    size_bytes: int,
    goal_bytes: int,
    floor_bytes: int,
    most_bytes: int,
    granule_bytes: int,
) -> int:
    """Return the bytes to take now: 0, or a multiple of `granule_bytes` of at least STEP_LEAST_BYTES.

    `size_bytes` is what the guest has now; `most_bytes` is the most that the device can take.
    """
    keep = int(headroom_bytes(numbers.total_bytes) * MARGIN)
    most = min(
        goal_bytes,
        STEP_MOST_BYTES,
        size_bytes // STEP_PART,
        numbers.available_bytes - keep,
        size_bytes - floor_bytes,
        most_bytes,
    )
    step = most // granule_bytes * granule_bytes
    return step if step >= max(STEP_LEAST_BYTES, granule_bytes) else 0


def stepped(watch: Watch, now_s: float) -> Watch:
    """Return the watch after a step: the next step waits for new numbers of the guest."""
    stamp_s = None if watch.numbers is None else watch.numbers.stamp_s
    return replace(watch, stepped_at_s=now_s, stepped_stamp_s=stamp_s)


def wanted(watch: Watch, now_s: float) -> Watch:
    """Return the watch after a request for memory."""
    return replace(watch, wanted_at_s=now_s)


def is_stuck(watch: Watch, now_s: float) -> bool:
    """Return whether the last step is so old that the guest will not return what is missing of it."""
    return watch.stepped_at_s is not None and now_s - watch.stepped_at_s > STUCK_S
