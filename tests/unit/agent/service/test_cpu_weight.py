"""The CPU weight: the default one during urgency 3, and then restored in any case."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from agent_killed_at_line import killed_at_line
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.runtime import run_dir
from giveback_agent.service import cpu_weight
from giveback_agent.service.loop import Service
from giveback_agent.settings.table import AgentSettings

FOLDER = "/sys/fs/cgroup/giveback-agent.service"
WEIGHT = f"{FOLDER}/cpu.weight"
MOUNT = b"25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
ME = os.getpid()


def guest(folder: Path, weight: bytes = b"1\n", procs: bytes = b"") -> str:
    cgroup_files = {
        "/proc/self/mountinfo": MOUNT,
        "/proc/self/cgroup": b"0::/giveback-agent.service\n",
        f"{FOLDER}/cgroup.procs": procs or b"%d\n" % ME,
        WEIGHT: weight,
    }
    return plant(folder, {**GUEST, **cgroup_files})


def weight(root: str) -> int:
    """Return the value as a kernel would show it: a fake file keeps the end of a longer value."""
    return int(Path(root + WEIGHT).read_text().split()[0])


def state_of(root: str) -> Path:
    return Path(root + cpu_weight.STATE_PATH)


@pytest.fixture(autouse=True)
def _classes(monkeypatch: pytest.MonkeyPatch) -> None:
    # Not for the rest of the tests in this process.
    monkeypatch.setattr(cpu_weight, "become_idle_class", lambda: True)
    monkeypatch.setattr(cpu_weight, "become_normal_class", lambda: True)


def test_a_service_has_the_default_weight_during_urgency_3_only(tmp_path: Path) -> None:
    root = guest(tmp_path)
    run_dir.make_folder(root)
    service = Service(root, AgentSettings(), lambda _: None)
    service._press(True)
    assert (weight(root), service._cpu_weight.pressing) == (cpu_weight.FAIR, True)
    service._press(True)
    assert state_of(root).read_text() == f"1 {WEIGHT}\n"
    service._press(False)
    assert (weight(root), state_of(root).exists()) == (1, False)
    service._press(True)
    service._close()
    assert (weight(root), state_of(root).exists()) == (1, False)


def test_a_dry_run_keeps_its_low_weight(tmp_path: Path) -> None:
    root = guest(tmp_path)
    run_dir.make_folder(root)
    service = Service(root, AgentSettings(dry_run=True), lambda _: None)
    service._press(True)
    assert weight(root) == 1
    service._close()


@pytest.mark.parametrize(
    ("procs", "found"),
    [(b"%d\n1\n" % ME, b"1\n"), (b"", b"100\n"), (b"", b"500\n")],
    ids=["of others", "with the default", "with more"],
)
def test_a_cgroup_of_others_or_with_its_share_is_left_alone(
    tmp_path: Path, procs: bytes, found: bytes
) -> None:
    root = guest(tmp_path, found, procs)
    assert not cpu_weight.raise_weight(root, (ME,))
    assert Path(root + WEIGHT).read_bytes() == found
    assert not state_of(root).exists()


def test_the_top_cgroup_is_everybodys(tmp_path: Path) -> None:
    root = guest(tmp_path)
    Path(root + "/proc/self/cgroup").write_text("0::/\n")
    assert not cpu_weight.raise_weight(root, (ME,))


def test_a_weight_that_another_process_has_set_is_left_alone(tmp_path: Path) -> None:
    root = guest(tmp_path)
    assert cpu_weight.raise_weight(root, (ME,))
    Path(root + WEIGHT).write_text("50\n")
    assert cpu_weight.restore(root) is None
    assert (weight(root), state_of(root).exists()) == (50, False)


def test_a_cgroup_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    root = guest(tmp_path)
    assert cpu_weight.raise_weight(root, (ME,))
    Path(root + WEIGHT).unlink()
    assert cpu_weight.restore(root) is None
    assert not state_of(root).exists()


def test_a_weight_that_cannot_be_kept_or_set_is_told_and_nothing_is_changed(tmp_path: Path) -> None:
    root = guest(tmp_path)
    (tmp_path / "run").write_text("not a folder")
    own_weight = cpu_weight.CpuWeight(root)
    assert "keeps its low CPU weight" in own_weight.press(True, (ME,))
    assert weight(root) == 1
    (tmp_path / "run").unlink()
    assert own_weight.press(False, (ME,)) == ""


@given(st.binary(max_size=40))
def test_an_invalid_record_is_not_restored(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        root = guest(Path(folder), b"100\n")
        state_of(root).parent.mkdir(parents=True)
        state_of(root).write_bytes(data)
        assert cpu_weight.restore(root) is None
        assert weight(root) == cpu_weight.FAIR


def test_a_kill_at_any_line_is_repaired(tmp_path: Path) -> None:
    root = guest(tmp_path)
    pids = range(1, 1 << 22)

    def work() -> None:
        # A child has another pid than the one in the fake file.
        cpu_weight.raise_weight(root, pids)
        cpu_weight.restore(root)

    seen = set()
    for number in range(1, 2000):
        killed = killed_at_line(number, work)
        seen.add(weight(root))
        cpu_weight.restore(root)
        assert weight(root) == 1
        assert not state_of(root).exists()
        if not killed:
            break
    else:
        pytest.fail("it never got to the end")
    assert seen == {1, cpu_weight.FAIR}
