"""Settings that are read again while the daemon runs: all of them count, or none."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from giveback.errors import InputError
from giveback.manager.daemon import Daemon
from giveback.manager.decide.arbiter import ArbiterState
from giveback.manager.decide.forecast import ForecastSample
from giveback.manager.lifecycle import make_folder_of, take_settings
from giveback.manager.settings.load import from_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from giveback.manager.settings.load import DaemonSettings


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    return Daemon(settings_of(tmp_path, ""), backends=())


@pytest.fixture(autouse=True)
def _level() -> Iterator[None]:
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


def settings_of(folder: Path, more: str) -> DaemonSettings:
    (folder / "a.toml").write_text(more)
    return from_bytes(more.encode(), "test")


def test_a_level_that_is_changed_counts_at_once(daemon: Daemon, tmp_path: Path) -> None:
    settings_of(tmp_path, '[daemon]\nlog_level = "error"\n')
    assert take_settings(daemon, tmp_path / "a.toml")
    assert logging.getLogger().level == logging.ERROR


def test_a_host_that_cannot_be_read_is_refused(daemon: Daemon, tmp_path: Path) -> None:
    settings_of(tmp_path, f'[host]\ncgroup = "{tmp_path}/none"\ncalm_for = "9s"\n')
    assert not take_settings(daemon, tmp_path / "a.toml")
    assert daemon.settings.cgroup is None
    assert daemon.settings.arbiter.calm_for_s != 9
    (problem,) = daemon.status().problems
    assert "there is no such control group" in problem


def test_no_trend_leads_from_one_host_to_another(daemon: Daemon, tmp_path: Path) -> None:
    seen = ArbiterState(2, (ForecastSample(1.0, 1 << 36), ForecastSample(2.0, 1 << 36)), (2.0, 5))
    daemon._arbitration._state = seen
    daemon.reload(settings_of(tmp_path, '[host]\nshort = "5%"\n'))
    assert daemon._arbitration._state == seen
    daemon.reload(settings_of(tmp_path, '[host]\ncgroup = "/sys/fs/cgroup/vms"\n'))
    assert daemon._arbitration._state == ArbiterState(2)


def test_the_sockets_folder_is_made_but_not_what_is_above_it(tmp_path: Path) -> None:
    for _ in range(2):
        make_folder_of(tmp_path / "run/api.sock")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o755
    with pytest.raises(InputError, match=r"daemon\.socket names another"):
        make_folder_of(tmp_path / "no/run/api.sock")
