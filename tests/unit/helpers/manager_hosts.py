"""Hosts and guests for the arbiter's tests: strategies, and a small host that is simulated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from giveback.host.memory import HostView
from giveback.manager.decide import arbiter
from giveback.manager.decide.arbiter import ArbiterState
from giveback.manager.decide.delivery import Asked
from giveback.manager.model import Decision, GuestView
from giveback.manager.settings.load import ArbiterSettings

MIB = 1 << 20
GIB = 1 << 30
SETTINGS = ArbiterSettings()


def host_of(available_bytes: int, at_s: float = 0.0, total_bytes: int = 16 * GIB) -> HostView:
    return HostView(at_s, total_bytes, available_bytes)


def guest_of(key: str, cold: int = 0, trapped: int = 0, warm: int = 0) -> GuestView:
    """A guest that needs 512 MiB besides; amounts in MiB."""
    cache = (cold + trapped + warm) * MIB
    return GuestView(key, 512 * MIB + cache, trapped * MIB, cold * MIB, warm * MIB)


AMOUNTS = st.integers(0, 8 * GIB)


@st.composite
def guest_views(draw: st.DrawFn) -> GuestView:
    """What `view_of` may give: parts within what is resident."""
    trapped, cold, warm = draw(AMOUNTS), draw(AMOUNTS), draw(AMOUNTS)
    return GuestView(
        key=draw(st.sampled_from([f"vm{number}" for number in range(12)])),
        resident_bytes=trapped + cold + warm + draw(AMOUNTS),
        trapped_bytes=trapped,
        cold_bytes=cold,
        warm_bytes=warm,
        floor_bytes=draw(AMOUNTS),
        weight=draw(st.sampled_from([0.1, 1.0, 1.0, 4.0])),
        fresh=draw(st.sampled_from([True, True, True, False])),
        pressed=draw(st.sampled_from([False, False, False, True])),
        reliability=draw(st.floats(0, 1)),
        asked_at_s=draw(st.none() | st.floats(0, 100)),
    )


@dataclass(frozen=True)
class Remembered:
    """What the manager keeps between two decisions: the arbiter's state, and the requests."""

    arbiter: ArbiterState = field(default_factory=ArbiterState)
    asked: Mapping[str, Asked] = field(default_factory=dict)

    @property
    def urgency(self) -> int:
        return self.arbiter.urgency


def decide(
    host: HostView, guests: list[GuestView], kept: Remembered, settings: ArbiterSettings
) -> tuple[Decision, Remembered]:
    decision, state, asked = arbiter.decide(host, guests, kept.asked, kept.arbiter, settings)
    return decision, Remembered(state, asked)


def arbiter_urgency(decision: Decision, guest: GuestView, kept: Remembered) -> int:
    return arbiter.arbiter_urgency(decision, guest, kept.asked.get(guest.key), kept.arbiter)


def unique(guests: list[GuestView]) -> list[GuestView]:
    return list({guest.key: guest for guest in guests}.values())


@dataclass
class SimulatedHost:
    """A host whose guests answer asks as the agent does: all that the urgency lets go of, by and by."""

    total_bytes: int
    guests: dict[str, GuestView]
    other_bytes: int = 0
    """What is used besides the guests: the hog."""
    gives_bytes_per_s: int = 256 * MIB
    starts_after_s: float = 1.0
    settings: ArbiterSettings = SETTINGS
    now_s: float = 0.0
    state: Remembered = field(default_factory=Remembered)
    decisions: list[Decision] = field(default_factory=list)
    told: dict[str, tuple[int, float]] = field(default_factory=dict)
    warm_taken_bytes: int = 0
    least_available_bytes: int = 1 << 60

    @property
    def available_bytes(self) -> int:
        resident = sum(guest.resident_bytes for guest in self.guests.values())
        return self.total_bytes - resident - self.other_bytes

    def run(self, seconds: float, hog_bytes_per_s: int) -> None:
        """Time passes; the host is looked at when the arbiter said so."""
        end_s, look_at_s, step_s = self.now_s + seconds, self.now_s, 0.125
        while self.now_s < end_s:
            if self.now_s >= look_at_s:
                look_at_s = self.now_s + self._look()
            self.other_bytes += int(hog_bytes_per_s * step_s)
            for key in self.guests:
                self._give(key, step_s)
            self.least_available_bytes = min(self.least_available_bytes, self.available_bytes)
            self.now_s += step_s

    def _look(self) -> float:
        host = host_of(max(0, self.available_bytes), self.now_s, self.total_bytes)
        guests = list(self.guests.values())
        decision, self.state = decide(host, guests, self.state, self.settings)
        self.decisions.append(decision)
        for guest in guests:
            urgency = arbiter_urgency(decision, guest, self.state)
            if self.told.get(guest.key, (-1, 0.0))[0] != urgency:
                self.told[guest.key] = (urgency, self.now_s)
        return decision.look_again_s

    def _give(self, key: str, step_s: float) -> None:
        """Cold and trapped at urgency 1, half of the cache at 2, all of it at 3."""
        urgency, since_s = self.told.get(key, (0, 0.0))
        if urgency < 1 or self.now_s - since_s < self.starts_after_s:
            return
        guest = self.guests[key]
        left = int(self.gives_bytes_per_s * step_s)
        warm_goes = {2: guest.warm_bytes // 64, 3: guest.warm_bytes}.get(urgency, 0)
        trapped = min(left, guest.trapped_bytes)
        cold = min(left - trapped, guest.cold_bytes)
        warm = min(left - trapped - cold, warm_goes)
        self.warm_taken_bytes += warm
        self.guests[key] = replace(
            guest,
            resident_bytes=guest.resident_bytes - trapped - cold - warm,
            trapped_bytes=guest.trapped_bytes - trapped,
            cold_bytes=guest.cold_bytes - cold,
            warm_bytes=guest.warm_bytes - warm,
        )
