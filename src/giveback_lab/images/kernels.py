"""The guest's kernel: of a series or a suite, from Debian's or the host's packages, or the user's own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.images.distribution import suite_apt
from giveback_lab.packages.apt import Apt, unpack
from giveback_lab.packages.architecture import X86_64, host_architecture
from giveback_lab.packages.cache import built, cache_root, content_key
from giveback_lab.packages.sources import DEBIAN_SUITES, is_debian, release_source

if TYPE_CHECKING:
    from giveback_lab.packages.architecture import Architecture

DEFAULT_SERIES = "6.12"
# Where each series is searched for first; it may be in other suites too.
HOME_SUITES = {
    "5.10": "bullseye",
    "6.1": "bookworm",
    "6.12": "trixie",
    "7.2": "sid",
    "7.3": "trixie-backports",
}
# Linux 36e66c554b5c, "mm: introduce Reported pages": the first with free page reporting.
OLDEST_SERIES = (5, 7)
SERIES = re.compile(r"(\d{1,3})\.(\d{1,3})", re.ASCII)
SUITE = re.compile(r"[a-z][a-z0-9-]{1,60}", re.ASCII)
# A release names a folder below /lib/modules, so it must not lead out of that.
RELEASE = re.compile(r"[0-9][A-Za-z0-9.+~_-]{0,100}(?=\s|$)", re.ASCII)
UBUNTU_META = "linux-image-virtual"
# Since 7.x Debian's linux-image-* packages are empty: they depend on these.
PARTS = ("linux-image-", "linux-binary-", "linux-modules-", "linux-base-")


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """A bootable kernel: its image, its `/lib/modules/VERSION`, its release, its machine."""

    image: Path
    modules_dir: Path
    release: str
    architecture: Architecture = X86_64


@dataclass(frozen=True, slots=True)
class _Found:
    """A kernel among the packages of an apt."""

    apt: Apt
    release: str
    architecture: Architecture


def default_series() -> str:
    """Return the name that `kernel_from_packages` uses if none is given. Raises InputError."""
    return DEFAULT_SERIES if is_debian() else _series_of(_ubuntu_default(Apt()).release)


def check_kernel_name(name: str) -> None:
    """Refuse a name that cannot be a kernel's, before anything is fetched. Raises InputError."""
    series = SERIES.fullmatch(name)
    if series is None and SUITE.fullmatch(name) is None:
        raise InputError(
            f"kernel {name}: neither a series such as {DEFAULT_SERIES}, nor a suite such as sid; "
            "or use --kernel PATH"
        )
    if series is not None and (int(series[1]), int(series[2])) < OLDEST_SERIES:
        raise InputError(
            f"kernel {name}: has no free page reporting, which came with Linux 5.7: "
            f"Debian has {', '.join(HOME_SUITES)}; or use --kernel PATH"
        )


def kernel_from_packages(
    name: str | None, architecture: Architecture | None = None, page_kib: int = 4
) -> KernelFiles:
    """Fetch (once) the newest kernel of a series such as "6.1" or of a suite such as "sid".

    `name` None is the default series. `architecture` None is the host's own. `page_kib` selects the
    page size on a machine that has several. Raises InputError that names the places searched.
    """
    if name is not None:
        check_kernel_name(name)
    machine = architecture or host_architecture()
    found = _find(name, machine, machine.flavour(page_kib))
    try:
        return _fetched(found)
    except InputError as error:
        raise InputError(
            f"the guest's kernel, package linux-image-{found.release}, cannot be had: {error}; "
            "or use --kernel PATH"
        ) from error


def _find(name: str | None, machine: Architecture, flavour: str) -> _Found:
    refused: list[str] = []
    if not is_debian() and machine == host_architecture():
        own = Apt()
        if name is None:
            return _ubuntu_default(own)
        found = _newest(own, name, machine, "generic", refused, release_source().suite)
        if found is not None:
            return found
    series = name or DEFAULT_SERIES
    closed: dict[str, list[str]] = {}
    for suite in _suites(series):
        try:
            apt = suite_apt(suite, machine)
        except InputError as error:
            closed.setdefault(str(error), []).append(suite)
            continue
        found = _newest(apt, series, machine, flavour, refused, suite)
        if found is not None:
            return found
    refused += [f"{', '.join(suites)}: {error}" for error, suites in closed.items()]
    raise InputError(
        f"kernel {series}: no linux-image-{flavour} of that series: {'; '.join(refused)}; "
        "or use --kernel PATH"
    )


def _suites(name: str) -> tuple[str, ...]:
    """Return where to search, in this order: the named suite, or the host's own, then all of Debian's."""
    if SERIES.fullmatch(name) is None:
        return (name,)
    own = release_source().suite if is_debian() else ""
    first = [s for s in (own, f"{own}-backports") if s == own or s in DEBIAN_SUITES]
    home = HOME_SUITES.get(name)
    names = [*(first if own else []), *([home] if home else []), *reversed(DEBIAN_SUITES)]
    return tuple(dict.fromkeys(names))


def _newest(
    apt: Apt, name: str, machine: Architecture, flavour: str, refused: list[str], suite: str
) -> _Found | None:
    """Return the newest kernel of a flavour (and series, if `name` is one), or None with the reason added.

    The reason goes into `refused`.
    """
    try:
        apt.refresh()
        names = apt.names(f"^linux-image-[0-9].*-{re.escape(flavour)}$")
    except InputError as error:
        refused.append(f"{suite}: {error}")
        return None
    releases = [n.removeprefix("linux-image-") for n in names]
    fitting = [r for r in releases if SERIES.fullmatch(name) is None or r.startswith(f"{name}.")]
    if fitting:
        return _Found(apt, max(fitting, key=version_key), machine)
    there = sorted({_series_of(r) for r in releases}, key=version_key)
    refused.append(f"{suite} has {', '.join(there) or 'no kernel of this kind'}")
    return None


def version_key(release: str) -> tuple[int, ...]:
    """Return a key that sorts releases of one distribution by age: all the numbers in them."""
    return tuple(int(number) for number in re.findall(r"\d+", release))


def _series_of(release: str) -> str:
    found = SERIES.match(release)
    return found[0] if found else release


def _ubuntu_default(apt: Apt) -> _Found:
    apt.refresh()
    name = apt.dependency(UBUNTU_META, "linux-image-")
    return _Found(apt, name.removeprefix("linux-image-"), host_architecture())


def _fetched(found: _Found) -> KernelFiles:
    pattern = "|".join(re.escape(f"{part}{found.release}") for part in PARTS)
    wanted = found.apt.names(f"^({pattern})$")
    debs = found.apt.download(wanted, deps=False)
    target = cache_root() / "kernels" / content_key(*sorted(deb.name for deb in debs))
    built(target, lambda scratch: unpack(debs, scratch))
    modules_dir = target / "usr" / "lib" / "modules" / found.release
    # Debian 7.x keeps the image beside its modules.
    for image in (target / "boot" / f"vmlinuz-{found.release}", modules_dir / "vmlinuz"):
        if image.is_file():
            return KernelFiles(image, modules_dir, found.release, found.architecture)
    raise InputError(f"{', '.join(wanted)}: no vmlinuz in them")


def kernel_from_path(path: Path, modules_root: Path = Path("/lib/modules")) -> KernelFiles:
    """Return the user's own kernel. Its modules must be in `/lib/modules`. Raises InputError."""
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
    """Return the release that an x86 bzImage states in its setup header, or None for other files.

    Source: Documentation/arch/x86/boot.rst, fields `header` (0x202) and `kernel_version` (0x20e).
    """
    if len(image) < 0x260 or image[0x202:0x206] != b"HdrS":
        return None
    offset = int.from_bytes(image[0x20E:0x210], "little") + 0x200
    text = image[offset : offset + 256].split(b"\0", 1)[0].decode("ascii", "replace")
    found = RELEASE.match(text)
    return found[0] if found else None
