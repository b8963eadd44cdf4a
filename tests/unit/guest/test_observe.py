"""A busy agent does not answer each time: its last answer is used while it is not outdated."""

from __future__ import annotations

from dataclasses import replace

import pytest
from observations import GUEST, HOST, MIB, observation

from giveback.accounting.observation import Observation
from giveback.accounting.usage import NO_GUEST, GuestSource
from giveback.guest import observe

BUSY = replace(NO_GUEST, agent_is_there=True, problems=("answers again in 4 s",))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("giveback.guest.observe.time.monotonic", lambda: now[0])
    return now


def test_the_last_answer_is_used_with_its_age(clock: list[float]) -> None:
    last: dict[int, tuple[Observation, float]] = {}
    first = observation()
    assert observe.recalled(first, last) is first
    clock[0] += 5.0
    again = observe.recalled(observation(guest=BUSY), last)
    assert (again.guest.source, again.guest.age_s) == (GuestSource.AGENT, 5.0)
    assert again.ledger is not None
    assert again.ledger.residue_bytes == 350 * MIB


def test_the_last_answer_is_not_used_after_a_large_change_nor_too_late(clock: list[float]) -> None:
    last: dict[int, tuple[Observation, float]] = {}
    observe.recalled(observation(), last)
    smaller = replace(HOST, ram_resident_bytes=HOST.ram_resident_bytes - 100 * MIB)
    for host, later_s, why in ((smaller, 1.0, "has moved by 100 MiB"), (HOST, 90.0, "older than")):
        clock[0] += later_s
        found = observe.recalled(observation(host=host, guest=BUSY), last).ledger
        assert found is not None
        assert found.unknown is not None
        assert why in found.unknown.why


def test_another_vms_answer_is_not_used(clock: list[float]) -> None:
    last: dict[int, tuple[Observation, float]] = {}
    observe.recalled(observation(), last)
    for other in (
        observation("two", guest=BUSY),
        observation(pid=2, guest=BUSY),
        # The agent has ended.
        observation(guest=NO_GUEST),
        observation(guest=replace(GUEST, source=GuestSource.BALLOON)),
        observation(host=None, guest=BUSY),
    ):
        assert observe.recalled(other, last) is other
