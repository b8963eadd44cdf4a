"""Strangers against the daemon as it is installed: its hardened unit under a real systemd."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hardened_host import attacked

if TYPE_CHECKING:
    from giveback_lab.vms.accel import Accel

pytestmark = pytest.mark.timeout(1800)
DAEMON_MEMORY_MOST_KIB = 256 << 10


@pytest.fixture(scope="module")
def came_of_it(accel: Accel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Every attack was played by now; what came of it, by its name."""
    return asyncio.run(attacked(tmp_path_factory.mktemp("host"), accel.name))


def test_the_installed_unit_sees_and_tells_another_user_s_vm(came_of_it: dict[str, Any]) -> None:
    found = came_of_it["installed"]
    assert found["condition"] == "ok", "its process is read, its port connected to, its agent asked"
    assert found["unit"] == [
        "Type=notify",
        "WatchdogUSec=1min",
        "NRestarts=0",
        "ActiveState=active",
    ]
    assert found["metrics"] == "HTTP/1.1 200 OK"
    assert "NoNewPrivs:\t1" in found["process"]
    assert "Seccomp:\t2" in found["process"]
    assert "CapEff:\t0000000000080007" in found["process"], (
        "ptrace, chown and two to pass permissions"
    )


def test_who_may_read_changes_nothing_and_others_do_not_connect(came_of_it: dict[str, Any]) -> None:
    found = came_of_it["api"]
    assert found["reclaim"] == 403
    assert found["other"][0] == 0
    assert "Permission denied" in found["other"][1]
    assert all("Permission denied" in said for said in found["proxy"])


def test_nothing_is_sent_to_a_socket_that_a_stranger_names(came_of_it: dict[str, Any]) -> None:
    found = came_of_it["sockets"]
    assert found["heard"] == ""
    # Cloud Hypervisor's is called by its socket.
    assert {*found["fakes"], "own", "q"} - {"ch"} == set(found["seen"])
    assert "does not listen there" in found["seen"]["qmp"]
    assert len(found["ps"]) == len(found["fakes"]) + 2, "its own VM and the other user's among them"


def test_floods_cost_no_other_vm_its_count(came_of_it: dict[str, Any]) -> None:
    (peak_kib,) = (
        row.split()[1] for row in came_of_it["floods"]["state"] if row.startswith("VmHWM")
    )
    assert int(peak_kib) < DAEMON_MEMORY_MOST_KIB


def test_a_killed_daemon_starts_whatever_another_user_has_locked(
    came_of_it: dict[str, Any],
) -> None:
    found = came_of_it["locks"]
    assert found["held"] > 0
    assert found["restarts"] == 1


def test_a_daemon_that_stands_still_is_replaced_though_its_reader_ignores_every_signal(
    came_of_it: dict[str, Any],
) -> None:
    found = came_of_it["stuck"]
    assert found["watchdog"]
    assert found["waited"] == [], "systemd waited in vain for a process that cannot end"
    assert found["restarts"] == 1
