"""The reason why too few bytes came, and whether the VM is blamed for it."""

from __future__ import annotations

from dataclasses import replace

from giveback.accounting.diagnosis import Finding, Severity
from giveback.manager.decide.shortfall import AgentAnswer, shortfall_of

MIB = 1 << 20
IDLE = AgentAnswer(hears=True, learned_floor_bytes=512 * MIB, returnable_bytes=8 * MIB)
REPORTING_OFF = Finding(Severity.KEEPS, "free page reporting is off", "no option", "")


def test_an_idle_guest_that_keeps_its_floor_is_not_called_busy() -> None:
    short = shortfall_of(1, IDLE, ())
    assert "keeps 512 MiB of cold cache" in short.why
    assert "busy" not in short.why
    assert short.is_excused


def test_the_floor_is_no_reason_where_it_does_not_hold() -> None:
    assert "keeps 512" not in shortfall_of(2, IDLE, ()).why
    much = replace(IDLE, returnable_bytes=1488 * MIB)
    assert "keeps 512" not in shortfall_of(1, much, ()).why


def test_what_keeps_memory_on_the_host_comes_first() -> None:
    short = shortfall_of(1, IDLE, (REPORTING_OFF,))
    assert short.why == "free page reporting is off (no option)"
    assert not short.is_excused


def test_each_answer_has_its_reason() -> None:
    plain = AgentAnswer(hears=True)
    assert "no longer answers" in shortfall_of(1, replace(plain, hears=False), ()).why
    assert "guest itself became short" in shortfall_of(3, replace(plain, is_pressed=True), ()).why
    assert "started no pass at urgency 2" in shortfall_of(2, plain, ()).why
    # Otherwise an agent that never does anything would never be shown.
    assert not shortfall_of(2, plain, ()).is_excused
    working = replace(plain, has_begun=True, step="compact: 90 MiB are trapped")
    assert "compact: 90 MiB" in shortfall_of(2, working, ()).why
