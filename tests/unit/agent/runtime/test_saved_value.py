"""A saved value: on record before anything is changed, put back by whoever comes next."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.errors import AgentError
from giveback_agent.runtime.saved_value import Saved, SavedValue
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
