"""Another user locks all that it can open: the daemon starts all the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from manager_process import Manager
from scripted_guests import Host
from stranger import as_root, locking, public_folder

DEADLINE_S = 60.0


@pytest.fixture
def shared() -> Iterator[Path]:
    with public_folder() as folder:
        yield folder


@as_root
def test_a_daemon_starts_whatever_another_user_has_locked(shared: Path) -> None:
    manager = Manager(Host(shared))
    manager.known.mkdir(mode=0o755)
    with locking(shared) as held:
        assert str(shared) in held  # The socket's folder: everybody may open it.
        with manager.running() as daemon:
            daemon.send_signal(signal.SIGKILL)
            daemon.wait(DEADLINE_S)
    # What a killed daemon leaves is locked, too.
    with locking(shared) as held, manager.running() as daemon:
        assert str(manager.known) in held
        assert not any("lock" in Path(path).name for path in held)
        daemon.terminate()
        assert daemon.wait(DEADLINE_S) == 0
    assert not list(shared.glob("api.sock*"))
