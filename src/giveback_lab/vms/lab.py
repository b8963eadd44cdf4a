"""Prepare the lab once: a guest image and a QEMU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.images.debian_guest import build_distribution_image
from giveback_lab.images.image import NO_EXTRAS, Extras, Image, build_image
from giveback_lab.images.kernels import KernelFiles, kernel_from_packages, kernel_from_path
from giveback_lab.packages.architecture import ARCHITECTURES, Architecture, host_architecture
from giveback_lab.vms.emulator import Emulator, find_emulator
from giveback_lab.vms.folders import sweep

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL, DISTRIBUTION = "small", "distribution"
GUESTS = (SMALL, DISTRIBUTION)
# Debian's names of machines, with the page size in KiB where a machine has several.
MACHINES = {
    f"{one.debian}{'' if kib == 4 else f'-{kib}k'}": (one, kib)
    for one in ARCHITECTURES
    for kib in one.flavours
}


@dataclass(frozen=True, slots=True)
class Lab:
    """The kernel, QEMU and image that every VM of a run uses."""

    kernel: KernelFiles
    emulator: Emulator
    image: Image


@dataclass(frozen=True, slots=True)
class GuestKind:
    """Which guest boots on which machine; an architecture of None is the host's own."""

    guest: str = SMALL
    architecture: Architecture | None = None
    page_kib: int = 4

    @property
    def is_foreign(self) -> bool:
        """Whether the guest's machine differs from the host's, so that it is emulated."""
        return self.architecture is not None and self.architecture != host_architecture()


def guest_kind(guest: str, machine: str | None) -> GuestKind:
    """Return the kind that a command line names, such as "arm64-16k". Raises InputError."""
    if machine is None:
        return GuestKind(guest)
    if machine not in MACHINES:
        raise InputError(f"--arch {machine}: there are {', '.join(MACHINES)}")
    architecture, page_kib = MACHINES[machine]
    kind = GuestKind(guest, architecture, page_kib)
    if guest == DISTRIBUTION and kind.is_foreign:
        raise InputError(
            f"--guest {guest} --arch {machine}: the distribution guest is of the host's own machine only"
        )
    return kind


def prepare_lab(
    kernel: str | None,
    qemu: Path | None,
    say: Callable[[str], None],
    kind: GuestKind | None = None,
    extras: Extras = NO_EXTRAS,
) -> Lab:
    """Fetch and build what is not cached yet; remove the VM folders of killed givebacks.

    `kernel` is a series, a suite or a path. Raises InputError.
    """
    kind = kind or GuestKind()
    for folder in sweep():
        say(f"removed {folder}: its giveback was killed")
    say("preparing the guest (packages are fetched once and cached)")
    if kernel is not None and (os.sep in kernel or Path(kernel).is_file()):
        files = kernel_from_path(Path(kernel))
    else:
        files = kernel_from_packages(kernel, kind.architecture, kind.page_kib)
    emulator = find_emulator(files.release, qemu, files.architecture)
    if kind.guest == DISTRIBUTION:
        return Lab(files, emulator, build_distribution_image(files))
    return Lab(files, emulator, build_image(files, extras))
