"""The report delay is low during a pass only, and always restored."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from agent_killed_at_line import killed_at_line
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.errors import AgentError
from giveback_agent.policy import actions as act
from giveback_agent.release import report_delay
from giveback_agent.runtime import run_dir
from giveback_agent.service.executor import Executor
from giveback_agent.service.pass_log import PassLog
from giveback_agent.service.repair import repair_all
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.errors import KernelFileError
from giveback_kernel.page_reporting import ORDER_PATH


def guest(tmp_path: Path, delay: bytes = b"2000\n") -> str:
    return plant(tmp_path, {**GUEST, ORDER_PATH: b"9\n", report_delay.PATH: delay})


def delay_of(root: str) -> str:
    return Path(root + report_delay.PATH).read_text().strip()


def state_of(root: str) -> Path:
    return Path(root + report_delay.STATE_PATH)


def test_lower_and_restore(tmp_path: Path) -> None:
    root = guest(tmp_path)
    assert report_delay.lower(root)
    assert (delay_of(root), state_of(root).read_text()) == ("100", "2000\n")
    assert report_delay.restore(root) == 2000
    assert delay_of(root) == "2000"
    assert not state_of(root).exists()
    assert report_delay.restore(root) is None


@pytest.mark.parametrize("delay", [b"100\n", b"10\n", b"0\n"])
def test_a_delay_that_is_low_already_is_left_alone(tmp_path: Path, delay: bytes) -> None:
    root = guest(tmp_path, delay)
    assert not report_delay.lower(root)
    assert Path(root + report_delay.PATH).read_bytes() == delay
    assert not state_of(root).exists()


def test_a_delay_that_another_process_has_set_meanwhile_is_left_alone(tmp_path: Path) -> None:
    root = guest(tmp_path)
    report_delay.lower(root)
    Path(root + report_delay.PATH).write_text("500\n")
    assert report_delay.restore(root) is None
    assert delay_of(root) == "500"
    assert not state_of(root).exists()


def test_a_kernel_without_the_parameter(tmp_path: Path) -> None:
    root = plant(tmp_path, {})
    assert not report_delay.is_settable(root)
    assert not report_delay.lower(root)
    assert report_delay.restore(root) is None


@pytest.mark.parametrize("delay", [b"soon\n", b"", b"-1\n", b"9" * 30])
def test_nonsense_is_not_lowered(tmp_path: Path, delay: bytes) -> None:
    root = guest(tmp_path, delay)
    with pytest.raises(KernelFileError):
        report_delay.lower(root)
    assert Path(root + report_delay.PATH).read_bytes() == delay
    assert not state_of(root).exists()


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=50)
def test_an_invalid_record_never_becomes_the_delay(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = guest(Path(folder), b"100\n")
        state_of(root).parent.mkdir(parents=True)
        state_of(root).write_bytes(data)
        report_delay.restore(root)
        assert int(delay_of(root)) > report_delay.PASS_DELAY_MS
        if not data.strip().isdigit():
            assert delay_of(root) == "2000"
        assert not state_of(root).exists()


def test_a_record_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    root = guest(tmp_path)
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(AgentError):
        report_delay.lower(root)
    assert delay_of(root) == "2000"


def test_a_kill_at_any_line_is_repaired(tmp_path: Path) -> None:
    root = guest(tmp_path)

    def lower_and_restore() -> None:
        report_delay.lower(root)
        report_delay.restore(root)

    seen = set()
    for number in range(1, 2000):
        killed = killed_at_line(number, lower_and_restore)
        seen.add(delay_of(root))
        repair_all(root)
        assert delay_of(root) == "2000"
        assert not state_of(root).exists()
        if not killed:
            break
    else:
        pytest.fail("it never got to the end")
    assert seen == {"2000", "100"}
    assert number > 20


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_lowered_order_is_reported_without_delay_and_both_come_back(
    tmp_path: Path, dry_run: bool
) -> None:
    root = guest(tmp_path)
    run_dir.make_folder(root)
    chosen = AgentSettings(dry_run=dry_run)
    steps = Executor(root, chosen, PassLog(), lambda _: None, lambda _step, _why: None)
    steps.start(act.LowerOrder(order=0), 0.0)
    assert delay_of(root) == ("2000" if dry_run else "100")
    assert steps.restore() == (None if dry_run else 9)
    assert delay_of(root) == "2000"
    assert not steps.hurried
