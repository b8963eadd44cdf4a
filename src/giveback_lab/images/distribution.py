"""Which packages make a lab on which distribution."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.images.apt import Apt, host_sources, tree, unpack
from giveback_lab.images.cache import building, content_key, locked

if TYPE_CHECKING:
    from collections.abc import Sequence

GUEST_PACKAGES = ("python3-minimal", "libpython3-stdlib", "busybox-static")


@dataclass(frozen=True, slots=True)
class KernelPackage:
    """A meta-package and the suite it is taken from; `modules_prefix` where modules come apart."""

    series: str
    meta: str
    suite: str
    extra_suites: tuple[str, ...] = ()
    modules_prefix: str | None = None


@dataclass(frozen=True, slots=True)
class Distribution:
    """What the lab takes from a distribution; the first kernel is the default."""

    codename: str
    kernels: tuple[KernelPackage, ...]
    qemu_suite: str
    qemu_extra_suites: tuple[str, ...]
    qemu_packages: tuple[str, ...] = ("qemu-system-x86", "seabios")


# A release names a folder below /lib/modules: nothing that leads out of it.
RELEASE = re.compile(r"[0-9][A-Za-z0-9.+~_-]{0,100}(?=\s|$)", re.ASCII)
CLOUD = "linux-image-cloud-amd64"
KNOWN = {
    "bookworm": Distribution(
        "bookworm",
        (
            KernelPackage("6.12", CLOUD, "bookworm-backports", ("bookworm-backports",)),
            KernelPackage("6.1", CLOUD, "bookworm"),
        ),
        # bookworm's own QEMU 7.2 corrupts Linux 6.12 guests under TCG
        "bookworm-backports",
        ("bookworm-backports",),
    ),
    "trixie": Distribution(
        "trixie",
        (
            KernelPackage("6.12", CLOUD, "trixie"),
            KernelPackage("6.1", CLOUD, "bookworm", ("bookworm",)),
        ),
        "trixie",
        (),
    ),
    "noble": Distribution(
        "noble",
        (KernelPackage("6.8", "linux-image-virtual", "noble", (), "linux-modules-"),),
        "noble",
        (),
    ),
}


def this_distribution() -> Distribution:
    """The distribution whose packages this host's apt offers. Raises InputError for another."""
    if platform.machine() != "x86_64":
        raise InputError(f"{platform.machine()}: the lab's guests are x86-64 only")
    suites = {source.suite for source in host_sources()}
    for codename, distribution in KNOWN.items():
        if codename in suites:
            return distribution
    raise InputError(
        f"apt offers {', '.join(sorted(suites))}: the lab knows {', '.join(KNOWN)}; "
        "elsewhere build it in a container of one of these"
    )


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """A bootable kernel: its image, its `/lib/modules/VERSION`, its release."""

    image: Path
    modules_dir: Path
    release: str


def kernel_from_packages(series: str | None) -> KernelFiles:
    """Fetch (once) the distribution's kernel of a series such as "6.1"; None is the default.

    Raises InputError that names the package.
    """
    distribution = this_distribution()
    by_series = {k.series: k for k in distribution.kernels}
    if series is not None and series not in by_series:
        raise InputError(
            f"kernel {series}: {distribution.codename} has {', '.join(by_series)}; "
            "or use --kernel PATH"
        )
    package = by_series[series] if series else distribution.kernels[0]
    try:
        return _fetched_kernel(package)
    except InputError as error:
        raise InputError(
            f"the guest's kernel, package {package.meta} of {package.suite}, cannot be had: "
            f"{error}; or use --kernel PATH"
        ) from error


def _fetched_kernel(package: KernelPackage) -> KernelFiles:
    apt = Apt(package.extra_suites)
    apt.refresh()
    name = apt.dependency(package.meta, "linux-image-", package.suite)
    release = name.removeprefix("linux-image-")
    wanted = [name] + ([package.modules_prefix + release] if package.modules_prefix else [])
    target = apt.folder.parent.parent / "kernels" / content_key(package.suite, *wanted)
    with locked(target.parent):
        if not target.exists():
            debs = apt.download(wanted, deps=False)
            with building(target) as scratch:
                unpack(debs, scratch)
    return KernelFiles(
        target / "boot" / f"vmlinuz-{release}",
        target / "usr" / "lib" / "modules" / release,
        release,
    )


def kernel_from_path(path: Path, modules_root: Path = Path("/lib/modules")) -> KernelFiles:
    """A kernel of the user's own; its modules must be in `/lib/modules`. Raises InputError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        hint = " (try sudo: distributions keep kernels for root)" if error.errno == 13 else ""
        raise InputError(f"{path}: {error.strerror}{hint}") from error
    release = kernel_release(data)
    if release is None:
        raise InputError(f"{path}: not an x86 Linux kernel image (bzImage)")
    beside = path.parent.parent / "lib" / "modules" / release
    for modules_dir in (modules_root / release, beside):
        if modules_dir.is_dir():
            return KernelFiles(path, modules_dir, release)
    raise InputError(f"{path}: is Linux {release}, but {modules_root / release} is missing")


def kernel_release(image: bytes) -> str | None:
    """The release that an x86 bzImage names in its setup header, or None where it is none.

    Source: Documentation/arch/x86/boot.rst, fields `header` (0x202) and `kernel_version` (0x20e).
    """
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        return None
    offset = int.from_bytes(image[0x20E:0x210], "little") + 0x200
    text = image[offset : offset + 256].split(b"\0", 1)[0].decode("ascii", "replace")
    found = RELEASE.match(text)
    return found[0] if found else None


def guest_tree(more_packages: Sequence[str] = ()) -> Path:
    """The guest's files: Python and busybox of the host's distribution, and more if named."""
    this_distribution()
    return tree(Apt(), (*GUEST_PACKAGES, *more_packages))


def source_archives(names: Sequence[str]) -> tuple[Path, ...]:
    """The upstream archives of the distribution's source packages. Raises InputError."""
    if not names:
        return ()
    this_distribution()
    apt = Apt(source_packages=True)
    apt.refresh()
    return tuple(apt.source_archive(name) for name in names)


def qemu_tree() -> Path:
    """A QEMU of the distribution's own packages that boots the lab's kernels, in the cache."""
    distribution = this_distribution()
    return tree(
        Apt(distribution.qemu_extra_suites), distribution.qemu_packages, distribution.qemu_suite
    )
