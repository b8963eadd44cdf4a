"""What `status` says, and what a pass's line claims: never more than is known."""

from __future__ import annotations

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
        (True, True, "500 MiB in reported blocks (order 9 and above), 300 MiB trapped below"),
        (False, True, "not active in this guest (no balloon)"),
        (True, False, "in blocks that this user may not see"),
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
    assert "MiB left in small pieces" in said[-1]
    service._close()
