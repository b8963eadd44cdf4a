"""deb, rpm and apk of the agent, by nfpm: Python sources, a launcher, the unit, a conffile, pages."""

from __future__ import annotations

import json
import os
import shutil
import sys
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING

from release.release import ReleaseError

if TYPE_CHECKING:
    from release.release import Release

KINDS = ("deb", "rpm", "apk")
PACKAGING = "packaging/agent"
FOLDER = "usr/lib/giveback"
LAUNCHER = "usr/bin/giveback-agent"
OWNED = ("usr/share/doc/giveback-agent",)
"""Folders that rpm removes only if they are the package's own; the scripts remove that of the program."""
SOURCES = ("giveback_agent", "giveback_kernel")
_PROGRAM = (
    "import sys; from pathlib import Path; from giveback_agent.install import files, systemd_unit\n"
    "out = Path(sys.argv[1]); where = files.layout('/usr')\n"
    "by = 'apt, dnf or apk'\n"
    "(out / 'launcher').write_bytes(files.launcher(where, '/usr/bin/python3', by))\n"
    "(out / 'unit').write_text(systemd_unit.unit(where.launcher))\n"
)


def build(release: Release) -> list[Path]:
    """Build the agent's packages; return their files. Raises ReleaseError."""
    root = stage(release, release.folder("stage"))
    config = release.out / "stage" / "nfpm.json"
    config.write_text(json.dumps(description(release, root), indent=1))
    out, nfpm = release.folder("packages"), Path(sys.executable).with_name("nfpm")
    for kind in KINDS:
        release.run(nfpm, "package", "--config", config, "--packager", kind, "--target", f"{out}/")
    shutil.rmtree(release.out / "stage")
    made = sorted(out.iterdir())
    if len(made) != len(KINDS):
        raise ReleaseError(
            f"{out}: {[path.name for path in made]}, not one file of each of {KINDS}"
        )
    return made


def stage(release: Release, scratch: Path) -> Path:
    """Lay the files out as they are installed; return that root."""
    root = scratch / "root"
    for package in SOURCES:
        shutil.copytree(release.tree / "src" / package, root / FOLDER / package)
    release.python("-c", _PROGRAM, scratch)
    for made, path, mode in (
        ("launcher", LAUNCHER, 0o755),
        ("unit", "usr/lib/systemd/system/giveback-agent.service", 0o644),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(scratch / made, root / path)
        (root / path).chmod(mode)
    for source, path in (
        (release.tree / PACKAGING / "giveback.conf", "etc/giveback.conf"),
        (release.tree / "LICENSE", "usr/share/doc/giveback-agent/copyright"),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, root / path)
    pages = release.out / "pages" / "giveback-agent"
    if pages.is_dir():
        shutil.copytree(pages, root, dirs_exist_ok=True)
    return root


def description(release: Release, root: Path) -> dict[str, object]:
    """Return nfpm's description of the package, for all kinds."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {
        "name": "giveback-agent",
        "arch": "all",
        "platform": "linux",
        "version": release.version,
        "release": "1",
        "section": "admin",
        "priority": "optional",
        "maintainer": "The giveback developers <giveback@invalid>",
        "description": "Returns a VM's unused memory to its host\n"
        "The agent in the guest: when the guest is idle, it gives free memory and cold\n"
        "page cache back to the host, and takes nothing that is in use.",
        "license": "Apache-2.0",
        "mtime": _time(release.epoch),
        "umask": 0o022,
        "contents": [
            *(
                {"dst": f"/{path}", "type": "dir", "file_info": _info(0o755, release)}
                for path in OWNED
            ),
            *(_content(path, root, release) for path in files),
        ],
        "overrides": {
            "deb": {"depends": ["python3 (>= 3.9)"], "scripts": _scripts(release, "deb")},
            "rpm": {"depends": ["python3 >= 3.9"], "scripts": _scripts(release, "rpm")},
            "apk": {"depends": ["python3"], "scripts": _scripts(release, "apk")},
        },
        "apk": {"scripts": _scripts(release, "apk-upgrade")},
        "deb": {"compression": "xz", "fields": {"Bugs": "none"}},
        "rpm": {
            "compression": "xz",
            "group": "System Environment/Daemons",
            "summary": "Returns a VM's unused memory to its host",
        },
    }


def _scripts(release: Release, kind: str) -> dict[str, str]:
    """Return the path of each script, made of the functions that all share and its own lines."""
    scripts = release.tree / PACKAGING / "scripts"
    common = (scripts / "common.sh").read_text()
    made = {}
    for source in sorted((scripts / kind).iterdir()):
        first, _, own = source.read_text().partition("\n")
        path = release.folder(f"stage/scripts/{kind}") / source.name
        path.write_text(f"{first}\n{common}\n{own}")
        path.chmod(0o755)
        # nfpm takes the file's own time for some of them.
        os.utime(path, (release.epoch, release.epoch))
        made[source.name] = str(path)
    return made


def _content(path: Path, root: Path, release: Release) -> dict[str, object]:
    place = f"/{path.relative_to(root)}"
    info = _info(0o755 if path.stat().st_mode & 0o100 else 0o644, release)
    kind = {"type": "config|noreplace"} if place.startswith("/etc/") else {}
    return {"src": str(path), "dst": place, **kind, "file_info": info}


def _info(mode: int, release: Release) -> dict[str, object]:
    return {"mode": mode, "owner": "root", "group": "root", "mtime": _time(release.epoch)}


def _time(epoch: int) -> str:
    from datetime import datetime  # noqa: PLC0415

    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
