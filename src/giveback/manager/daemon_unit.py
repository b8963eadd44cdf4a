"""Signatures first; the body follows."""

from __future__ import annotations

NAME = "giveback-daemon.service"
UNIT_PATH = f"/etc/systemd/system/{NAME}"
STATE_FOLDER = "/var/lib/giveback-daemon"
RUNTIME_FOLDER = "/run/giveback-daemon"
SETTINGS_PATH = "/etc/giveback/giveback.toml"


def unit_text(program: str) -> str:
    """The systemd unit that runs `program daemon`; `program` is giveback's full path."""
    return program
