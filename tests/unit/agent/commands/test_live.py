"""`status --watch`: the four parts add up, and a running pass is shown with its steps."""

from __future__ import annotations

import json
import os
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
from agent_guests import snapshot
from agent_kernel_samples import GUEST, plant
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.commands import _live, status
from giveback_agent.errors import AgentError
from giveback_agent.policy.observation import StepOutcome
from giveback_agent.service.pass_log import PassLog
from giveback_agent.service.status_file import changes, running_fields
from giveback_kernel.page_reporting import ReportingState

MIB = 1 << 20
ACTIVE = ReportingState(True, "", 9, True)
AMOUNT = st.integers(0, 1 << 45)


def test_the_parts_add_up_to_the_guests_memory() -> None:
    now = snapshot(1.0, free=800, trapped=300, cache=500)
    found = _live.parts(now, 300 * MIB, True)
    assert sum(part or 0 for part in found) == now.meminfo.mem_total_bytes
    assert found[1:] == (500 * MIB, 300 * MIB, 500 * MIB)
    # Without reporting nothing is given back.
    assert _live.parts(now, 300 * MIB, False)[2:] == (800 * MIB, 0)
    assert _live.parts(now, None, True)[2:] == (None, None)


@given(AMOUNT, AMOUNT, st.none() | AMOUNT, st.none() | AMOUNT, st.integers(1, 1 << 45))
def test_the_bar_is_never_longer_than_all_of_the_memory(
    needed: int, cache: int, trapped: int | None, returned: int | None, total: int
) -> None:
    bar, words = _live.parts_lines((needed, cache, trapped, returned), total)
    assert len(bar.rpartition(" ")[2]) == _live.BAR_CELLS
    assert ("?" in words) == (trapped is None or returned is None)


def test_a_running_pass_is_told_with_its_steps_and_the_one_that_runs() -> None:
    log = PassLog()
    assert running_fields(log) is None
    log.start(snapshot(1.0), "the guest is idle")
    log.note(StepOutcome("sync", True, took_s=0.5), snapshot(1.0), snapshot(2.0))
    log.doing = "compact memory"
    said: dict[str, Any] = json.loads(json.dumps({"mode": "adaptive", "pass": running_fields(log)}))
    shown = "\n".join(status.live_lines(snapshot(3.0), said, 7, ACTIVE))
    assert "a pass runs since" in shown
    assert "the guest is idle" in shown
    assert "sync done: 0 MiB in 0.5 s" in shown
    assert "> compact memory" in shown
    assert status.live_document(snapshot(3.0), said, 7, ACTIVE)["pass"] == said["pass"]
    log.finish(snapshot(4.0), "done")
    assert running_fields(log) is None


def test_each_step_is_published() -> None:
    log = PassLog()
    seen = [changes({}, log, _State(), _Activity())[0]]  # type: ignore[arg-type]
    log.start(snapshot(1.0), "idle")
    seen.append(changes({}, log, _State(), _Activity())[0])  # type: ignore[arg-type]
    log.doing = "sync"
    seen.append(changes({}, log, _State(), _Activity())[0])  # type: ignore[arg-type]
    log.note(StepOutcome("sync", True), snapshot(1.0), snapshot(2.0))
    seen.append(changes({}, log, _State(), _Activity())[0])  # type: ignore[arg-type]
    assert len({str(one) for one in seen}) == len(seen)


class _Floor:
    learned_bytes = 0


class _State:
    busy = judged = None
    floor = _Floor()


class _Activity:
    level = "idle"


@pytest.mark.parametrize(
    "damaged", [None, 5, [], {}, {"steps": 5}, {"steps": [1, {}, {"kind": 5}]}, {"started_s": "x"}]
)
def test_a_damaged_status_file_ends_nothing(damaged: object) -> None:
    shown = _live.pass_lines(damaged, time.monotonic())
    assert shown[0].startswith("now ")
    assert status.live_lines(snapshot(1.0), {"pass": damaged}, 7, ACTIVE)
    assert status.live_lines(snapshot(1.0), None, None, ACTIVE)[-1] == "agent     does not run"


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", "", "1e9"])
def test_a_period_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(AgentError, match="--watch"):
        status.run(Namespace(root="/", watch=text, json=False))


def test_it_repeats_one_object_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant(tmp_path, GUEST)
    turns = []

    def stop(seconds: float) -> None:
        turns.append(seconds)
        if len(turns) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        status.run(Namespace(root=str(tmp_path), watch="3", json=True))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert turns == [3.0, 3.0]
    assert len(lines) == 2
    assert lines[0]["needed_bytes"] + lines[0]["cache_bytes"] <= lines[0]["mem_total_bytes"]
    assert os.linesep not in json.dumps(lines[0])
