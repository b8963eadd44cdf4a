"""The deb in a booted Debian guest: over an agent of `install`, upgraded, removed, purged."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from giveback_lab.images.debian_guest import build_distribution_image
from giveback_lab.images.ext4 import disk_bytes_for, make_ext4
from giveback_lab.images.image import GUEST_AGENT
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.agent import wait_until_it_serves
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from giveback_lab.vms.accel import Accel

ROOT = Path(__file__).parents[2]
MIB = 1 << 20
DEADLINE_S = 300.0
DEB = "/mnt/release/agent.deb"
MOUNT = "mkdir -p /mnt/release && mount -t ext4 -o ro /dev/vdd /mnt/release"
OURS = """
find / -xdev \\( -iname '*giveback*' -o -path '*/giveback/*' \\) -not -path '/proc/*' -not -path '/mnt/*' \\
    -not -path '/var/lib/dpkg/*' -not -path '/var/log/*' -not -name 'giveback-lab*' \\
    -not -path '*/giveback_lab*' -not -path '*giveback-agent-install*' -not -path '/work/*' | sort
"""
pytestmark = [
    pytest.mark.timeout(1800),
    pytest.mark.skipif(
        not (ROOT / ".git").exists() or shutil.which("git") is None,
        reason="a package is built of a commit",
    ),
]


def package_disk(folder: Path) -> Path:
    """A disk with the deb, built as a release builds it."""
    out, content = folder / "release", folder / "content"
    subprocess.run(
        [sys.executable, "-m", "release", "build", str(out), "--only", "pages,packages"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")}, check=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    content.mkdir()
    (deb,) = out.glob("packages/*.deb")
    shutil.copyfile(deb, content / "agent.deb")
    disk = folder / "package.ext4"
    make_ext4(disk, disk_bytes_for(content), content)
    return disk


async def ran(vm: LabVm, command: str, code: int = 0) -> str:
    call = vm.guest.exec("sh", "-c", command, timeout_s=DEADLINE_S)
    done = await vm.watch(call, DEADLINE_S, command[:40])
    assert done.code == code, f"{command}: {done.code}: {done.text}"
    return done.text


async def taken_over(vm: LabVm) -> None:
    """The agent of `install` is gone, the package's runs, with the settings that were there."""
    await wait_until_it_serves(vm)
    await ran(vm, "printf '[giveback]\\ncacheFloor=96MB\\n' > /etc/giveback.conf")
    said = await ran(vm, f"{MOUNT} && dpkg -i --force-confold {DEB}")
    assert "taking over from the agent below /usr/local" in said
    await wait_until_it_serves(vm)
    assert await ran(vm, "systemctl is-active giveback-agent") == "active"
    assert await ran(vm, "command -v giveback-agent") == "/usr/bin/giveback-agent"
    assert "/usr/local/lib/giveback/manifest" not in await ran(vm, OURS)
    assert "(commit " in await ran(vm, "giveback-agent --version")
    assert "96" in await ran(vm, "giveback-agent config | grep -i cachefloor")
    assert await ran(vm, "ls /usr/lib/giveback/giveback_agent/__pycache__ | head -1") != ""
    await ran(vm, "giveback-agent doctor")


async def upgraded(vm: LabVm) -> None:
    """The service is another process, and the changed conffile stays."""
    before = await ran(vm, "systemctl show -P MainPID giveback-agent")
    await ran(vm, f"dpkg -i --force-confold {DEB}")
    await wait_until_it_serves(vm)
    assert await ran(vm, "systemctl show -P MainPID giveback-agent") not in ("0", before)
    assert "cacheFloor=96MB" in await ran(vm, "cat /etc/giveback.conf")


async def refused(vm: LabVm) -> None:
    """`install` does not put a second agent beside the package's."""
    said = await ran(vm, "giveback-agent install 2>&1", code=1)
    assert "a package has installed the agent here" in said
    assert await ran(vm, "systemctl is-active giveback-agent") == "active"


async def removed_and_purged(vm: LabVm) -> None:
    """The kernel's settings are as found; only the conffile is left, and after the purge nothing."""
    await ran(vm, "dpkg -r giveback-agent")
    assert await ran(vm, "systemctl is-active giveback-agent; true") == "inactive"
    assert await ran(vm, "cat /sys/module/page_reporting/parameters/page_reporting_order") == "9"
    assert "/usr/lib/giveback" not in await ran(vm, OURS)
    assert "/etc/giveback.conf" in await ran(vm, OURS)
    await ran(vm, "dpkg -P giveback-agent")
    assert await ran(vm, OURS) == ""


async def taken_over_from_another_prefix(vm: LabVm) -> None:
    """The unit of an agent below /opt, which would stand before the package's, is gone."""
    await ran(vm, f"python3 {GUEST_AGENT} install --prefix /opt/own")
    await wait_until_it_serves(vm)
    assert "taking over from the agent below /opt/own" in await ran(vm, f"dpkg -i {DEB}")
    await wait_until_it_serves(vm)
    unit = await ran(vm, "systemctl show -P FragmentPath giveback-agent")
    assert unit == "/usr/lib/systemd/system/giveback-agent.service"
    assert "/opt/own" not in await ran(vm, "find /opt")
    await ran(vm, "dpkg -P giveback-agent")
    assert await ran(vm, OURS) == ""


def test_the_deb_takes_over_upgrades_and_leaves_nothing(accel: Accel, tmp_path: Path) -> None:
    async def scenario() -> None:
        image = build_distribution_image(kernel_from_packages(None))
        image = replace(image, more_disks=(*image.more_disks, package_disk(tmp_path)))
        spec = VmSpec("package", 1024 * MIB, 2, accel.name)
        async with LabVm(spec, image, find_emulator(image.kernel_release)) as vm:
            await taken_over(vm)
            await upgraded(vm)
            await refused(vm)
            await removed_and_purged(vm)
            await taken_over_from_another_prefix(vm)

    asyncio.run(scenario())
