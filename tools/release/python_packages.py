"""Wheels and source archives of the three distributions, and the agent's zip application."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from release.release import ReleaseError

if TYPE_CHECKING:
    from pathlib import Path

    from release.release import Release

DISTRIBUTIONS = ("agent", "host", "lab")
# What check-wheel-contents says of a wheel with several packages of its own, which are meant: W009.
_IGNORED = "W009"


def build(release: Release) -> list[Path]:
    """Build and check them; return the files. Raises ReleaseError."""
    out = release.folder("python")
    for name in DISTRIBUTIONS:
        place = release.tree / "packages" / name
        words = ("-m", "hatchling", "build", "-d", str(out))
        release.run(sys.executable, *words, cwd=place)
    made = sorted((*out.glob("*.whl"), *out.glob("*.tar.gz")))
    if len(made) != 2 * len(DISTRIBUTIONS):
        raise ReleaseError(
            f"{out}: {len(made)} files, not {2 * len(DISTRIBUTIONS)}: build into an empty folder"
        )
    release.python("-m", "twine", "check", "--strict", *made)
    wheels = [path for path in made if path.suffix == ".whl"]
    release.python("-m", "check_wheel_contents", "--ignore", _IGNORED, *wheels)
    return [*made, zipapp(release)]


def zipapp(release: Release) -> Path:
    """Write the agent's zip application, for any Python >= 3.9."""
    path = release.folder("python") / f"giveback-agent-{release.version}.pyz"
    program = (
        "import sys; from pathlib import Path; from giveback.guest.zipapps import agent_zipapp; "
        "Path(sys.argv[1]).write_bytes(agent_zipapp())"
    )
    release.python("-c", program, path)
    path.chmod(0o755)
    return path
