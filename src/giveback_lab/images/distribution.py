"""Other parts of the lab that come from a distribution: the guest's programs, workload sources, QEMU."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.packages.apt import Apt, tree, tree_alone
from giveback_lab.packages.architecture import host_architecture
from giveback_lab.packages.sources import (
    DEBIAN_SUITES,
    is_debian,
    release_source,
    suite_sources,
    unset,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from giveback_lab.packages.architecture import Architecture

GUEST_PACKAGES = ("python3-minimal", "libpython3-stdlib", "busybox-static")
# The userland of foreign guests (of another machine than the host) on a host that is not Debian.
GUEST_SUITE = "trixie"
KEYRING_PACKAGE = "debian-archive-keyring"
# bookworm's own QEMU 7.2 corrupts Linux 6.12 guests under TCG.
QEMU_SUITES = {"bookworm": "bookworm-backports"}


def suite_apt(suite: str, architecture: Architecture) -> Apt:
    """Return an apt that sees one suite for one machine, with its lists fetched. Raises InputError.

    The host's own release includes its updates.
    """
    own = is_debian() and suite == release_source().suite
    other = "" if architecture == host_architecture() else architecture.debian
    if own and not other:
        found = Apt()
        found.refresh()
        return found
    keyring = None if is_debian() or suite not in DEBIAN_SUITES else _debian_keyring()
    refused = []
    for source in suite_sources(suite, keyring):
        missing = unset(source)
        if missing is not None:
            refused.append(missing)
            continue
        found = Apt(sources=(source,), architecture=other)
        try:
            found.refresh()
        except InputError as error:
            refused.append(str(error))
            continue
        return found
    raise InputError("; ".join(refused))


@functools.cache
def _debian_keyring() -> Path:
    """Return Debian's keys, from a package that the host's own distribution has signed."""
    folder = tree_alone(KEYRING_PACKAGE) / "usr" / "share" / "keyrings"
    for name in (f"{KEYRING_PACKAGE}.gpg", f"{KEYRING_PACKAGE}.pgp"):
        if (folder / name).exists():
            return folder / name
    raise InputError(f"{KEYRING_PACKAGE}: has no keyring")


def guest_tree(architecture: Architecture, more_packages: Sequence[str] = ()) -> Path:
    """Return the guest's files: Python and busybox of the host's distribution, and `more_packages`."""
    names = (*GUEST_PACKAGES, *more_packages)
    if architecture == host_architecture():
        return tree(Apt(), names)
    suite = release_source().suite if is_debian() else GUEST_SUITE
    return tree(suite_apt(suite, architecture), names)


def source_archives(names: Sequence[str]) -> tuple[Path, ...]:
    """Return the upstream archives of the distribution's source packages. Raises InputError."""
    if not names:
        return ()
    apt = Apt(source_packages=True)
    apt.refresh()
    return tuple(apt.source_archive(name) for name in names)


def qemu_tree(architecture: Architecture) -> Path:
    """Return the cached folder of a QEMU from the distribution's packages that boots the lab's kernels."""
    suite = QEMU_SUITES.get(release_source().suite)
    return tree(Apt((suite,) if suite else ()), architecture.qemu_packages, suite)
