"""CPU time on the host, by process, also of VMs that have ended."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError
from giveback_lab.bench.run.host_load import (
    HostLoad,
    LoadMark,
    others_share,
    parse_process_stat,
    process_cpu,
)

AMOUNT = st.floats(0, 1e6)


def write_host(root: Path, busy: int, idle: int) -> None:
    (root / "proc").mkdir(exist_ok=True)
    (root / "proc" / "stat").write_text(f"cpu  {busy} 0 0 {idle} 0 0 0 0 50 0\ncpu0 1 1 1 1\n")


def write_process(root: Path, pid: int, ticks: int) -> None:
    (root / "proc" / str(pid)).mkdir(parents=True, exist_ok=True)
    stat = f"{pid} (qemu) (x) S 1 1 1 0 -1 0 0 0 0 0 {ticks} {ticks} 7 7 20 0 9 0"
    (root / "proc" / str(pid) / "stat").write_text(stat)


def test_a_process_name_may_hold_anything(tmp_path: Path) -> None:
    write_process(tmp_path, 5, 250)
    found = process_cpu(5, str(tmp_path))
    assert (found.user_s, found.system_s, found.total_s) == (2.5, 2.5, 5.0)


def test_a_process_that_has_gone_is_said(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="has the VM ended"):
        process_cpu(5, str(tmp_path))


@given(st.text())
def test_other_text_is_no_process(text: str) -> None:
    found = parse_process_stat(text)
    assert found is None or found.total_s >= 0


@given(st.text())
def test_other_text_is_no_host(text: str) -> None:
    with tempfile.TemporaryDirectory() as root:
        (Path(root) / "proc").mkdir()
        (Path(root) / "proc" / "stat").write_text(text)
        try:
            found = HostLoad(root).mark()
        except VmError:
            return
        assert found.busy_s <= found.all_s


def test_what_is_guest_time_is_user_time_already(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "stat").write_text("cpu  100 0 100 300 100 0 0 0 77 0\ncpu0 1 1 1 1\n")
    found = HostLoad(str(tmp_path)).mark()
    assert (found.busy_s, found.all_s) == (2.0, 6.0)


def test_vms_that_have_ended_stay_ours(tmp_path: Path) -> None:
    load = HostLoad(str(tmp_path))
    write_host(tmp_path, 0, 0)
    write_process(tmp_path, 7, 0)
    write_process(tmp_path, 8, 0)
    load.follow([7, 8])
    first = load.mark()
    write_process(tmp_path, 7, 2000)
    write_process(tmp_path, 8, 1000)
    load.leave([7])
    (tmp_path / "proc" / "7" / "stat").unlink()
    write_host(tmp_path, 8000, 12000)
    last = load.mark()
    assert last.ours_s == 60.0
    assert others_share(first, last) == pytest.approx(0.1)


def test_a_vm_that_ended_by_itself_counts_as_it_was_last_seen(tmp_path: Path) -> None:
    load = HostLoad(str(tmp_path))
    write_host(tmp_path, 10, 10)
    write_process(tmp_path, 7, 500)
    load.follow([7])
    assert load.mark().ours_s == 10.0
    (tmp_path / "proc" / "7" / "stat").unlink()
    assert load.mark().ours_s == 10.0


@given(*[AMOUNT] * 6)
def test_a_share_is_a_share(a: float, b: float, c: float, d: float, e: float, f: float) -> None:
    assert 0 <= others_share(LoadMark(a, b, c), LoadMark(d, e, f)) <= 1
