"""A source package's upstream archive through apt: found by its name, fetched once."""

from __future__ import annotations

from pathlib import Path

import pytest

from giveback.errors import InputError
from giveback_lab.packages import apt
from giveback_lab.packages.apt import Apt
from giveback_lab.packages.sources import AptSource

APT_GET = """#!/bin/sh
case "$*" in
*--print-uris*source*lz*)
    [ -e lz_1.9.orig.tar.xz ] || echo "'http://h/lz_1.9.orig.tar.xz' lz_1.9.orig.tar.xz 99 SHA256:ab"
    echo "'http://h/lz_1.9.orig.tar.xz.asc' lz_1.9.orig.tar.xz.asc 9 SHA256:ab"
    echo "'http://h/lz_1.9-1.dsc' lz_1.9-1.dsc 9 SHA256:ab";;
*--print-uris*source*native*)
    echo "'http://h/native_1.dsc' native_1.dsc 9 SHA256:ab";;
*source*lz*) echo fetched >> lz_1.9.orig.tar.xz;;
*) exit 100;;
esac
"""


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apt:
    program = tmp_path / "bin" / "apt-get"
    program.parent.mkdir()
    program.write_text(APT_GET)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    release = AptSource("http://h/debian", "bookworm", "main", "/key.gpg")
    updates = AptSource("http://h/debian", "bookworm-updates", "main", "/key.gpg")
    monkeypatch.setattr(apt, "host_sources", lambda: (release, updates))
    found = Apt(root=tmp_path / "cache", source_packages=True)
    (found.folder / "cache" / "archives").mkdir(parents=True)
    return found


def test_the_upstream_archive_is_fetched_once(sources: Apt) -> None:
    path = sources.source_archive("lz")
    assert path.name == "lz_1.9.orig.tar.xz"
    assert sources.source_archive("lz") == path
    assert path.read_text() == "fetched\n"


def test_a_package_without_one_is_named(sources: Apt) -> None:
    with pytest.raises(InputError, match="native: a source package without an upstream archive"):
        sources.source_archive("native")


def test_source_packages_are_of_the_release_and_another_state(sources: Apt, tmp_path: Path) -> None:
    binary_only = Apt(root=tmp_path / "cache")
    assert binary_only.folder != sources.folder
    release = AptSource("http://h/debian", "bookworm", "main", "")
    assert release.line(kind="deb-src") == "deb-src http://h/debian bookworm main"
