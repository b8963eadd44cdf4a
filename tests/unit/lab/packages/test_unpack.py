"""What an archive may put on the host: nothing outside of its folder, and nothing that others may write."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from giveback.errors import InputError
from giveback_lab.images.ext4 import unpack_archive
from giveback_lab.packages.apt import unpack


def archive(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as made:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            made.addfile(member, io.BytesIO(b"x"))
    return path


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside"])
def test_a_file_outside_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="lies outside"):
        unpack_archive(archive(tmp_path / "a.tar", "inside", name), tmp_path / "into")
    assert not (tmp_path / "outside").exists()


def test_names_with_dots_in_them_are_names(tmp_path: Path) -> None:
    owners = unpack_archive(archive(tmp_path / "a.tar", "./a..b", "..c"), tmp_path / "into")
    assert set(owners) == {"a..b", "..c"}


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_unpacked_packages_are_nobody_elses_to_write_whatever_the_umask(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "DEBIAN").mkdir(parents=True)
    (source / "DEBIAN/control").write_text(
        "Package: a\nVersion: 1\nArchitecture: all\nMaintainer: a <a@example.org>\nDescription: a\n"
    )
    program = source / "usr/bin/a"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    source.chmod(0o755)
    (source / "DEBIAN").chmod(0o755)
    program.chmod(0o777)
    program.parent.chmod(0o777)
    subprocess.run(["dpkg-deb", "-b", source, tmp_path / "a.deb"], check=True, capture_output=True)
    before = os.umask(0)
    try:
        unpack([tmp_path / "a.deb"], tmp_path / "into")
    finally:
        os.umask(before)
    unpacked = tmp_path / "into/usr/bin/a"
    assert unpacked.stat().st_mode & 0o777 == 0o755
    open_ones = [
        path
        for path in (tmp_path / "into").rglob("*")
        if not path.is_symlink() and path.stat().st_mode & 0o022
    ]
    assert open_ones == []
