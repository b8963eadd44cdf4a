"""The state of the installed service while no agent holds the lock: starting, failed, or stopped."""

from __future__ import annotations

import subprocess

from giveback_agent.install import init_system, systemd_unit
from giveback_kernel import files
from giveback_kernel.record import Record

STARTING, FAILED, STOPPED = "starting", "failed", "stopped"
ASK_TIMEOUT_S = 5.0
_JOURNAL = f"see journalctl -u {systemd_unit.NAME}"


class ServiceState(Record):
    """The `state`, and its description in `words` with what to do."""

    state: str
    words: str


NOT_INSTALLED = ServiceState(STOPPED, "does not run (start: giveback-agent run)")


def parse(text: str) -> ServiceState:
    """Parse the output of `systemctl show -p ActiveState,SubState`.

    A service that is active for systemd, but holds no lock yet, is starting: on a slow machine Python alone
    takes seconds.
    """
    fields = dict([line.split("=", 1) for line in text.splitlines() if "=" in line])
    active, sub = fields.get("ActiveState", ""), fields.get("SubState", "")
    if active == "activating" and sub == "auto-restart":
        return ServiceState(FAILED, f"has failed, and systemd starts it again: {_JOURNAL}")
    if active in ("active", "activating", "reloading"):
        return ServiceState(STARTING, "starting")
    if active == "failed":
        return ServiceState(FAILED, f"has failed: {_JOURNAL}")
    return ServiceState(STOPPED, f"does not run (start: systemctl start {systemd_unit.NAME})")


def read(root: str) -> ServiceState:
    """Ask systemd for the state if the unit is installed; other init systems are not asked."""
    paths = (systemd_unit.UNIT_PATH, *systemd_unit.PACKAGE_PATHS)
    is_unit = any(files.exists(root, path) for path in paths)
    if not (
        is_unit and init_system.is_live(root) and init_system.find(root) == init_system.SYSTEMD
    ):
        return NOT_INSTALLED
    command = ("systemctl", "show", "--property=ActiveState,SubState", systemd_unit.NAME)
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=ASK_TIMEOUT_S, text=True
        )
    except (OSError, subprocess.TimeoutExpired):
        return NOT_INSTALLED
    return parse(done.stdout) if done.returncode == 0 else NOT_INSTALLED
