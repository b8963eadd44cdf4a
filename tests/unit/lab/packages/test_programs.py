"""A program of a package: the installed one first, else the unpacked one with its libraries."""

from __future__ import annotations

from pathlib import Path

import pytest

from giveback.errors import InputError
from giveback_lab.packages import programs
from giveback_lab.packages.architecture import X86_64


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(programs, "host_architecture", lambda: X86_64)
    monkeypatch.setattr(programs, "Apt", lambda: None)
    programs.packaged_program.cache_clear()


def make(path: Path) -> Path:
    path.parent.mkdir(parents=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_the_installed_one_is_taken_as_it_is(tmp_path: Path) -> None:
    path = make(tmp_path / "bin" / "peer")
    assert programs.packaged_program("package", "peer") == programs.Program(path)


def test_a_fetched_one_finds_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "tree", lambda _apt, names: tmp_path / "-".join(names))
    path = make(tmp_path / "package/usr/sbin/peer")
    found = programs.packaged_program("package", "peer")
    assert (found.path, found.files) == (path, tmp_path / "package")
    libraries = tmp_path / "package/usr/lib/x86_64-linux-gnu"
    assert found.environment == {"LD_LIBRARY_PATH": f"{libraries}:{libraries}/systemd"}


def test_a_static_one_comes_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "tree_alone", lambda package: tmp_path / package)
    path = make(tmp_path / "package/usr/bin/peer")
    found = programs.packaged_program("package", "peer", static=True)
    assert (found.path, found.environment) == (path, {})


def test_a_package_without_it_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "tree", lambda *_: tmp_path)
    with pytest.raises(InputError, match="package: the package has no program peer"):
        programs.packaged_program("package", "peer")
