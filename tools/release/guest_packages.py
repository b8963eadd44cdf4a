"""deb, rpm and apk of the agent, by nfpm: Python sources, a launcher, the unit, a conffile, pages."""

from __future__ import annotations

import json
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
SOURCES = ("giveback_agent", "giveback_kernel")
_PROGRAM = (
    "import sys; from pathlib import Path; from giveback_agent.install import files, systemd_unit\n"
    "out = Path(sys.argv[1]); where = files.layout('/usr')\n"
    "(out / 'launcher').write_bytes(files.launcher(where, '/usr/bin/python3'))\n"
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
        "contents": [_content(path, root, release.epoch) for path in files],
        "overrides": {
            "deb": {"depends": ["python3 (>= 3.9)"], "scripts": _scripts(release, "deb")},
            "rpm": {"depends": ["python3 >= 3.9"], "scripts": _scripts(release, "rpm")},
            "apk": {"depends": ["python3"], "scripts": _scripts(release, "apk")},
        },
        "deb": {"compression": "xz", "fields": {"Bugs": "none"}},
        "rpm": {
            "compression": "xz",
            "group": "System Environment/Daemons",
            "summary": "Returns a VM's unused memory to its host",
        },
    }


def _scripts(release: Release, kind: str) -> dict[str, str]:
    folder = release.tree / PACKAGING / "scripts" / kind
    return {path.name: str(path) for path in sorted(folder.iterdir())}


def _content(path: Path, root: Path, epoch: int) -> dict[str, object]:
    place = f"/{path.relative_to(root)}"
    mode = 0o755 if path.stat().st_mode & 0o100 else 0o644
    info = {"mode": mode, "owner": "root", "group": "root", "mtime": _time(epoch)}
    kind = {"type": "config|noreplace"} if place.startswith("/etc/") else {}
    return {"src": str(path), "dst": place, **kind, "file_info": info}


def _time(epoch: int) -> str:
    from datetime import datetime  # noqa: PLC0415

    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
