"""The programs that run in a guest, as zip applications of the standard library only."""

from __future__ import annotations

import io
import zipfile
from importlib import resources

AGENT = "giveback_agent"
KERNEL = "giveback_kernel"
LAB_GUEST = "giveback_lab_guest"
# A zip member's time must not be part of its content, or every build would differ.
FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def agent_zipapp() -> bytes:
    """Return `giveback-agent.pyz`, which runs with any Python >= 3.9."""
    return _zipapp((AGENT, KERNEL), AGENT)


def lab_guest_zipapp() -> bytes:
    """Return the lab's program in the guest, with the agent's parsers."""
    return _zipapp((LAB_GUEST, AGENT, KERNEL), LAB_GUEST)


def _zipapp(packages: tuple[str, ...], main: str) -> bytes:
    buffer = io.BytesIO()
    buffer.write(b"#!/usr/bin/env python3\n")
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        launcher = f"import sys\nfrom {main}.__main__ import main\nsys.exit(main())\n"
        archive.writestr(zipfile.ZipInfo("__main__.py", FIXED_TIME), launcher)
        for package in packages:
            for name, data in sorted(_python_files(package)):
                archive.writestr(zipfile.ZipInfo(name, FIXED_TIME), data)
    return buffer.getvalue()


def _python_files(package: str) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []

    def walk(folder: resources.abc.Traversable, prefix: str) -> None:
        for item in folder.iterdir():
            if item.is_dir() and item.name != "__pycache__":
                walk(item, f"{prefix}{item.name}/")
            elif item.name.endswith(".py"):
                found.append((prefix + item.name, item.read_bytes()))

    walk(resources.files(package), f"{package}/")
    return found
