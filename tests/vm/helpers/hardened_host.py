"""A distribution guest as a host: giveback is installed on it as its docs say, for the guest's own Python."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import scripted_guests

from giveback_lab.images.debian_files import WITHOUT_AGENT
from giveback_lab.images.debian_guest import build_distribution_image
from giveback_lab.images.ext4 import disk_bytes_for, make_ext4
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.packages.architecture import host_architecture
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from giveback_lab.images.image import Image

ROOT = Path(__file__).parents[3]
UV = next((str(p) for p in (ROOT / ".tools/bin/uv",) if p.exists()), None) or shutil.which("uv")
PLACE = "/opt/giveback"
PROGRAM = f"{PLACE}/tests/attacks.py"
PYTHON = "3.13"
"""Debian trixie's."""
HELPERS = ("strangers.py", "named_python.py", "stuck_fuse.py")
MIB = 1 << 20
DEADLINE_S = 1500.0
# Compiled Python is kept on the work disk, as it would be where giveback is installed.
MOUNT = f"""
set -e
mkdir -p {PLACE} /mnt/giveback /work/upper /work/scratch
mount -t ext4 -o ro /dev/vdd /mnt/giveback
mount -t overlay -o lowerdir=/mnt/giveback,upperdir=/work/upper,workdir=/work/scratch none {PLACE}
"""


def installed_disk(folder: Path) -> Path:
    """A disk with a virtual environment for PLACE: giveback and what it requires, of the locked versions."""
    if UV is None:
        pytest.skip("uv is not there: `./run` installs it")
    content = folder / "content"
    site = content / f"lib/python{PYTHON}/site-packages"
    _uv(
        *("pip", "install", "--target", str(site), "--python-version", PYTHON),
        *("--python-platform", f"{host_architecture().machine}-unknown-linux-gnu"),
        *("--only-binary", ":all:", "-c", str(ROOT / "requirements.lock")),
        *map(str, _wheels(folder / "dist")),
    )
    (content / "bin").mkdir()
    (content / "bin/python3").symlink_to("/usr/bin/python3")
    (content / "pyvenv.cfg").write_text("home = /usr/bin\n")
    start = f"#!{PLACE}/bin/python3\nfrom giveback.__main__ import main\nraise SystemExit(main())\n"
    (content / "bin/giveback").write_text(start)
    (content / "bin/giveback").chmod(0o755)
    _add_tests(content / "tests")
    disk = folder / "installed.ext4"
    make_ext4(disk, disk_bytes_for(content), content)
    return disk


def _add_tests(into: Path) -> None:
    """What plays the strangers: the contract tests' own, and the guest's program."""
    into.mkdir()
    contract = ROOT / "tests/contract/helpers"
    for name in HELPERS:
        shutil.copyfile(contract / name, into / name)
    shutil.copyfile(Path(__file__).with_name("attacks.py"), into / "attacks.py")
    (into / "guest_process.py").write_text(scripted_guests.PROGRAM)


def _wheels(into: Path) -> list[Path]:
    for package in ("agent", "host"):
        # hatchling is installed: nothing is fetched to build them.
        _uv(
            *("build", "--wheel", "--no-build-isolation", "--python", sys.executable),
            *("--out-dir", str(into), str(ROOT / "packages" / package)),
        )
    return sorted(into.glob("*.whl"))


def _uv(*words: str) -> None:
    done = subprocess.run(
        [str(UV), "-q", *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def host_image(disk: Path) -> Image:
    """The distribution guest, with this disk as its fourth."""
    image = build_distribution_image(kernel_from_packages(None))
    return replace(image, more_disks=(*image.more_disks, disk))


async def attacked(folder: Path, accel: str) -> dict[str, Any]:
    """Boot the host, install giveback, play every attack; return what came of each, by its name."""
    disk = installed_disk(folder)
    image = host_image(disk)
    spec = VmSpec("host", 1536 * MIB, 2, accel, agent_port=False, kernel_arguments=WITHOUT_AGENT)
    found: dict[str, Any] = {}
    lines: list[str] = []

    def keep(line: str) -> None:
        lines.append(line)
        if line.startswith('{"attack"'):
            said = json.loads(line)
            found[said["attack"]] = said

    async with LabVm(spec, image, find_emulator(image.kernel_release)) as vm:
        mounted = await vm.watch(vm.guest.exec("sh", "-c", MOUNT), DEADLINE_S, "mount")
        assert mounted.code == 0, mounted.text
        program = vm.guest.exec(f"{PLACE}/bin/python3", PROGRAM, on_line=keep, timeout_s=DEADLINE_S)
        done = await vm.watch(program, DEADLINE_S, "the attacks")
    assert done.code == 0, "\n".join(lines[-60:])
    return found
