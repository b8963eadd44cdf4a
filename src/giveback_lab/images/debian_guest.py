"""The distribution guest: Debian with systemd, podman and PostgreSQL, as users run it.

mmdebstrap makes it from packages, as root or in a user namespace. The disk is made from its archive
without mounting. The kernel's modules are on a separate disk, so one root disk serves all kernels.
The agent comes with the initrd, and a unit installs it at boot with its own `install` command.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.images import debian_files
from giveback_lab.images.distribution import suite_apt
from giveback_lab.images.ext4 import disk_bytes_for, make_ext4, set_owners, unpack_archive
from giveback_lab.images.image import Image
from giveback_lab.images.initrd import build_initrd
from giveback_lab.packages.apt import Apt, tree, unpack
from giveback_lab.packages.architecture import host_architecture
from giveback_lab.packages.cache import (
    building,
    built,
    cache_root,
    content_key,
    keep_newest,
    locked,
    used,
)

if TYPE_CHECKING:
    from giveback_lab.images.kernels import KernelFiles

SUITE = "trixie"
PACKAGES = (
    *("systemd-sysv", "udev", "dbus", "dbus-user-session", "libpam-systemd", "kmod"),
    *("podman", "crun", "uidmap", "passt", "slirp4netns", "fuse-overlayfs", "netavark", "nftables"),
    *("postgresql", "python3", "busybox-static", "procps", "iproute2"),
)
LEFT_OUT = ("doc", "man", "locale", "lintian", "info")
DISK_BYTES = 8 << 30
# It takes 3 minutes on two busy CPUs.
BUILD_TIMEOUT_S = 1800
KEPT = 2
# Measured: 40 to 90 s on two emulated CPUs.
BOOT_DEADLINE_S = 360.0
SIGNED_BY = re.compile(r"signed-by=([^] ]+)")
# The perl of a small container has only its most needed modules.
PERL_MODULES = "use English; use Pod::Usage; use File::Find; use IO::Select; use Socket;"


def build_distribution_image(kernel: KernelFiles) -> Image:
    """Build what is not cached yet and return the image. Raises InputError."""
    if kernel.architecture != host_architecture():
        raise InputError(
            f"{kernel.release}: the distribution guest is made of packages that run on this host: "
            f"it has none for {kernel.architecture.machine}"
        )
    apt = suite_apt(SUITE, kernel.architecture)
    base = _base_disk(apt)
    initrd = build_initrd(kernel, base / "busybox", debian_files.INIT)
    return Image(
        kernel.image,
        kernel.release,
        initrd,
        base / "root.ext4",
        kernel.architecture,
        writable=True,
        more_disks=(modules_disk(kernel),),
        boot_deadline_s=BOOT_DEADLINE_S,
        has_systemd=True,
    )


def modules_disk(kernel: KernelFiles) -> Path:
    """Return a disk with all modules of a kernel and depmod's indexes, for /usr/lib/modules."""
    key = content_key(kernel.modules_dir.parents[3].name, kernel.release, "1")

    def build(scratch: Path) -> None:
        content = scratch / "base/lib/modules"
        shutil.copytree(kernel.modules_dir, content / kernel.release, symlinks=True)
        _depmod(tree(_host_apt(), ("kmod",)), scratch / "base", kernel.release)
        make_ext4(scratch / "modules.ext4", disk_bytes_for(content), content)
        shutil.rmtree(scratch / "base")

    return built(cache_root() / "modules" / key, build) / "modules.ext4"


def _host_apt() -> Apt:
    apt = Apt()
    apt.refresh()
    return apt


def _depmod(kmod: Path, base: Path, release: str) -> None:
    libraries = kmod / "usr/lib" / host_architecture().triplet
    # kmod is one program that acts by the name it is called by; the package's depmod link would
    # lead to the host's.
    program = kmod / "usr/bin/kmod"
    words = ["depmod", "-b", str(base), release]
    _run(words, {"LD_LIBRARY_PATH": str(libraries)}, program=program)


def _base_disk(apt: Apt) -> Path:
    """Return the folder of the root disk (without kernel and agent) and of the guest's busybox."""
    versions = apt.closure(PACKAGES)
    texts = [part for item in debian_files.TEXTS.items() for part in item]
    links = [part for item in debian_files.LINKS.items() for part in item]
    key = content_key(*sorted(versions), *texts, *links, *LEFT_OUT, str(DISK_BYTES), "1")
    folder = cache_root() / "debian" / key
    with locked(folder.parent):
        if not folder.exists():
            with building(folder) as scratch:
                _bootstrap(apt, scratch / "base.tar")
                owners = unpack_archive(scratch / "base.tar", scratch / "tree")
                (scratch / "base.tar").unlink()
                _add_files(scratch / "tree")
                shutil.copyfile(scratch / "tree/usr/bin/busybox", scratch / "busybox")
                make_ext4(scratch / "root.ext4", DISK_BYTES, scratch / "tree")
                set_owners(scratch / "root.ext4", scratch / "tree", owners)
                shutil.rmtree(scratch / "tree")
            keep_newest(folder.parent, KEPT)
    return used(folder)


def _bootstrap(apt: Apt, into: Path) -> None:
    """Have mmdebstrap install the packages and write them as an archive with their owners."""
    # Not in the cache: mmdebstrap's second program runs as another user id of a user namespace.
    with tempfile.TemporaryDirectory(prefix="giveback-mmdebstrap-") as folder:
        tools = Path(folder)
        tools.chmod(0o755)
        unpack(apt.download(["mmdebstrap"], deps=False), tools)
        program = tools / "usr/bin/mmdebstrap"
        words = [
            *("perl", str(program), f"--mode={'root' if os.geteuid() == 0 else 'unshare'}"),
            *("--quiet", "--variant=minbase", "--format=tar", f"--include={','.join(PACKAGES)}"),
            '--aptopt=Acquire::Languages "none"',
            *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in LEFT_OUT),
            '--customize-hook=chroot "$1" useradd --create-home --shell /bin/bash '
            + debian_files.USER,
            *(SUITE, "-", *(_with_readable_key(line, tools) for line in apt.source_lines)),
        ]
        # mmdebstrap calls its second program by name alone.
        path = f"{program.parent}:{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        with into.open("wb") as archive:
            _run(words, {"PATH": path, **_perl()}, archive.fileno())


def _with_readable_key(source_line: str, folder: Path) -> str:
    """Return a line of apt's sources whose keyring is a copy in `folder` that apt's own user can read."""
    named = SIGNED_BY.search(source_line)
    if named is None or not Path(named[1]).is_file():
        return source_line
    key = Path(named[1])
    copy = folder / f"key-{content_key(str(key))}{key.suffix}"
    shutil.copyfile(key, copy)
    copy.chmod(0o644)
    return source_line.replace(named[1], str(copy))


def _perl() -> dict[str, str]:
    """Return the environment in which perl finds its modules: the host's, else of its perl package."""
    try:
        done = subprocess.run(["perl", "-e", PERL_MODULES], check=False, capture_output=True)
    except FileNotFoundError as error:
        raise InputError("perl: not found: install the package perl") from error
    if done.returncode == 0:
        return {}
    files = tree(_host_apt(), ("perl",))
    folders = [*files.glob("usr/share/perl*/"), *files.glob("usr/share/perl/5*")]
    folders += files.glob(f"usr/lib/{host_architecture().triplet}/perl/5*")
    return {"PERL5LIB": ":".join(map(str, folders))}


def _add_files(root: Path) -> None:
    for name, text in debian_files.TEXTS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    for name, target in debian_files.LINKS.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.symlink_to(target)
    for name in ("work", "usr/lib/modules"):
        (root / name).mkdir(parents=True, exist_ok=True)
    archive = root / debian_files.CONTAINER_ARCHIVE.lstrip("/")
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(debian_files.container_archive((root / "usr/bin/busybox").read_bytes()))


def _run(
    words: list[str],
    environment: dict[str, str],
    stdout: int | None = None,
    program: Path | None = None,
) -> None:
    name = Path(words[1] if words[0] == "perl" else words[0]).name
    try:
        done = subprocess.run(
            words, check=False, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL if stdout is None else stdout, timeout=BUILD_TIMEOUT_S,
            env={**os.environ, "LC_ALL": "C", **environment}, executable=program,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"{name}: not finished after {BUILD_TIMEOUT_S} s: is there network?"
        ) from error
    if done.returncode != 0:
        rows = [row for row in done.stderr.splitlines() if row.strip()]
        reason = next((row for row in rows if row.startswith("E:")), rows[-1] if rows else "failed")
        hint = "" if os.geteuid() == 0 else " (without root it needs the package uidmap)"
        raise InputError(f"{name}: {reason[:300]}{hint}")
