"""What both kinds of packages share: a staged root, described for nfpm, and made into files."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from release.release import ReleaseError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from release.release import Release


def package(release: Release, kind: str, about: dict[str, object], target: Path) -> Path:
    """Make one package by its description; `target` is its file, or a folder. Raises ReleaseError."""
    out = release.folder("packages")
    config = release.folder("stage") / "nfpm.json"
    config.write_text(json.dumps(about, indent=1))
    before = set(out.iterdir())
    tool = Path(sys.executable).with_name("nfpm")
    words = ("package", "--config", config, "--packager", kind, "--target", target)
    release.run(tool, *words)
    made = set(out.iterdir()) - before
    if len(made) != 1:
        raise ReleaseError(f"{out}: nfpm made {sorted(path.name for path in made)}, not one {kind}")
    path = made.pop()
    # An index of packages names the file's time.
    os.utime(path, (release.epoch, release.epoch))
    return path


def contents(release: Release, root: Path, owned: Iterable[str]) -> list[dict[str, object]]:
    """Return all files below a staged root, and the folders that are the package's own.

    rpm removes only the folders that a package owns.
    """
    files = sorted(path for path in root.rglob("*") if path.is_file() or path.is_symlink())
    folders: list[dict[str, object]] = [
        {"dst": f"/{path}", "type": "dir", "file_info": _info(0o755, release)} for path in owned
    ]
    return [*folders, *(_content(path, root, release) for path in files)]


def _content(path: Path, root: Path, release: Release) -> dict[str, object]:
    place = f"/{path.relative_to(root)}"
    if path.is_symlink():
        return {"src": str(path.readlink()), "dst": place, "type": "symlink"}
    info = _info(0o755 if path.stat().st_mode & 0o100 else 0o644, release)
    kind = {"type": "config|noreplace"} if place.startswith("/etc/") else {}
    return {"src": str(path), "dst": place, **kind, "file_info": info}


def _info(mode: int, release: Release) -> dict[str, object]:
    return {"mode": mode, "owner": "root", "group": "root", "mtime": time_text(release.epoch)}


def time_text(epoch: int) -> str:
    """Return a Unix time as nfpm reads it."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def scripts(release: Release, folder: Path, kind: str) -> dict[str, str]:
    """Return the path of each script, made of the functions that all share and its own lines."""
    common = (folder / "common.sh").read_text()
    made = {}
    for source in sorted((folder / kind).iterdir()):
        first, _, own = source.read_text().partition("\n")
        path = release.folder(f"stage/scripts/{folder.parent.name}-{kind}") / source.name
        path.write_text(f"{first}\n{common}\n{own}")
        path.chmod(0o755)
        # nfpm takes the file's own time for some of them.
        os.utime(path, (release.epoch, release.epoch))
        made[source.name] = str(path)
    return made
