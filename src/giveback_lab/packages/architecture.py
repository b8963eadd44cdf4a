"""The machines that the lab has guests for, and what QEMU and Debian call their parts."""

from __future__ import annotations

import platform
from dataclasses import dataclass

from giveback.errors import InputError


@dataclass(frozen=True, slots=True)
class Architecture:
    """A kind of machine.

    `flavours` are the names of Debian's kernels by their page size in KiB. `debian` is the
    machine's name in package names, `triplet` the folder of its libraries.
    """

    machine: str
    debian: str
    triplet: str
    flavours: dict[int, str]
    qemu_program: str
    qemu_packages: tuple[str, ...]
    qemu_machine: str
    emulated_cpu: str
    console: str

    def flavour(self, page_kib: int) -> str:
        """Return the name of Debian's kernel with pages of this size. Raises InputError."""
        if page_kib not in self.flavours:
            sizes = ", ".join(f"{size}" for size in self.flavours)
            raise InputError(
                f"{self.machine}: no kernel with {page_kib} KiB pages, only {sizes} KiB"
            )
        return self.flavours[page_kib]


X86_64 = Architecture(
    machine="x86_64",
    debian="amd64",
    triplet="x86_64-linux-gnu",
    flavours={4: "cloud-amd64"},
    qemu_program="qemu-system-x86_64",
    qemu_packages=("qemu-system-x86", "seabios"),
    qemu_machine="pc",
    emulated_cpu="max",
    console="ttyS0",
)
ARM64 = Architecture(
    machine="aarch64",
    debian="arm64",
    triplet="aarch64-linux-gnu",
    flavours={4: "cloud-arm64", 16: "arm64-16k"},
    qemu_program="qemu-system-aarch64",
    qemu_packages=("qemu-system-arm",),
    qemu_machine="virt",
    # QEMU 8.2 aborts under Linux 7.3 with "max". This CPU also has no pointer authentication to
    # emulate.
    emulated_cpu="neoverse-n1",
    console="ttyAMA0",
)
ARCHITECTURES = (X86_64, ARM64)


def host_architecture() -> Architecture:
    """Return the architecture of this host. Raises InputError if the lab has no guests for it."""
    name = platform.machine()
    for architecture in ARCHITECTURES:
        # macOS calls it arm64.
        if name in (architecture.machine, architecture.debian):
            return architecture
    known = ", ".join(one.machine for one in ARCHITECTURES)
    raise InputError(f"{name}: the lab has guests and QEMU for {known} hosts only")
