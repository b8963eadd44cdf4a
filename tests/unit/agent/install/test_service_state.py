"""The state of the service before it holds its lock."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_guests import snapshot
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.commands import status
from giveback_agent.install import service_state
from giveback_agent.install.service_state import FAILED, NOT_INSTALLED, STARTING, STOPPED
from giveback_kernel.page_reporting import ReportingState


@pytest.mark.parametrize(
    ("active", "sub", "state", "words"),
    [
        ("active", "running", STARTING, "starting"),
        ("activating", "start", STARTING, "starting"),
        ("activating", "auto-restart", FAILED, "systemd starts it again: see journalctl"),
        ("failed", "failed", FAILED, "has failed: see journalctl -u giveback-agent.service"),
        ("inactive", "dead", STOPPED, "start: systemctl start giveback-agent.service"),
        ("", "", STOPPED, "does not run"),
    ],
)
def test_each_state_of_systemds_is_told(active: str, sub: str, state: str, words: str) -> None:
    found = service_state.parse(f"ActiveState={active}\nSubState={sub}\n")
    assert found.state == state
    assert words in found.words
    shown = status.lines(
        None, snapshot(1.0), None, None, ReportingState(True, "", 9, True), 0, found
    )
    assert shown[0] == f"agent     {found.words}"


@given(st.text())
def test_whatever_systemctl_prints_is_a_state(text: str) -> None:
    assert service_state.parse(text).state in (STARTING, FAILED, STOPPED)


def test_where_systemd_has_no_such_service_it_is_not_asked(tmp_path: Path) -> None:
    assert service_state.read(str(tmp_path)) == NOT_INSTALLED
