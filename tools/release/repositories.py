"""Repositories for apt and dnf as folders, of the packages that were built; signed where a key is given.

A suite for each distribution, because each has one Python, and the host's packages are for one each.
"""

from __future__ import annotations

import email.utils
import gzip
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from release.release import ReleaseError, run_tool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from release.release import Release

SUITES = {"bookworm": "3.11", "noble": "3.12", "trixie": "3.13"}
"""By the name of the distribution: its Python."""
MACHINES = ("amd64", "arm64")
_RPM_PYTHONS = tuple(SUITES.values())


def build(release: Release, key: Path | None) -> list[Path]:
    """Write `repositories/apt` and `repositories/yum` of the packages in OUT; return all their files.

    `key`: an OpenPGP secret key without a password. Raises ReleaseError.
    """
    packages = release.folder("packages")
    if not list(packages.glob("*.deb")):
        raise ReleaseError(f"{packages}: no packages: build the steps `packages` and `host` first")
    out = release.folder("repositories")
    with tempfile.TemporaryDirectory(prefix="gb-gpg-") as home:
        signer = None if key is None else Signer(release, key, Path(home))
        apt(release, packages, out / "apt", signer)
        yum(release, packages, out / "yum", signer)
        if signer is not None:
            (out / "public-key.asc").write_text(signer.public())
    return sorted(path for path in out.rglob("*") if path.is_file())


class Signer:
    """gpg with one key in a home of its own, and the commit's time: equal builds have equal signatures."""

    def __init__(self, release: Release, key: Path, home: Path) -> None:
        home.chmod(0o700)
        time = f"--faked-system-time={release.epoch}!"
        self._words = ["gpg", "--homedir", str(home), "--batch", "--yes", "--quiet", time]
        self._cwd = release.out
        self._run("--import", str(key))

    def _run(self, *words: str) -> str:
        try:
            return run_tool(*self._words, *words, cwd=self._cwd)
        except FileNotFoundError as error:
            raise ReleaseError(
                "gpg is not installed: it signs repositories (apt install gpg)"
            ) from error

    def public(self) -> str:
        """Return the public key, armoured."""
        return self._run("--armor", "--export")

    def clear(self, path: Path, signed: Path) -> None:
        """Write a file's text with its signature."""
        self._run("--clearsign", "--output", str(signed), str(path))

    def detached(self, path: Path, signature: Path) -> None:
        """Write a file's signature, armoured."""
        self._run("--armor", "--detach-sign", "--output", str(signature), str(path))


def apt(release: Release, packages: Path, out: Path, signer: Signer | None) -> None:
    """Write a repository for apt: `dists/SUITE/main/binary-MACHINE/Packages`, `pool/`."""
    for suite, python in SUITES.items():
        chosen = [
            path for path in sorted(packages.glob("*.deb"))
            if "+py" not in path.name or f"+py{python}_" in path.name
        ]  # fmt: skip
        for path in chosen:
            place(path, out / "pool" / path.name)
        folder = out / "dists" / suite
        for machine in MACHINES:
            texts = [stanza(release, path) for path in chosen if _is_for(path, machine)]
            listing = folder / f"main/binary-{machine}/Packages"
            listing.parent.mkdir(parents=True, exist_ok=True)
            listing.write_text("\n".join(texts))
            packed = gzip.compress(listing.read_bytes(), mtime=0)
            listing.with_name("Packages.gz").write_bytes(packed)
        release_file = folder / "Release"
        release_file.write_text(release_text(release, suite, folder))
        if signer is not None:
            signer.clear(release_file, folder / "InRelease")
            signer.detached(release_file, folder / "Release.gpg")


def _is_for(path: Path, machine: str) -> bool:
    return path.stem.endswith((f"_{machine}", "_all"))


def stanza(release: Release, path: Path) -> str:
    """Return a package's part of Packages: its control file, where it is, its size and hash."""
    control = release.run("dpkg-deb", "--field", path).strip()
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{control}\nFilename: pool/{path.name}\nSize: {path.stat().st_size}\nSHA256: {digest}\n"


def release_text(release: Release, suite: str, folder: Path) -> str:
    """Return a suite's Release: what it is, and the size and hash of each of its listings."""
    when = email.utils.formatdate(release.epoch, usegmt=True)
    lines = [
        "Origin: giveback", "Label: giveback", f"Suite: {suite}", f"Codename: {suite}",
        f"Date: {when}", f"Architectures: {' '.join(MACHINES)}", "Components: main",
        f"Description: giveback {release.version}", "SHA256:",
    ]  # fmt: skip
    return "\n".join([*lines, *_hashes(folder)]) + "\n"


def _hashes(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("Packages*")):
        data = path.read_bytes()
        yield f" {hashlib.sha256(data).hexdigest()} {len(data)} {path.relative_to(folder)}"


def yum(release: Release, packages: Path, out: Path, signer: Signer | None) -> None:
    """Write a repository for dnf and zypper for each Python: packages and `repodata/`."""
    tool = Path(sys.executable).with_name("createrepo_c")
    for python in _RPM_PYTHONS:
        folder = out / f"py{python}"
        mark = f".py{python.replace('.', '')}."
        for path in sorted(packages.glob("*.rpm")):
            if path.name.startswith("giveback-agent-") or mark in path.name:
                place(path, folder / path.name)
        release.run(
            tool, "--quiet", "--no-database", "--general-compress-type", "gz", "--revision",
            str(release.epoch), "--set-timestamp-to-revision", folder,
        )  # fmt: skip
        if signer is not None:
            index = folder / "repodata/repomd.xml"
            signer.detached(index, index.with_name("repomd.xml.asc"))


def place(source: Path, target: Path) -> None:
    """Put a package at a second place: a link to the same bytes where the file system has them."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
