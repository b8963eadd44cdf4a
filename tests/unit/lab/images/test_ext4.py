"""Disks with owners, made without root: read back by debugfs, as the kernel would see them."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from giveback.errors import InputError
from giveback_lab.images import ext4

PATH = "/usr/sbin:/sbin:/usr/bin:/bin"


def stat_of(disk: Path, name: str) -> tuple[int, int, int]:
    """Return mode, owner and group of a file on a disk."""
    done = subprocess.run(
        ["debugfs", "-R", f'stat "{name}"', str(disk)],
        capture_output=True, text=True, check=True, env={"PATH": PATH},
    )  # fmt: skip
    mode = re.search(r"Mode: +(\d+)", done.stdout)
    owner = re.search(r"User: +(\d+) +Group: +(\d+)", done.stdout)
    assert mode is not None
    assert owner is not None
    return int(mode[1], 8), int(owner[1]), int(owner[2])


def add(
    archive: tarfile.TarFile, name: str, mode: int, owner: tuple[int, int], **more: object
) -> None:
    member = tarfile.TarInfo(name)
    member.mode, (member.uid, member.gid) = mode, owner
    for field, value in more.items():
        setattr(member, field, value)
    archive.addfile(member, io.BytesIO(b"x" * member.size))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "base.tar"
    with tarfile.open(path, "w") as into:
        add(into, "./", 0o755, (0, 0), type=tarfile.DIRTYPE)
        add(into, "./a/", 0o750, (100, 102), type=tarfile.DIRTYPE)
        add(into, "./a/with space \u00e4", 0o640, (100, 4), size=3)
        add(into, "./su", 0o4755, (0, 42), size=1)
        add(into, "./link", 0o777, (7, 8), type=tarfile.SYMTYPE, linkname="a")
        add(into, "./dev/", 0o755, (0, 0), type=tarfile.DIRTYPE)
        add(into, "./dev/null", 0o666, (0, 0), type=tarfile.CHRTYPE, devmajor=1, devminor=3)
    return path


def test_owners_and_modes_are_the_archives(archive: Path, tmp_path: Path) -> None:
    tree, disk = tmp_path / "tree", tmp_path / "disk.ext4"
    owners = ext4.unpack_archive(archive, tree)
    assert not (tree / "dev/null").exists()
    (tree / "added").write_text("by the lab")
    ext4.make_ext4(disk, 8 << 20, tree)
    ext4.set_owners(disk, tree, owners)
    assert stat_of(disk, "/a") == (0o750, 100, 102)
    assert stat_of(disk, "/a/with space \u00e4") == (0o640, 100, 4)
    assert stat_of(disk, "/su") == (0o4755, 0, 42)
    assert stat_of(disk, "/link")[1:] == (7, 8)
    assert stat_of(disk, "/added")[1:] == (0, 0)


def test_a_disk_that_lacks_what_it_should_have_is_refused(archive: Path, tmp_path: Path) -> None:
    tree, disk = tmp_path / "tree", tmp_path / "disk.ext4"
    owners = ext4.unpack_archive(archive, tree)
    ext4.make_ext4(disk, 8 << 20, tree)
    (tree / "not-on-the-disk").touch()
    with pytest.raises(InputError, match=r"disk\.ext4: debugfs: .*not-on-the-disk"):
        ext4.set_owners(disk, tree, owners)


def test_a_broken_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "base.tar").write_bytes(b"no archive" * 100)
    with pytest.raises(InputError, match=r"base\.tar: cannot be unpacked"):
        ext4.unpack_archive(tmp_path / "base.tar", tmp_path / "tree")


def test_programs_that_are_missing_are_named_by_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    with pytest.raises(InputError, match="mke2fs: not found: install the package e2fsprogs"):
        ext4.make_ext4(tmp_path / "d", 1 << 20)
