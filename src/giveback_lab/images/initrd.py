"""A guest's initrd: busybox, the modules that a disk needs, the agent and the lab's program.

The agent is in the initrd and not on the root disk, so that a changed agent costs one second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from giveback.guest import zipapps
from giveback_lab.images.cpio import PROGRAM_MODE, ArchiveEntry, archive
from giveback_lab.images.modules import ordered_modules
from giveback_lab.packages.cache import building, cache_root, content_key, keep_newest, locked

if TYPE_CHECKING:
    from pathlib import Path

    from giveback_lab.images.kernels import KernelFiles

# ext4 requests crc32c by its algorithm's name only, so no module's dependency list shows it.
MODULES = [
    *("virtio_pci", "virtio_blk", "virtio_console", "crc32c_generic", "ext4", "virtio_balloon"),
    "zram",
]
OPTIONAL_MODULES = frozenset({"crc32c_generic", "zram"})
# There is one for each state of the agent, and a developer makes many.
KEPT_INITRDS = 8


def build_initrd(kernel: KernelFiles, busybox: Path, init: str) -> Path:
    """Build the initrd unless it is cached; return its path. Raises InputError.

    `init` is the script of the first process. It finds the modules in /modules, their order in
    /modules/order, and files for the guest's /run in /payload.
    """
    payload = archive(
        [
            ArchiveEntry("payload/giveback-agent.pyz", zipapps.agent_zipapp()),
            ArchiveEntry("payload/giveback-lab.pyz", zipapps.lab_guest_zipapp()),
        ]
    )
    initrd_bytes = _base_archive(kernel, busybox, init) + payload
    folder = cache_root() / "initrds" / content_key(initrd_bytes)
    with locked(folder.parent):
        if not folder.exists():
            with building(folder) as scratch:
                (scratch / "initrd").write_bytes(initrd_bytes)
            keep_newest(folder.parent, KEPT_INITRDS)
    return folder / "initrd"


def _base_archive(kernel: KernelFiles, busybox: Path, init: str) -> bytes:
    modules = ordered_modules(kernel.modules_dir, MODULES, OPTIONAL_MODULES)
    entries = [
        ArchiveEntry("init", init.encode(), PROGRAM_MODE),
        ArchiveEntry("bin/busybox", busybox.read_bytes(), PROGRAM_MODE),
        ArchiveEntry("modules/order", "\n".join(f"{m.name}.ko" for m in modules).encode()),
        *(ArchiveEntry(f"modules/{m.name}.ko", m.data) for m in modules),
        *(ArchiveEntry(f"{name}/.keep") for name in ("proc", "sys", "dev", "root")),
    ]
    return archive(entries)
