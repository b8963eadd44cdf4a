"""The texts of `status` and of a pass's log line: never more than is known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from agent_guests import snapshot
from agent_kernel_samples import GUEST, plant

from giveback_agent.commands import status
from giveback_agent.policy import actions as act
from giveback_agent.release import steps
from giveback_agent.runtime import run_dir
from giveback_agent.service.loop import Service
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.page_reporting import ReportingState
from giveback_kernel.record import replace


@pytest.mark.parametrize(
    ("active", "told", "words"),
    [
        (
            True,
            True,
            "500 MiB in reported blocks (order 9 and above), 300 MiB in small free blocks",
        ),
        (False, True, "not active in this guest (no balloon)"),
        (True, False, "this user may not read the sizes of free blocks: run this as root"),
        (None, True, "whether free page reporting is active in this guest"),
    ],
)
def test_free_memory_is_said_to_be_reported_only_where_it_is(
    active: bool | None, told: bool, words: str
) -> None:
    now = snapshot(1.0, free=800, trapped=300)
    if not told:
        now = replace(now, reportable_bytes=None, trapped_bytes=None, report_order=None)
    lines = status.lines(None, now, None, None, ReportingState(active, "no balloon", 9, True))
    assert [line for line in lines if line.startswith("free") and line.endswith(words)]


def test_what_no_pass_of_reporting_followed_is_not_said_to_be_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(tmp_path, GUEST)
    run_dir.make_folder(str(tmp_path))
    monkeypatch.setattr(steps, "start_reporting", lambda root: f"{root}: no free block of order 4")
    said: list[str] = []
    service = Service(str(tmp_path), AgentSettings(), said.append)
    now = snapshot(1.0)
    for action in (act.BeginPass(), act.LowerOrder(order=0), act.TriggerReporting()):
        service._do(action, now)
    service._start_next(1.0)
    service._do(act.EndPass("done"), now)
    assert "MiB left in small free blocks" in said[-1]
    service._close()


def _said(**busy: object) -> dict[str, object]:
    return {
        "mode": "adaptive", "level": "slack", "urgency": 1, "cold_method": "generations",
        "cache_floor_bytes": 64 << 20, "learned_floor_bytes": 100 << 20,
        "busy": {"waits": "", "next": "", "next_s": 0.0, "steps": 4, "freed_bytes": 90 << 20, **busy},
    }  # fmt: skip


def test_a_guest_at_work_is_told_why_it_waits_and_what_comes_next() -> None:
    said = _said(waits="the last step cost 2.00 s for 8 MiB", next="32 MiB of cold cache")
    text = "\n".join(status.lines(7, snapshot(1.0), said, None, ReportingState(True, "", 9, True)))
    assert (
        "next step: 32 MiB of cold cache, in 0 s at the earliest; why not sooner: the last step cost"
        in text
    )
    assert "4 small steps so far: 90 MiB returned" in text
    idle = status.lines(
        7, snapshot(1.0), _said(next_s=None), None, ReportingState(True, "", 9, True)
    )
    assert not [line for line in idle if line.startswith("busy")]


def test_the_cold_cache_is_told_with_what_is_kept_of_it() -> None:
    now = snapshot(1.0, cache=600)
    text = "\n".join(
        status.lines(7, now, _said(), None, ReportingState(True, "", 9, True), 500 << 20)
    )
    assert "500 of it not used lately" in text
    assert (
        "100 MiB more seem unused, but similar pages were read again; 64 MiB always stay (cacheFloor)"
        in text
    )


@pytest.mark.parametrize("busy", [None, 7, [], {"next_s": "soon"}, {"next_s": 1.0, "steps": None}])
def test_an_invalid_status_file_is_survived(busy: object) -> None:
    said = {**_said(), "busy": busy, "learned_floor_bytes": "much", "cache_floor_bytes": -1}
    assert status.lines(7, snapshot(1.0), said, None, ReportingState(True, "", 9, True))
    judged = {"at_s": busy, "cache_bytes": busy}
    terms = status.terms("/", {**said, "exclude": busy, "judged": judged}, snapshot(1.0).meminfo)
    assert (terms.cache_floor_bytes, terms.learned_floor_bytes, terms.is_judged) == (0, 0, False)


def test_what_is_excluded_is_shown_and_nothing_that_repaints_the_screen() -> None:
    state = ReportingState(True, "", 9, True)
    many = [f"x{n}.service" for n in range(status.PATTERNS_SHOWN + 3)]
    for exclude, words in (
        (["db.service", "a\x1b[2J"], "excluded from reclaim: db.service, a\\x1b[2J"),
        (many, "x7.service and 3 more"),
    ):
        lines = status.lines(1, snapshot(1.0), {"exclude": exclude}, None, state)
        assert any(line.endswith(words) for line in lines)
        assert all(line.isprintable() for line in lines)
    nothings: tuple[object, ...] = ([], None, "text", 7)
    for nothing in nothings:
        lines = status.lines(1, snapshot(1.0), {"exclude": nothing}, None, state)
        assert not any("excluded from" in line for line in lines)


@pytest.mark.parametrize(
    ("by", "left_s", "words"),
    [
        ("reclaim", 40.4, "urgency 1, set by `giveback reclaim` on the host, 40 s left"),
        ("manual", 9.4, "urgency 1, set by an operator on the host, 9 s left"),
        ("command", 1653.4, "urgency 1, set by `giveback-agent urgency`, 27 min left"),
        ("later", 5.4, "urgency 1, set by the host, 5 s left"),
        ("host", -1.0, "urgency 1 (its time is over)"),
        ("", 5.0, "urgency 1 (the agent's own)"),
        (7, 5.0, "urgency 1 (the agent's own)"),
        ("host", None, "urgency 1 (the agent's own)"),
    ],
)
def test_who_set_the_urgency_is_told_and_for_how_long(
    by: object, left_s: float | None, words: str
) -> None:
    until_s = None if left_s is None else time.monotonic() + left_s
    said = {**_said(), "urgency_by": by, "urgency_until_s": until_s}
    lines = status.lines(7, snapshot(1.0), said, None, ReportingState(True, "", 9, True))
    assert f"          mode adaptive, guest is busy, with spare CPU, {words}" in lines
