"""All texts about one pass in the guest agree: the kernel log, the journal, `status` and its JSON."""

from __future__ import annotations

import json
import re
from typing import Any

from agent_guests import MIB, snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.commands import status
from giveback_agent.host_link.json_lines import encode
from giveback_agent.policy import actions as act
from giveback_agent.policy.observation import StepOutcome
from giveback_agent.service import pass_log, status_file
from giveback_kernel.page_reporting import ReportingState

ACTIVE = ReportingState(True, "", 9, True)
SIZES = st.integers(0, 900)
KINDS = st.sampled_from(
    [act.Sync, act.ReclaimCold, act.Reclaim, act.ReclaimSlab, act.DrainLists, act.Compact]
)
STEPS = st.lists(st.tuples(KINDS, SIZES, SIZES), max_size=6)


def published(log: pass_log.PassLog) -> dict[str, Any]:
    """Return the log as `status` reads it."""
    said = json.loads(encode({**status_file.log_fields(log), "mode": "adaptive"}))
    assert isinstance(said, dict)
    return said


def a_pass(
    steps: list[tuple[type[act.ReleaseStep], int, int]], deep: bool, end: str
) -> tuple[pass_log.PassLog, list[pass_log.StepRecord], pass_log.PassRecord]:
    """Run a pass with this free memory and these small blocks after each step, in MiB."""
    log, now = pass_log.PassLog(), snapshot(1.0)
    log.start(now, "idle")
    told = []
    for at, (kind, free, small) in enumerate(steps):
        after = snapshot(2.0 + at, free=free, trapped=small)
        told.append(log.note(StepOutcome(kind.kind, True), now, after))
        now = after
    log.deep_order = 0 if deep else None
    record = log.finish(now, end)
    assert record is not None
    return log, told, record


@given(STEPS, st.booleans(), st.sampled_from(["done", "the guest got busy"]))
def test_every_output_says_the_same_of_a_pass(
    steps: list[tuple[type[act.ReleaseStep], int, int]], deep: bool, end: str
) -> None:
    log, journal, record = a_pass(steps, deep, end)
    said = published(log)
    line = pass_log.words(record, pass_log.CLASSIC_LINE)
    shown = [
        one for one in status.lines(7, snapshot(9.0), said, None, ACTIVE) if "MiB freed" in one
    ]
    (document,) = said["last_passes"]
    freed = re.search(r"(-?\d+) MiB of cache and slab freed", line)
    freed_again = re.search(r"(-?\d+) MiB freed, (\d+) MiB ([a-z, ]+), \d", shown[0])
    assert freed is not None
    assert freed_again is not None
    assert int(freed[1]) == int(freed_again[1]) == document["freed_bytes"] // MIB
    # The journal's lines of the steps add up to it, even if the guest allocated memory meanwhile.
    freeing = [one.freed_bytes for one in journal if one.kind in pass_log.FREEING]
    assert document["freed_bytes"] == sum(freeing)
    assert all(one.freed_bytes >= 0 for one in journal)
    small = f"{document['small_after_bytes'] // MIB} MiB {freed_again[3]}"
    assert small in line
    assert freed_again[2] == str(document["small_after_bytes"] // MIB)
    assert document["small_reported"] == ("reported" in line) == (deep and end == "done")


def test_a_guest_that_takes_memory_meanwhile_does_not_make_it_negative() -> None:
    """One pass was once -156 MiB in `status` and 9 MiB in the kernel log."""
    log, _, record = a_pass([(act.ReclaimCold, 809, 300), (act.Sync, 644, 300)], False, "done")
    assert "9 MiB of cache and slab freed" in pass_log.words(record, pass_log.CLASSIC_LINE)
    text = "\n".join(status.lines(7, snapshot(9.0), published(log), None, ACTIVE))
    assert "done: 9 MiB freed" in text


def test_small_blocks_that_were_reported_are_not_called_trapped() -> None:
    log, _, _ = a_pass([(act.ReclaimCold, 800, 300)], True, "done")
    now, said = snapshot(9.0, free=820, trapped=320), published(log)
    text = "\n".join(status.lines(7, now, said, None, ACTIVE))
    assert "320 MiB in small free blocks (all but 20 MiB of them reported by a pass)" in text
    assert "trapped" not in text
    found = status.summary(now, said)
    assert (found["small_free_bytes"], found["trapped_bytes"]) == (320 * MIB, 20 * MIB)
    # An agent that no longer runs reports nothing: its status does not count.
    assert "320 MiB in small free blocks" in "\n".join(status.lines(None, now, said, None, ACTIVE))
    # It is unknown what a stopped pass has reported: none counts.
    log, _, _ = a_pass([(act.ReclaimCold, 800, 300)], True, "the guest got busy")
    assert status.summary(now, published(log))["trapped_bytes"] == 320 * MIB


def test_a_later_pass_without_a_deep_report_keeps_what_was_reported() -> None:
    log, _, _ = a_pass([(act.ReclaimCold, 800, 300)], True, "done")
    for small, expected in ((310, 300), (120, 120)):
        log.start(snapshot(20.0, trapped=small), "idle")
        assert log.finish(snapshot(21.0, trapped=small), "done") is not None
        assert log.small_reported_bytes == expected * MIB
