"""Recognise the init system of the guest, and run systemd's commands."""

from __future__ import annotations

import subprocess

from giveback_agent.errors import AgentError
from giveback_agent.install import systemd_unit
from giveback_agent.settings import load
from giveback_kernel import files

SYSTEMD = "systemd"
COMMAND_TIMEOUT_S = 120.0
_SIGNS = (
    ("openrc", ("/run/openrc", "/sbin/openrc-run", "/usr/sbin/openrc-run")),
    ("runit", ("/run/runit", "/etc/runit")),
    ("sysvinit", ("/etc/inittab",)),
)
_SYSTEMD_RUNS: tuple[str, ...] = ("/run/systemd/system",)
_SYSTEMD_BINARIES: tuple[str, ...] = ("/usr/lib/systemd/systemd", "/lib/systemd/systemd")


def find(root: str) -> str:
    """Return the init system of the guest under `root`: systemd, wsl, openrc, runit, sysvinit or "".

    systemd is recognised in a running guest by its /run folder, in an image under another root by its
    program.
    """
    marks = _SYSTEMD_RUNS if is_live(root) else _SYSTEMD_BINARIES
    if any(files.exists(root, mark) for mark in marks):
        return SYSTEMD
    if load.detect_wsl(root) is not None:
        return "wsl"
    for name, signs in _SIGNS:
        if any(files.exists(root, sign) for sign in signs):
            return name
    return ""


def has_systemd(root: str) -> bool:
    """Tell whether systemd's programs are there, though it may not run."""
    return any(files.exists(root, path) for path in _SYSTEMD_BINARIES)


def is_live(root: str) -> bool:
    """Tell whether `root` is this running system, not an image or a test's folder."""
    return root in ("", "/")


def start_commands() -> tuple[tuple[str, ...], ...]:
    """Return the commands that start a new unit, or restart a running one."""
    return ("systemctl", "daemon-reload"), ("systemctl", "restart", systemd_unit.NAME)


def stop_command() -> tuple[str, ...]:
    """Return the command that stops the service; the agent then restores the kernel's settings."""
    return "systemctl", "stop", systemd_unit.NAME


def run(command: tuple[str, ...]) -> None:
    """Run one of these commands. Raises AgentError with its output."""
    line = " ".join(command)
    try:
        done = subprocess.run(
            command, capture_output=True, check=False, timeout=COMMAND_TIMEOUT_S, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AgentError(f"{line}: {error}") from error
    if done.returncode:
        output = " ".join((done.stderr or done.stdout).split())[:400]
        raise AgentError(f"{line}: {output or f'exit status {done.returncode}'}")
