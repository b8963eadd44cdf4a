"""Settings that are read again while the daemon runs: all of them count, or none."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

import pytest

from giveback.errors import InputError
from giveback.guest import via_daemon
from giveback.manager.daemon import Daemon
from giveback.manager.decide.arbiter import ArbiterState
from giveback.manager.decide.forecast import ForecastSample
from giveback.manager.lifecycle import (
    fixed,
    known_place,
    make_folder_of,
    take_settings,
    watchdog_s,
)
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
    assert "there is no such cgroup" in problem


def test_each_fault_of_refused_settings_is_a_problem_of_its_own(
    daemon: Daemon, tmp_path: Path
) -> None:
    (tmp_path / "a.toml").write_text('[host]\nshort = "lots"\nfloor = 1\n')
    assert not take_settings(daemon, tmp_path / "a.toml")
    first, short, floor = daemon.status().problems
    assert first.endswith("2 settings are wrong:")
    assert short.startswith('settings: host.short: must be a part of memory up to "50%"')
    assert floor.startswith("settings: host.floor: there is no such setting")
    daemon.reload(settings_of(tmp_path, ""))
    assert daemon.status().problems == ()


def test_new_settings_are_decided_by_at_the_next_look(daemon: Daemon, tmp_path: Path) -> None:
    asyncio.run(daemon._decide_if_due())
    assert daemon.status().decision.calm_urgency == 0  # type: ignore[union-attr]
    daemon.reload(settings_of(tmp_path, '[host]\non_calm = "cold"\n'))
    asyncio.run(daemon._decide_if_due())
    assert daemon.status().decision.calm_urgency == 1  # type: ignore[union-attr]


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


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ('[daemon]\nsocket = "/x/api.sock"\n', ["daemon.socket"]),
        ('[daemon]\nstate = "/x"\n', ["daemon.state"]),
        ("[history]\nkeep = false\n", ["history.keep"]),
        ('[history]\npath = "/x/h.db"\n', ["history.path"]),
        ('[daemon]\nmetrics_listen = "127.0.0.1:9"\n[history]\nlimit = "9M"\n',
         ["history.limit", "daemon.metrics_listen"]),
        ('[host]\nshort = "5%"\n', []),
    ],
)  # fmt: skip
def test_what_needs_a_restart_is_named(tmp_path: Path, more: str, named: list[str]) -> None:
    assert sorted(fixed(settings_of(tmp_path, ""), settings_of(tmp_path, more))) == sorted(named)


def test_the_known_place_leads_to_the_sockets_while_the_daemon_runs(tmp_path: Path) -> None:
    folder, other = tmp_path / "run", tmp_path / "elsewhere"
    other.mkdir()
    with socket.socket(socket.AF_UNIX) as api, socket.socket(socket.AF_UNIX) as guests:
        for listener, name in ((api, "api.sock"), (guests, via_daemon.NAME)):
            listener.bind(str(other / name))
            listener.listen()
        with known_place(other / "api.sock", folder):
            assert (folder / "api.sock").readlink() == other / "api.sock"
            assert (folder / via_daemon.NAME).readlink() == other / via_daemon.NAME
            # Another daemon's commands find it by --socket.
            with known_place(tmp_path / "third/api.sock", folder):
                assert (folder / "api.sock").readlink() == other / "api.sock"
            assert (folder / "api.sock").exists()
        assert list(folder.iterdir()) == []
        # Its own place needs no link.
        with known_place(folder / "api.sock", folder):
            assert list(folder.iterdir()) == []


def test_what_a_killed_daemon_left_at_the_known_place_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "dead.sock"))
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(folder / via_daemon.NAME))
    (folder / "api.sock").symlink_to(tmp_path / "dead.sock")
    with known_place(tmp_path / "new/api.sock", folder):
        assert (folder / "api.sock").readlink() == tmp_path / "new/api.sock"
        assert (folder / via_daemon.NAME).readlink() == tmp_path / "new" / via_daemon.NAME
    (folder / "api.sock").symlink_to(tmp_path / "gone")
    # A socket of its own is to be made there.
    with known_place(folder / "api.sock", folder):
        assert not (folder / "api.sock").is_symlink()


@pytest.mark.parametrize(
    ("environment", "period_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 30.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "9" * 5000}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_systemd_hears_twice_in_its_watchdog_s_time(
    environment: dict[str, str], period_s: float | None
) -> None:
    assert watchdog_s(environment, 7) == period_s
