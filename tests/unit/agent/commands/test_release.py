"""`release` on a fake root: the policy's pass, printed step by step, and the order restored."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from agent_guests import ABLE
from agent_kernel_samples import GUEST, plant

from giveback_agent.commands import release
from giveback_agent.policy import report_hold
from giveback_agent.policy.observation import (
    URGENCY_ALONE,
    KernelCapabilities,
)
from giveback_agent.release import report_order, steps
from giveback_agent.runtime import run_dir
from giveback_agent.service.pass_log import CLASSIC_LINE
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.compaction import PATH as COMPACT_PATH
from giveback_kernel.errors import KernelFileError
from giveback_kernel.page_reporting import ORDER_PATH
from giveback_kernel.record import replace

# Compaction and the order, which a fake root can have. The writes for cache are tested in real guests.
CAN = replace(ABLE, reclaim=False, drop_caches=False, cold_method="none", drain=False)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A guest where the kernel takes no time to report."""
    plant(tmp_path, {**GUEST, COMPACT_PATH: b""})
    run_dir.make_folder(str(tmp_path))
    monkeypatch.setattr(report_hold, "DRAIN_S", 0.0)
    monkeypatch.setattr(steps, "start_reporting", lambda _: "")
    return str(tmp_path)


def order(root: str) -> int:
    return int(Path(root + ORDER_PATH).read_text())


def run(
    root: str, *, deep: bool, chosen: AgentSettings | None = None, able: KernelCapabilities = CAN
) -> int:
    settings, can = release.asked_for(deep, chosen or AgentSettings(), able)
    return release.Foreground(root, settings, can, CLASSIC_LINE).run(URGENCY_ALONE)


def test_each_step_is_told_and_the_order_is_as_it_was(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, deep=True) == 0
    told = capsys.readouterr().out
    assert "compact      0 MiB made contiguous" in told
    assert "report order 9 -> 0" in told
    assert CLASSIC_LINE in told
    assert Path(root + COMPACT_PATH).read_text() == "1"
    assert order(root) == 9


def test_without_deep_the_order_is_not_touched(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(root, deep=False) == 0
    assert "report order" not in capsys.readouterr().out


def test_draining_is_printed_and_its_failure_does_not_end_the_pass(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    able = replace(CAN, drain=True)
    assert run(root, deep=False, able=able) == 1
    told = capsys.readouterr().out
    assert "drain        failed" in told
    assert "made contiguous" in told
    monkeypatch.setattr(steps, "drain_lists", lambda _: "")
    assert run(root, deep=False, able=able) == 0
    assert "drain        0 MiB freed" in capsys.readouterr().out


def test_a_dry_run_writes_nothing(root: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, deep=True, chosen=AgentSettings(dry_run=True)) == 0
    told = capsys.readouterr().out
    assert "(dry run) report order 9 -> 0" in told
    assert "nothing was changed" in told
    assert Path(root + COMPACT_PATH).read_text() == ""
    assert order(root) == 9


def test_ctrl_c_while_the_kernel_reports_puts_the_order_back(
    root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: str) -> str:
        assert order(root) == 0
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "start_reporting", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(root, deep=True)
    assert order(root) == 9
    assert not Path(root + report_order.STATE_PATH).exists()


def test_an_order_that_cannot_be_lowered_is_told_and_the_rest_is_done(
    root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(path: str, order: int) -> int:
        raise KernelFileError(path, f"{order} refused")

    monkeypatch.setattr(report_order, "lower", refuse)
    assert run(root, deep=True) == 1
    told = capsys.readouterr().out
    assert "deep         failed" in told
    assert "made contiguous" in told


@pytest.mark.parametrize(
    ("can", "chosen", "words"),
    [
        (replace(CAN, reporting=False), AgentSettings(), "page reporting is not active"),
        (replace(CAN, compaction=False), AgentSettings(), "run as root"),
        (replace(CAN, order_settable=False), AgentSettings(), "its order cannot be set"),
        (CAN, AgentSettings(idle_threshold=0), "the settings forbid it"),
        (CAN, AgentSettings(page_reporting=False), "deep         left out: the settings forbid it"),
        (CAN, AgentSettings(), "cannot be reclaimed by this user"),
    ],
)
def test_what_is_left_out_is_said(
    can: KernelCapabilities, chosen: AgentSettings, words: str
) -> None:
    assert any(words in line for line in release.left_out(True, chosen, can))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_a_deep_pass_the_order_is_restored(tmp_path: Path, number: int) -> None:
    root = plant(tmp_path, GUEST)
    program = (
        "import os, signal, sys\n"
        # Under nohup it stays ignored.
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from giveback_agent.release import capabilities, report_order, steps\n"
        "from giveback_agent.policy.observation import KernelCapabilities\n"
        "from giveback_agent.commands import release\n"
        "release.probe = lambda *_: KernelCapabilities(True, 9, True, False, False, False)\n"
        "lower = report_order.lower\n"
        "def lowered(root, order):\n"
        "    lower(root, order)\n"
        f"    os.kill(os.getpid(), {int(number)})\n"
        "report_order.lower = lowered\n"
        "from giveback_agent.__main__ import main\n"
        "sys.exit(main(['--root', sys.argv[1], 'release', '--deep']))\n"
    )
    done = subprocess.run([sys.executable, "-c", program, root], check=False, timeout=60)
    assert done.returncode == 130
    assert (tmp_path / ORDER_PATH[1:]).read_text().strip() == "9"
