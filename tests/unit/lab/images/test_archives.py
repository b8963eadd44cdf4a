"""The guest's initrd: cpio archives, modules in their order, the zip applications in it."""

from __future__ import annotations

import ast
import gzip
import io
import lzma
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback.guest import zipapps
from giveback_lab.images import cpio, modules

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}", fullmatch=True)


@dataclass(frozen=True)
class Member:
    inode: int
    mode: int
    links: int
    data: bytes


def read_newc(data: bytes) -> dict[str, Member]:
    """Read an archive by the format's own description, independently of the code that writes it."""
    members: dict[str, Member] = {}
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        numbers = [int(data[at + 6 + 8 * i : at + 14 + 8 * i], 16) for i in range(13)]
        name_end = at + 110 + numbers[11]
        name = data[at + 110 : name_end - 1].decode()
        assert data[name_end - 1] == 0
        body = name_end + -name_end % 4
        end = body + numbers[6]
        if name == "TRAILER!!!":
            assert end == len(data)
            return members
        assert name not in members
        members[name] = Member(numbers[0], numbers[1], numbers[4], data[body:end])
        at = end + -end % 4


@given(st.dictionaries(NAMES, st.binary(max_size=40), max_size=6))
def test_archive_holds_every_file_and_its_folders_before_it(files: dict[str, bytes]) -> None:
    wanted = {n: d for n, d in files.items() if not any(o.startswith(n + "/") for o in files)}
    found = read_newc(cpio.archive([cpio.ArchiveEntry(n, d) for n, d in wanted.items()]))
    names = list(found)
    for name, data in wanted.items():
        assert found[name].data == data
        assert found[name].mode == cpio.FILE_MODE
        folder = name.rpartition("/")[0]
        if folder:
            assert found[folder].mode == cpio.DIRECTORY_MODE
            assert names.index(folder) < names.index(name)
    assert len({m.inode for m in found.values()}) == len(found)


def test_archive_is_the_same_for_the_same_content_and_keeps_modes() -> None:
    entries = [
        cpio.ArchiveEntry("init", b"#!", cpio.PROGRAM_MODE),
        cpio.ArchiveEntry("a/link", b"../init", cpio.SYMLINK_MODE),
    ]
    assert cpio.archive(entries) == cpio.archive(entries)
    found = read_newc(cpio.archive(entries))
    assert found["init"].mode == cpio.PROGRAM_MODE
    assert found["a/link"].data == b"../init"


def module_bytes(*needs: str, license_: str = "GPL") -> bytes:
    return b"\x7fELF\0license=%b\0depends=%b\0name=x\0" % (
        license_.encode(),
        ",".join(needs).encode(),
    )


def modules_dir(root: Path, files: dict[str, bytes], builtin: str = "") -> Path:
    for name, data in files.items():
        path = root / "kernel" / "drivers" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "modules.builtin").write_text(builtin)
    return root


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    root = modules_dir(
        tmp_path,
        {
            "ext4.ko": module_bytes("mbcache", "jbd2", "crc32c-generic"),
            "jbd2.ko.xz": lzma.compress(module_bytes("crc16")),
            "mbcache.ko.gz": gzip.compress(module_bytes()),
            "crc16.ko": module_bytes(),
        },
        "kernel/crypto/crc32c-generic.ko\n",
    )
    found = modules.ordered_modules(root, ["ext4"], frozenset())
    names = [m.name for m in found]
    assert set(names) == {"ext4", "jbd2", "mbcache", "crc16"}
    assert names[-1] == "ext4"
    assert names.index("crc16") < names.index("jbd2")
    assert all(m.data.startswith(b"\x7fELF") for m in found)


def test_a_missing_module_is_named_unless_it_is_optional(tmp_path: Path) -> None:
    root = modules_dir(tmp_path, {"a.ko": module_bytes()})
    assert [m.name for m in modules.ordered_modules(root, ["a", "zram"], frozenset({"zram"}))] == [
        "a"
    ]
    with pytest.raises(InputError, match="virtio_balloon"):
        modules.ordered_modules(root, ["virtio_balloon"], frozenset())


def test_modules_that_need_each_other_do_not_hang(tmp_path: Path) -> None:
    root = modules_dir(tmp_path, {"a.ko": module_bytes("b"), "b.ko": module_bytes("a")})
    assert {m.name for m in modules.ordered_modules(root, ["a"], frozenset())} == {"a", "b"}


@pytest.mark.parametrize("name", ["m.ko.xz", "m.ko.gz", "m.ko.zst"])
def test_a_broken_module_is_named(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"m\.ko"):
        modules.read_module(path)


def test_without_zstd_its_package_is_taken_and_named_where_it_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.ko.zst"
    path.write_bytes(b"compressed")
    program = tmp_path / "usr/bin/zstd"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$1 $(/bin/cat) $LD_LIBRARY_PATH"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(modules, "Apt", lambda: None)
    monkeypatch.setattr(modules, "tree", lambda *_: tmp_path)
    said = modules.read_module(path).decode()
    assert said.startswith(f"-dc compressed {tmp_path}/usr/lib/")

    def fail(*_: object) -> Path:
        raise InputError("no network")

    monkeypatch.setattr(modules, "tree", fail)
    with pytest.raises(InputError, match=r"m\.ko\.zst: needs the program zstd.*no network"):
        modules.read_module(path)


def test_modules_without_their_listing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"modules\.builtin"):
        modules.ordered_modules(tmp_path, ["a"], frozenset())


@given(st.binary(max_size=300))
def test_dependencies_of_any_bytes(data: bytes) -> None:
    assert all(isinstance(n, str) for n in modules.dependencies(data))
    assert modules.dependencies(b"\0depends=a-b,c\0" + data)[:2] == ["a_b", "c"]


@pytest.mark.parametrize("make", [zipapps.agent_zipapp, zipapps.lab_guest_zipapp])
def test_zipapp_is_reproducible_and_has_only_stdlib_imports_and_old_syntax(make: object) -> None:
    assert callable(make)
    data = make()
    assert data == make()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = archive.namelist()
        own = {n.split("/")[0] for n in names if "/" in n}
        assert own <= {"giveback_agent", "giveback_kernel", "giveback_lab_guest"}
        assert "__main__.py" in names
        for name in names:
            for imported in runtime_imports(ast.parse(archive.read(name))):
                root = imported.split(".")[0]
                assert root in own or root in sys.stdlib_module_names, f"{name} imports {imported}"
            ast.parse(archive.read(name), feature_version=(3, 9))


def runtime_imports(tree: ast.Module) -> list[str]:
    """Return all imports except those under TYPE_CHECKING."""
    found: list[str] = []
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            pending.extend(node.orelse)
            continue
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
        pending.extend(ast.iter_child_nodes(node))
    return found


def oldest_python() -> str | None:
    """Return the oldest Python >= 3.9 that runs; a shim on PATH may have no Python behind it."""
    for minor in range(9, sys.version_info.minor):
        program = shutil.which(f"python3.{minor}")
        if program is None:
            continue
        if subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0:
            return program
    return None


@pytest.mark.parametrize("make", [zipapps.agent_zipapp, zipapps.lab_guest_zipapp])
def test_zipapp_runs_with_the_oldest_python(make: object, tmp_path: Path) -> None:
    python = oldest_python()
    if python is None:
        pytest.skip("no Python from 3.9 to this one that runs is on PATH")
    assert callable(make)
    app = tmp_path / "app.pyz"
    app.write_bytes(make())
    done = subprocess.run(
        [python, "-I", str(app), "no-such-command"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
