"""The guest image: a kernel, an initrd that mounts a disk, and a small ext4 root with Python.

Built without root, cached by content. The agent travels in the initrd, apart from the root disk, so
that a changed agent costs a second.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback import zipapps
from giveback.errors import InputError
from giveback_lab.images.cache import building, cache_root, content_key, keep_newest, locked
from giveback_lab.images.cpio import PROGRAM_MODE, ArchiveEntry, archive
from giveback_lab.images.distribution import KernelFiles, guest_tree, source_archives
from giveback_lab.images.modules import ordered_modules

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

MODULES = ["virtio_pci", "virtio_blk", "virtio_console", "ext4", "virtio_balloon", "zram"]
OPTIONAL_MODULES = frozenset({"zram"})
GUEST_AGENT = "/run/giveback-agent.pyz"
GUEST_LAB = "/run/giveback-lab.pyz"
SOURCES_FOLDER = "/usr/src/upstream"
APPLETS = ("sh", "cat", "md5sum", "true", "ls", "dmesg", "kill", "sleep", "sync", "mount")
# One for each state of the agent: a developer makes many.
KEPT_INITRDS = 8
# Only what the guest never reads; every byte here would be packed into each image.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "var/cache")

INIT = """#!/bin/busybox sh
# The lab's first process: mounts the root disk and hands over to it.
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev
for module in $($b cat /modules/order); do $b insmod /modules/$module; done
for i in 1 2 3 4 5 6 7 8 9 10; do [ -b /dev/vda ] && break; $b sleep 0.2; done
$b mount -t ext4 -o ro /dev/vda /root || { echo 'lab: no root disk'; $b poweroff -f; }
$b mount -t tmpfs -o mode=755 run /root/run; $b mount -t tmpfs tmp /root/tmp
$b cp /payload/* /root/run/
$b mount --move /proc /root/proc; $b mount --move /sys /root/sys; $b mount --move /dev /root/dev
exec $b switch_root /root /bin/busybox sh /sbin/lab-init
"""
LAB_INIT = """#!/bin/busybox sh
b=/bin/busybox
export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/tmp LC_ALL=C.UTF-8
$b mount -t cgroup2 cgroup2 /sys/fs/cgroup; $b mount -t debugfs debugfs /sys/kernel/debug
$b ip link set lo up
[ -b /dev/vdb ] && $b mount -t ext4 -o noatime /dev/vdb /work
# The agent's state folder is on a disk, as under systemd.
$b mkdir -p /work/.state && $b mount --bind /work/.state /var/lib/giveback
python3 /run/giveback-lab.pyz serve
echo 'lab: the guest program ended'
$b sync; $b poweroff -f
"""


@dataclass(frozen=True, slots=True)
class Extras:
    """What a root disk has beside what every lab guest has: a disk of its own, cached apart.

    `packages` come with all they depend on; `sources` are source packages, whose upstream archives
    are in SOURCES_FOLDER under the package's name; `applets` are programs that busybox plays.
    """

    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    applets: tuple[str, ...] = ()


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class Image:
    """All that a VM boots from."""

    kernel: Path
    kernel_release: str
    initrd: Path
    root_disk: Path


def build_image(kernel: KernelFiles, extras: Extras = NO_EXTRAS) -> Image:
    """Build what is not cached yet and return the image. Raises InputError."""
    files = guest_tree(extras.packages)
    root_disk = _root_disk(files, extras)
    base = _base_archive(kernel, files)
    payload = archive(
        [
            ArchiveEntry("payload/giveback-agent.pyz", zipapps.agent_zipapp()),
            ArchiveEntry("payload/giveback-lab.pyz", zipapps.lab_guest_zipapp()),
        ]
    )
    initrd_bytes = base + payload
    folder = cache_root() / "initrds" / content_key(initrd_bytes)
    with locked(folder.parent):
        if not folder.exists():
            with building(folder) as scratch:
                (scratch / "initrd").write_bytes(initrd_bytes)
            keep_newest(folder.parent, KEPT_INITRDS)
    return Image(kernel.image, kernel.release, folder / "initrd", root_disk)


def _base_archive(kernel: KernelFiles, files: Path) -> bytes:
    modules = ordered_modules(kernel.modules_dir, MODULES, OPTIONAL_MODULES)
    entries = [
        ArchiveEntry("init", INIT.encode(), PROGRAM_MODE),
        ArchiveEntry("bin/busybox", (files / "usr/bin/busybox").read_bytes(), PROGRAM_MODE),
        ArchiveEntry("modules/order", "\n".join(f"{m.name}.ko" for m in modules).encode()),
        *(ArchiveEntry(f"modules/{m.name}.ko", m.data) for m in modules),
        *(ArchiveEntry(f"{name}/.keep") for name in ("proc", "sys", "dev", "root")),
    ]
    return archive(entries)


def _root_disk(files: Path, extras: Extras) -> Path:
    sources = dict(zip(extras.sources, source_archives(extras.sources), strict=True))
    more = [part for name, path in sources.items() for part in (name, path.name)]
    key = content_key(str(files.name), LAB_INIT, *LEFT_OUT, "2", *more, *extras.applets)
    folder = cache_root() / "roots" / key
    with locked(folder.parent):
        if not folder.exists():
            with building(folder) as scratch:
                tree = scratch / "tree"
                shutil.copytree(files, tree, symlinks=True, ignore=_ignore(files))
                for name in ("proc", "sys", "dev", "run", "tmp", "work", "var/lib/giveback"):
                    (tree / name).mkdir(parents=True, exist_ok=True)
                (tree / "usr/sbin/lab-init").write_text(LAB_INIT)
                _shells(tree, extras.applets)
                for name, archive_file in sources.items():
                    target = tree / SOURCES_FOLDER.lstrip("/") / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(archive_file, target)
                make_ext4(scratch / "root.ext4", _size_bytes(tree) * 5 // 4 + (32 << 20), tree)
                shutil.rmtree(tree)
    return folder / "root.ext4"


def _ignore(files: Path) -> Callable[[str, list[str]], set[str]]:
    left_out = {str(files / name) for name in LEFT_OUT}

    def ignore(folder: str, names: list[str]) -> set[str]:
        return {n for n in names if f"{folder}/{n}" in left_out}

    return ignore


def _shells(tree: Path, more: Sequence[str]) -> None:
    for name in (*APPLETS, *more):
        link = tree / "usr/bin" / name
        if not link.exists():
            link.symlink_to("busybox")


def _size_bytes(tree: Path) -> int:
    return sum(max(p.lstat().st_size, 4096) for p in tree.rglob("*"))


def make_ext4(path: Path, size_bytes: int, content: Path | None = None) -> None:
    """Make a sparse ext4 image without mounting it. Raises InputError."""
    program = shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if program is None:
        raise InputError("mke2fs: not found: install the package e2fsprogs")
    options = ["-qF", "-t", "ext4", "-m", "0", "-E", "root_owner=0:0,lazy_itable_init=1"]
    source = [] if content is None else ["-d", str(content)]
    done = subprocess.run(
        [program, *options, *source, str(path), f"{size_bytes // 1024}k"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise InputError(f"{path}: mke2fs: {done.stderr.strip()[:300]}")
