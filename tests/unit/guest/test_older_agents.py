"""Agents of older commits answer today's host: their recorded bytes, made for its very requests."""

from __future__ import annotations

import pytest
from older_versions import PEERS, said_by_agent

from giveback.accounting.usage import GuestSource
from giveback.guest import protocol

REQUESTS = (
    protocol.ask("memory", 11),
    protocol.ask("memory", 12, by_cgroup=True),
    protocol.urgency(2, 60, 13),
    protocol.urgency(1, 30, 14, protocol.Goal(64 << 20, 5), "reclaim"),
    b'\n{"v":2,"id":15,"ask":"memory"}\n',
    protocol.ask("nothing", 16),
    protocol.ask("pages", 17),
)


def test_the_requests_are_those_that_were_recorded() -> None:
    """If this fails, the host sends something new: record an older agent's answer to it, too."""
    assert REQUESTS[:4] == (
        b'\n{"v":1,"id":11,"ask":"memory"}\n',
        b'\n{"v":1,"id":12,"ask":"memory","cgroups":true}\n',
        b'\n{"v":1,"id":13,"urgency":2,"lease_s":60.0}\n',
        b'\n{"v":1,"id":14,"urgency":1,"lease_s":30.0,"goal_bytes":67108864,"goal_number":5,"by":"reclaim"}\n',
    )
    assert REQUESTS[5:] == (
        b'\n{"v":1,"id":16,"ask":"nothing"}\n',
        b'\n{"v":1,"id":17,"ask":"pages"}\n',
    )


@pytest.mark.parametrize("commit", PEERS)
def test_every_line_of_an_older_agent_is_understood(commit: str) -> None:
    hello, *answers, step = [protocol.parse(line) for line in said_by_agent(commit)]
    assert hello == protocol.Hello("0.1.0")
    assert step == protocol.StepEvent("compact: 12 MiB", "compact")
    assert [type(one).__name__ for one in answers] == [
        "MemoryReport", "MemoryReport", "Taken", "Taken", "AskRefused", "AskRefused",
        "MemoryReport", "Pages",
    ]  # fmt: skip
    assert answers[2:4] == [protocol.Taken(13, 2, 60.0), protocol.Taken(14, 1, 30.0)]
    refusals = [one.text for one in answers if isinstance(one, protocol.AskRefused)]
    assert refusals[0] == "this agent speaks version 1 only"


@pytest.mark.parametrize("commit", PEERS)
def test_an_older_agents_memory_is_counted_and_nothing_is_promised_for_it(commit: str) -> None:
    report = protocol.parse(said_by_agent(commit)[1])
    assert isinstance(report, protocol.MemoryReport)
    guest = protocol.from_agent(report.said, GuestSource.AGENT)
    assert (guest.total_bytes, guest.free_bytes) == (24_684_084 << 10, 21_322_564 << 10)
    assert (guest.would_take_bytes, guest.cache_floor_bytes, guest.stall_percent) == (None,) * 3
    assert guest.cache_in_parts is True
