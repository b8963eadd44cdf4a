"""A saved value: recorded before it is changed, restored by the next process."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.errors import AgentError
from giveback_agent.runtime.saved_value import Changed, Saved, SavedValue, SavedValues
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

PLAIN = SavedValue("order", "the order")
OF_A_FILE = SavedValue("weight", "the weight", file_name="cpu.weight", record_limit_bytes=4096)


@given(st.integers(0, 10**9))
def test_a_value_comes_back_as_it_was_saved(
    tmp_path_factory: pytest.TempPathFactory, n: int
) -> None:
    root = str(tmp_path_factory.mktemp("root"))
    PLAIN.save(root, Saved(n))
    assert PLAIN.load(root, n + 1) == Saved(n)
    OF_A_FILE.save(root, Saved(n, "/sys/fs/cgroup/a b/cpu.weight"))
    assert OF_A_FILE.load(root, n + 1) == Saved(n, "/sys/fs/cgroup/a b/cpu.weight")


@given(st.binary(max_size=64))
def test_no_record_makes_it_write_another_file(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    root = tmp_path_factory.mktemp("root")
    record = root / OF_A_FILE.record_path.lstrip("/")
    record.parent.mkdir(parents=True)
    record.write_bytes(data)
    try:
        path = OF_A_FILE.load(str(root), 100).path
    except KernelFileError:
        return
    assert path.startswith("/")
    assert path.endswith("/cpu.weight")
    assert "/../" not in path


def test_what_cannot_be_put_on_record_must_not_be_changed(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises((KernelFileError, AgentError)):
        PLAIN.save(str(tmp_path), Saved(1))


def test_the_record_stays_where_the_value_cannot_be_put_back(tmp_path: Path) -> None:
    root = str(tmp_path)
    PLAIN.save(root, Saved(9))

    def refuse(saved: Saved) -> None:
        files.write(root, "/not/there", str(saved.value))

    with pytest.raises(KernelFileError):
        PLAIN.restore(root, lambda: Saved(9), lambda _: True, refuse)
    assert PLAIN.is_saved(root)
    written: list[Saved] = []
    done = PLAIN.restore(root, lambda: PLAIN.load(root, 10), lambda _: True, written.append)
    assert (done.saved, written, PLAIN.is_saved(root)) == (Saved(9), [Saved(9)], False)


def test_a_value_that_somebody_else_has_set_is_left_alone(tmp_path: Path) -> None:
    root = str(tmp_path)
    assert not PLAIN.restore(root, lambda: None, lambda _: True, _must_not).found
    PLAIN.save(root, Saved(9))
    done = PLAIN.restore(root, lambda: PLAIN.load(root, 10), lambda _: False, _must_not)
    assert (done.found, done.saved, PLAIN.is_saved(root)) == (True, None, False)


def _must_not(saved: Saved) -> None:
    pytest.fail(f"{saved} was written")


LIMITS = SavedValues("limit", "memory.high")
VALUES = st.one_of(st.just("max"), st.integers(0, (1 << 63) - 1).map(str))


def limit_files(root: Path, values: list[str]) -> list[str]:
    paths = [f"/sys/fs/cgroup/a b/{n}/memory.high" for n in range(len(values))]
    for path, value in zip(paths, values, strict=True):
        file = root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{value}\n")
    return paths


@given(st.lists(st.tuples(VALUES, VALUES, st.none() | VALUES), min_size=1, max_size=6))
def test_each_of_many_values_comes_back_unless_somebody_else_has_set_it(
    tmp_path_factory: pytest.TempPathFactory, files_: list[tuple[str, str, str | None]]
) -> None:
    root = tmp_path_factory.mktemp("root")
    paths = limit_files(root, [original for original, _, _ in files_])
    changes = [Changed(o, ours, p) for (o, ours, _), p in zip(files_, paths, strict=True)]
    assert LIMITS.change(str(root), tuple(changes)) == len(paths)
    for path, (_, _, theirs) in zip(paths, files_, strict=True):
        if theirs is not None:
            # As the kernel does: a shorter value leaves nothing of a longer one.
            (root / path.lstrip("/")).write_text(f"{theirs}\n")
    LIMITS.restore(str(root))
    for path, (original, ours, theirs) in zip(paths, files_, strict=True):
        expected = original if theirs is None or theirs == ours else theirs
        assert LIMITS.read(str(root), path) == expected
    assert not LIMITS.is_saved(str(root))


def test_too_many_values_change_nothing(tmp_path: Path) -> None:
    (path,) = limit_files(tmp_path, ["max"])
    many = tuple(Changed("max", "1", path) for _ in range(1 << 15))
    with pytest.raises(KernelFileError, match="too many"):
        LIMITS.change(str(tmp_path), many)
    assert LIMITS.read(str(tmp_path), path) == "max"
    assert not LIMITS.is_saved(str(tmp_path))


def test_a_file_that_refuses_its_original_keeps_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(tmp_path)
    paths = limit_files(tmp_path, ["max", "7"])
    LIMITS.change(root, (Changed("max", "1", paths[0]), Changed("7", "2", paths[1])))
    write = files.write

    def refuse(where: str, path: str, text: str) -> None:
        if path == paths[1]:
            raise KernelFileError(path, "refused")
        write(where, path, text)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write", refuse)
        with pytest.raises(KernelFileError, match="refuses"):
            LIMITS.restore(root)
    assert LIMITS.is_saved(root)
    # A value that was restored already is not the agent's any more, and stays.
    assert LIMITS.restore(root) == 1
    assert [LIMITS.read(root, path) for path in paths] == ["max", "7"]


def test_a_file_that_has_vanished_is_no_reason_to_keep_the_record(tmp_path: Path) -> None:
    root = str(tmp_path)
    (path,) = limit_files(tmp_path, ["max"])
    LIMITS.change(root, (Changed("max", "1", path),))
    (tmp_path / path.lstrip("/")).unlink()
    assert LIMITS.restore(root) == 0
    assert LIMITS.restore(root) is None


def test_a_cgroup_of_any_name_comes_back(tmp_path: Path) -> None:
    folder = os.fsdecode(b"/sys/fs/cgroup/\xff\xc3")
    path = f"{folder}/memory.high"
    full = tmp_path / path.lstrip("/")
    full.parent.mkdir(parents=True)
    full.write_text("max\n")
    LIMITS.change(str(tmp_path), (Changed("max", "1", path),))
    assert LIMITS.restore(str(tmp_path)) == 1
    assert full.read_text().splitlines()[0] == "max"


def test_what_a_live_process_has_changed_is_its_own(tmp_path: Path) -> None:
    root = str(tmp_path)
    (path,) = limit_files(tmp_path, ["max"])
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        LIMITS.change(root, (Changed("max", "1", path),))
        os.write(writer, b"x")
        signal.pause()
        os._exit(0)
    os.read(reader, 1)
    assert LIMITS.restore(root) is None
    with pytest.raises(KernelFileError, match="another process"):
        LIMITS.change(root, (Changed("max", "2", path),))
    assert (LIMITS.read(root, path), LIMITS.is_saved(root)) == ("1", True)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert LIMITS.restore(root) == 1
    assert LIMITS.read(root, path) == "max"
    os.close(reader)
    os.close(writer)


def test_a_second_change_undoes_the_first(tmp_path: Path) -> None:
    root = str(tmp_path)
    one, two = limit_files(tmp_path, ["max", "max"])
    LIMITS.change(root, (Changed("max", "1", one),))
    LIMITS.change(root, (Changed("max", "2", two),))
    assert [LIMITS.read(root, path) for path in (one, two)] == ["max", "2"]
    assert LIMITS.restore(root) == 1
    assert [LIMITS.read(root, path) for path in (one, two)] == ["max", "max"]
