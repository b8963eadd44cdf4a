"""The lab, prepared once: a guest image and a QEMU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback_lab.images.image import Image, build_image
from giveback_lab.images.kernels import KernelFiles, kernel_from_packages, kernel_from_path
from giveback_lab.vms.emulator import Emulator, find_emulator
from giveback_lab.vms.folders import sweep

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Lab:
    """All that both VMs are made of."""

    kernel: KernelFiles
    emulator: Emulator
    image: Image


def prepare_lab(kernel: str | None, qemu: Path | None, say: Callable[[str], None]) -> Lab:
    """Fetch and build what is not cached yet; remove what a killed giveback left behind.

    Raises InputError.
    """
    for folder in sweep():
        say(f"removed {folder}: its giveback was killed")
    say("preparing the guest (packages are fetched once and cached)")
    if kernel is not None and (os.sep in kernel or Path(kernel).is_file()):
        files = kernel_from_path(Path(kernel))
    else:
        files = kernel_from_packages(kernel)
    emulator = find_emulator(files.release, qemu, files.architecture)
    return Lab(files, emulator, build_image(files))
