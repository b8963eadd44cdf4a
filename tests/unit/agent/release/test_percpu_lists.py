"""Per-CPU lists: drained by a setting that is always restored."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agent_kernel_samples import plant
from agent_killed_at_line import killed_at_line
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.errors import AgentError
from giveback_agent.release import percpu_lists
from giveback_agent.runtime import child
from giveback_kernel.errors import KernelFileError


def guest(folder: Path, fraction: bytes = b"0\n") -> str:
    return plant(folder, {percpu_lists.PATH: fraction})


def fraction(root: str) -> int:
    """Return the value as a kernel would show it: a fake file keeps the end of a longer value."""
    return int(Path(root + percpu_lists.PATH).read_text().split()[0])


def state_of(root: str) -> Path:
    return Path(root + percpu_lists.STATE_PATH)


@pytest.mark.parametrize("original", [0, 8, 100])
def test_the_lists_are_short_while_pages_are_freed_and_then_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, original: int
) -> None:
    root = guest(tmp_path, f"{original}\n".encode())
    seen = []

    def look(work: object, timeout_s: float) -> child.Outcome:
        del work, timeout_s
        seen.append((fraction(root), state_of(root).read_text()))
        return child.Outcome(b"")

    monkeypatch.setattr(child, "in_child", look)
    assert percpu_lists.drain(root) == ""
    assert seen == [(percpu_lists.SHORTEST, f"{original}\n")]
    assert fraction(root) == original
    assert not state_of(root).exists()
    assert percpu_lists.repair(root) is None


def test_pages_are_freed_on_every_cpu() -> None:
    before = os.sched_getaffinity(0)
    assert child.in_child(percpu_lists._free_on_each_cpu, 10.0) == child.Outcome(b"")
    assert os.sched_getaffinity(0) == before


def test_a_child_that_fails_is_told_and_the_fraction_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = guest(tmp_path)
    monkeypatch.setattr(child, "in_child", lambda *_: child.Outcome(b"", "no answer"))
    assert percpu_lists.drain(root) == "no answer"
    assert fraction(root) == 0


def test_a_fraction_that_another_process_has_set_is_left_alone(tmp_path: Path) -> None:
    root = guest(tmp_path, b"16\n")
    state_of(root).parent.mkdir(parents=True)
    state_of(root).write_text("0\n")
    assert percpu_lists.repair(root) is None
    assert fraction(root) == 16
    assert not state_of(root).exists()


def test_a_state_that_cannot_be_kept_changes_nothing(tmp_path: Path) -> None:
    root = guest(tmp_path)
    (tmp_path / "run").write_text("not a folder")
    with pytest.raises(AgentError):
        percpu_lists.drain(root)
    assert fraction(root) == 0


def test_a_kernel_without_the_setting(tmp_path: Path) -> None:
    root = plant(tmp_path, {})
    assert not percpu_lists.is_permitted(root)
    assert percpu_lists.repair(root) is None
    with pytest.raises(KernelFileError):
        percpu_lists.drain(root)


@given(st.binary(max_size=40))
@settings(deadline=None, max_examples=200)
def test_an_invalid_record_becomes_the_kernels_default(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = guest(Path(folder), f"{percpu_lists.SHORTEST}\n".encode())
        state_of(root).parent.mkdir(parents=True)
        state_of(root).write_bytes(data)
        restored = percpu_lists.repair(root)
        assert restored == fraction(root)
        assert restored == 0 or 8 <= restored < percpu_lists.SHORTEST
        assert not state_of(root).exists()


def test_a_kill_at_any_line_is_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = guest(tmp_path)
    monkeypatch.setattr(percpu_lists, "_free_on_each_cpu", lambda: b"")
    seen = set()
    for number in range(1, 2000):
        killed = killed_at_line(number, lambda: percpu_lists.drain(root))
        seen.add(fraction(root))
        percpu_lists.repair(root)
        assert fraction(root) == 0
        assert not state_of(root).exists()
        if not killed:
            break
    else:
        pytest.fail("it never got to the end")
    assert seen == {0, percpu_lists.SHORTEST}
    assert number > 20
