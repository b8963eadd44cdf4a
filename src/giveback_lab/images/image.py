"""The guest image: a kernel, an initrd that mounts a disk, and a small ext4 root with Python.

It is built without root and cached by content.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from giveback_lab.images.distribution import guest_tree, source_archives
from giveback_lab.images.ext4 import disk_bytes_for, make_ext4
from giveback_lab.images.initrd import build_initrd
from giveback_lab.packages.architecture import X86_64
from giveback_lab.packages.cache import built, cache_root, content_key

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from giveback_lab.images.kernels import KernelFiles
    from giveback_lab.packages.architecture import Architecture

GUEST_AGENT = "/run/giveback-agent.pyz"
GUEST_LAB = "/run/giveback-lab.pyz"
SOURCES_FOLDER = "/usr/src/upstream"
APPLETS = ("sh", "cat", "md5sum", "true", "ls", "dmesg", "kill", "sleep", "sync", "mount")
# Only files that the guest never reads. Every byte of the others would be packed into each image.
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
    """Additions to the root disk of every lab guest. They are on a disk of their own, cached apart.

    `packages` are installed with their dependencies. `sources` are source packages, whose upstream
    archives are in SOURCES_FOLDER under the package's name. `applets` are programs that busybox
    provides.
    """

    packages: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    applets: tuple[str, ...] = ()


NO_EXTRAS = Extras()


@dataclass(frozen=True, slots=True)
class Image:
    """All files that a VM boots from.

    - `writable`: the guest writes to its root disk; its writes are discarded with the VM.
    - `more_disks`: read-only disks that follow the root disk and the work disk.
    - `boot_deadline_s`: the guest answers within this time even on a busy host that emulates it.
    - `has_systemd`: a distribution guest, whose service manager starts and stops its processes.
    """

    kernel: Path
    kernel_release: str
    initrd: Path
    root_disk: Path
    architecture: Architecture = X86_64
    writable: bool = False
    more_disks: tuple[Path, ...] = ()
    boot_deadline_s: float = 120.0
    has_systemd: bool = False


def build_image(kernel: KernelFiles, extras: Extras = NO_EXTRAS) -> Image:
    """Build what is not cached yet and return the image. Raises InputError."""
    files = guest_tree(kernel.architecture, extras.packages)
    root_disk = _root_disk(files, extras)
    initrd = build_initrd(kernel, files / "usr/bin/busybox", INIT)
    return Image(kernel.image, kernel.release, initrd, root_disk, kernel.architecture)


def _root_disk(files: Path, extras: Extras) -> Path:
    sources = dict(zip(extras.sources, source_archives(extras.sources), strict=True))
    more = [part for name, path in sources.items() for part in (name, path.name)]
    key = content_key(str(files.name), LAB_INIT, *LEFT_OUT, "2", *more, *extras.applets)

    def build(scratch: Path) -> None:
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
        make_ext4(scratch / "root.ext4", disk_bytes_for(tree), tree)
        shutil.rmtree(tree)

    return built(cache_root() / "roots" / key, build) / "root.ext4"


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
