"""The cache: keys of content, builds that are killed, locks; and VM folders of dead processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.cli import main
from giveback.errors import InputError
from giveback_lab.packages import cache
from giveback_lab.packages.cache import building, cache_root, content_key, keep_newest, locked
from giveback_lab.vms import folders


@given(st.lists(st.text(max_size=8), max_size=4), st.lists(st.text(max_size=8), max_size=4))
def test_content_keys_differ_where_content_does(one: list[str], other: list[str]) -> None:
    assert (content_key(*one) == content_key(*other)) == (one == other)


def test_a_build_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "t"
    with building(target) as scratch:
        (scratch / "f").write_text("x")
        assert not target.exists()
    assert (target / "f").read_text() == "x"
    assert [p.name for p in tmp_path.iterdir()] == ["t"]


def test_a_build_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail_half_way() -> None:
        with building(tmp_path / "t") as scratch:
            (scratch / "f").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert list(tmp_path.iterdir()) == []


def test_a_build_that_is_killed_leaves_no_target_and_its_rest_is_swept(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from giveback_lab.packages.cache import building\n"
        "with building(Path(sys.argv[1])) as s:\n"
        "    (s / 'f').write_text('x'); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    target = tmp_path / "t"
    done = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not target.exists()
    with building(target) as scratch:
        assert [p for p in tmp_path.iterdir() if p != scratch] == []
    assert target.is_dir()


def test_a_lock_is_let_go_when_its_holder_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from giveback_lab.packages.cache import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        holder.kill()
        with locked(tmp_path):
            pass


def test_cache_root_that_cannot_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(InputError, match="XDG_CACHE_HOME"):
        cache_root()


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(5):
        folder = tmp_path / f"d{number}"
        folder.mkdir()
        os.utime(folder, (number, number))
    (tmp_path / ".lock").touch()
    keep_newest(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", "d3", "d4"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folders, "candidates", lambda: (tmp_path,))
    return tmp_path


def test_a_vm_folder_is_gone_when_removed_and_twice_does_no_harm(temporary: Path) -> None:
    folder = folders.VmFolder()
    assert folder.path.parent == temporary
    folder.remove()
    folder.remove()
    assert list(temporary.iterdir()) == []


def test_sweeping_takes_the_dead_ones_folder_only(temporary: Path) -> None:
    alive = folders.VmFolder()
    program = (
        "import os, signal; from giveback_lab.vms.folders import VmFolder\n"
        "f = VmFolder(); (f.path / 'work.ext4').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run(
        [sys.executable, "-c", program], check=False, env={**os.environ, "TMPDIR": str(temporary)}
    )
    (temporary / "giveback-vm-foreign").mkdir()
    (temporary / "giveback-vm-link").symlink_to("/")
    removed = folders.sweep()
    assert len(removed) == 1
    left = {p.name for p in temporary.iterdir()}
    assert left == {alive.path.name, "giveback-vm-foreign", "giveback-vm-link"}
    alive.remove()


def test_a_temporary_folder_too_long_for_a_socket_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    folder = folders.VmFolder()
    try:
        assert folder.path.parent in (Path("/var/tmp"), Path("/tmp"))
        assert len(str(folder.path / folders.LONGEST_SOCKET)) <= folders.SOCKET_PATH_LIMIT
    finally:
        folder.remove()


def test_no_place_for_a_folder_is_said_with_every_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Not below tmp_path, whose own length depends on how many tests run side by side.
    long, absent = tmp_path / ("x" * 100), Path("/absent")
    monkeypatch.setattr(folders, "candidates", lambda: (long, absent))
    with pytest.raises(InputError, match=r"too long.*No such file.*TMPDIR"):
        folders.VmFolder()


def test_what_was_not_used_lately_is_removed_and_the_rest_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name, age_days in (("kernels/old", 40), ("kernels/new", 40), ("trees/fresh", 1)):
        folder = cache.cache_root() / name
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(2 << 20))
        at_s = time.time() - age_days * 86_400
        os.utime(folder, (at_s, at_s))
    cache.used(cache.cache_root() / "kernels/new")
    assert main(["cache"]) == 0
    assert "kernels      2 entries" in capsys.readouterr().out
    assert main(["cache", "--remove-unused", "30"]) == 0
    out = capsys.readouterr().out
    assert "kernels      1 entries       2 MiB" in out
    assert "removed: 2 MiB" in out
    assert not (cache.cache_root() / "kernels/old").exists()
    assert (cache.cache_root() / "trees/fresh/file").exists()
    assert main(["cache", "--remove-unused", "-1"]) == 2
    assert main(["cache", "--remove-unused", "0"]) == 0
    assert cache.entries(cache.cache_root()) == []
