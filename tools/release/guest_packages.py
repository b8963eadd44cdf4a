"""deb, rpm and apk of the agent, by nfpm: Python sources, a launcher, the unit, a conffile, pages."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from release import nfpm

if TYPE_CHECKING:
    from pathlib import Path

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
    about, out = description(release, root), release.folder("packages")
    made = [nfpm.package(release, kind, about, out) for kind in KINDS]
    shutil.rmtree(release.out / "stage")
    return sorted(made)


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
    scripts = release.tree / PACKAGING / "scripts"
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
        "mtime": nfpm.time_text(release.epoch),
        "umask": 0o022,
        "contents": nfpm.contents(release, root, OWNED),
        "overrides": {
            "deb": {
                "depends": ["python3 (>= 3.9)"],
                "scripts": nfpm.scripts(release, scripts, "deb"),
            },
            "rpm": {
                "depends": ["python3 >= 3.9"],
                "scripts": nfpm.scripts(release, scripts, "rpm"),
            },
            "apk": {"depends": ["python3"], "scripts": nfpm.scripts(release, scripts, "apk")},
        },
        "apk": {"scripts": nfpm.scripts(release, scripts, "apk-upgrade")},
        "deb": {"compression": "xz", "fields": {"Bugs": "none"}},
        "rpm": {
            "compression": "xz",
            "group": "System Environment/Daemons",
            "summary": "Returns a VM's unused memory to its host",
        },
    }
