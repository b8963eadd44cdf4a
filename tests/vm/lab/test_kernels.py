"""Every kernel that the lab can fetch boots the small guest, with free page reporting.

GIVEBACK_MATRIX=1 runs them all; else the default one and one of another layout and generation.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from matrix import MATRIX

from giveback_lab.images.image import build_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.packages.architecture import ARM64, X86_64
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from giveback_lab.packages.architecture import Architecture
    from giveback_lab.vms.accel import Accel

MIB = 1 << 20
PAGE_SIZE = "import resource; print(resource.getpagesize())"


async def text(vm: LabVm, *argv: str) -> str:
    result = await vm.guest.exec(*argv)
    assert result.code == 0, result.text
    return result.text


async def boots(series: str, architecture: Architecture, page_kib: int, accel: str) -> None:
    kernel = await asyncio.to_thread(kernel_from_packages, series, architecture, page_kib)
    assert kernel.release.startswith(f"{series}.")
    image = await asyncio.to_thread(build_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release, None, architecture)
    name = f"{series}-{architecture.debian}-{page_kib}k"
    async with LabVm(VmSpec(name, 512 * MIB, 2, accel), image, emulator) as vm:
        assert await text(vm, "busybox", "uname", "-r") == kernel.release
        assert await text(vm, "busybox", "uname", "-m") == architecture.machine
        assert await text(vm, "python3", "-c", PAGE_SIZE) == str(page_kib << 10)
        assert "Free page reporting enabled" in await text(vm, "dmesg")
        # The work disk and cgroup v2 exist: every workload and the agent need them.
        mounts = await text(vm, "cat", "/proc/mounts")
        assert " /work ext4 " in mounts
        assert " /sys/fs/cgroup cgroup2 " in mounts
        assert 0 < vm.resident_bytes() < 512 * MIB


@pytest.mark.parametrize(
    "series",
    [
        pytest.param("5.10", marks=MATRIX),
        pytest.param("6.1", marks=MATRIX),
        "6.12",
        pytest.param("7.2", marks=MATRIX),
        "7.3",
    ],
)
def test_each_series_boots(series: str, accel: Accel) -> None:
    asyncio.run(boots(series, X86_64, 4, accel.name))


@MATRIX
@pytest.mark.parametrize("page_kib", [4, 16])
@pytest.mark.parametrize("series", ["6.12", "7.3"])
def test_arm64_boots_with_each_page_size(series: str, page_kib: int) -> None:
    asyncio.run(boots(series, ARM64, page_kib, "tcg"))
