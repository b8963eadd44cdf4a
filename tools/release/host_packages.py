"""deb and rpm of the host's part: giveback and all that it requires, in a folder of their own.

numpy and pydantic-core are compiled, so there is one package for each Python and machine. The
distribution's own Python runs it; what it requires comes from the lock, by its hashes.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from release import bill_of_materials, nfpm
from release.release import ReleaseError, run_tool

if TYPE_CHECKING:
    from release.release import Release

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGING = "packaging/host"
FOLDER = "usr/lib/giveback-host"
SOURCES = ("giveback", "giveback_agent", "giveback_kernel")
OWNED = ("usr/share/doc/giveback", "etc/giveback")
_MACHINES = {"amd64": "x86_64-manylinux_2_28", "arm64": "aarch64-manylinux_2_28"}
_LAUNCHER = """\
#!/usr/bin/python{python} -IB
# giveback {version}: apt or dnf removes it. Without -S: the distribution's libvirt module is used.
import sys
sys.path.insert(0, "/{folder}")
from giveback.__main__ import main
sys.exit(main())
"""
_PROGRAM = (
    "import sys; from pathlib import Path; from importlib import resources\n"
    "from giveback.manager.systemd_unit import unit_text\n"
    "out = Path(sys.argv[1]); (out / 'unit').write_text(unit_text('/usr/bin/giveback'))\n"
    "text = resources.files('giveback.manager').joinpath('data/giveback.toml').read_text()\n"
    "(out / 'settings').write_text(text)\n"
)
_SET = {
    '#socket_group = ""\n': 'socket_group = "giveback"\n',
    "#read = []\n": 'read = ["@giveback"]\n',
}
"""What the package sets in the settings' template: its group may look, and root alone acts."""
_PRUNED = ("tests", "__pycache__", "bin", "sample_data")


@dataclass(frozen=True, slots=True)
class Target:
    """A Python of a distribution and a machine, as Debian names it."""

    python: str
    machine: str

    @property
    def name(self) -> str:
        """Its name on the command line: `3.11-amd64`."""
        return f"{self.python}-{self.machine}"


TARGETS = tuple(
    Target(python, machine) for machine in _MACHINES for python in ("3.11", "3.12", "3.13")
)
"""Debian 12, Ubuntu 24.04 and RHEL 10, Debian 13 and Fedora 41."""


def build(release: Release) -> list[Path]:
    """Build all of them; return their files. Raises ReleaseError."""
    return [path for target in TARGETS for path in build_one(release, target)]


def build_one(release: Release, target: Target) -> list[Path]:
    """Build the deb and the rpm of one target."""
    root = stage(release, release.folder("stage") / target.name, target)
    out, version, made = release.folder("packages"), release.version, []
    for kind, machine, file in (
        ("deb", target.machine, f"giveback_{version}-1+py{target.python}_{{}}.deb"),
        ("rpm", {"amd64": "x86_64", "arm64": "aarch64"}[target.machine],
         f"giveback-{version}-1.py{target.python.replace('.', '')}.{{}}.rpm"),
    ):  # fmt: skip
        about = description(release, root, target)
        made.append(nfpm.package(release, kind, about, out / file.format(machine)))
    shutil.rmtree(release.out / "stage")
    return made


def stage(release: Release, scratch: Path, target: Target) -> Path:
    """Lay the files out as they are installed; return that root."""
    root = scratch / "root"
    vendor(release, root / FOLDER, target)
    for package in SOURCES:
        shutil.copytree(release.tree / "src" / package, root / FOLDER / package)
    release.python("-c", _PROGRAM, scratch)
    settings = (scratch / "settings").read_text()
    for line, wanted in _SET.items():
        if settings.count(line) != 1:
            raise ReleaseError(f"manager/data/giveback.toml: {line!r} is not there once")
        settings = settings.replace(line, wanted)
    launcher = _LAUNCHER.format(python=target.python, version=release.version, folder=FOLDER)
    for path, text in (
        ("usr/bin/giveback", launcher),
        ("usr/lib/systemd/system/giveback-daemon.service", (scratch / "unit").read_text()),
        ("usr/lib/sysusers.d/giveback.conf", "g giveback - -\n"),
        ("etc/giveback/giveback.toml", settings),
        ("usr/share/doc/giveback/copyright", (release.tree / "LICENSE").read_text()),
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o755 if path.startswith("usr/bin/") else 0o644)
    pages = release.out / "pages" / "giveback"
    if pages.is_dir():
        shutil.copytree(pages, root, dirs_exist_ok=True)
    return root


def vendor(release: Release, folder: Path, target: Target) -> None:
    """Install what giveback requires into a folder, by the lock's hashes. Raises ReleaseError."""
    uv = shutil.which("uv") or str(REPOSITORY / ".tools/bin/uv")
    needed = bill_of_materials.needed_by(release, target.python)
    lock = folder.parent / "requirements.lock"
    folder.mkdir(parents=True)
    blocks = bill_of_materials.blocks((release.tree / "requirements.lock").read_text())
    lock.write_text("\n".join(text for name, text in blocks if name in needed) + "\n")
    run_tool(
        uv, "pip", "install", "--quiet", "--target", folder, "--python-version", target.python,
        "--python-platform", _MACHINES[target.machine], "--no-deps", "--only-binary", ":all:",
        "--require-hashes", "--requirements", lock, "--link-mode", "copy",
        cwd=release.tree, environment=os.environ,
    )  # fmt: skip
    lock.unlink()
    for path in sorted(folder.rglob("*"), reverse=True):
        # Of no use there, a third of the size, or different in each build.
        if path.is_dir() and path.name in _PRUNED:
            shutil.rmtree(path)
        elif path.name in (".lock", "RECORD", "INSTALLER", "uv_cache.json", "REQUESTED"):
            path.unlink()


def description(release: Release, root: Path, target: Target) -> dict[str, object]:
    """Return nfpm's description of the package, for both kinds."""
    scripts = release.tree / PACKAGING / "scripts"
    python = f"python{target.python}"
    return {
        "name": "giveback",
        "arch": target.machine,
        "platform": "linux",
        "version": release.version,
        "release": "1",
        "version_metadata": f"py{target.python}",
        "section": "admin",
        "priority": "optional",
        "maintainer": "The giveback developers <giveback@invalid>",
        "description": "Returns VMs' unused memory to their host\n"
        "The host's part: it says where every byte of a VM is, knows how badly the host\n"
        "needs memory, and asks guests for it.",
        "license": "Apache-2.0",
        "mtime": nfpm.time_text(release.epoch),
        "umask": 0o022,
        "contents": nfpm.contents(release, root, OWNED),
        "overrides": {
            "deb": {
                "depends": [python],
                "recommends": ["python3-libvirt"],
                "scripts": nfpm.scripts(release, scripts, "deb"),
            },
            "rpm": {
                "depends": [f"/usr/bin/{python}"],
                "scripts": nfpm.scripts(release, scripts, "rpm"),
            },
        },
        "deb": {"compression": "zstd", "fields": {"Bugs": "none"}},
        "rpm": {
            "compression": "zstd",
            "group": "System Environment/Daemons",
            "summary": "Returns VMs' unused memory to their host",
        },
    }
