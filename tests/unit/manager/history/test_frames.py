"""The history by moments: every VM at one time, as it was recorded."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from manager_samples import MIB, action, status, vm_status

from giveback.manager.history import frames
from giveback.manager.history.recorder import _Writer
from giveback.manager.history.schema import HistoryError, open_for_writing
from giveback.top.model import VmParts
from giveback.top.sources.history import FilePast, HistoryReplay

if TYPE_CHECKING:
    from pathlib import Path


def recorded(path: Path, *times: float) -> str:
    """A history with two VMs at these times; the first VM's residue is the time's place in MiB."""
    writer = _Writer(str(path), 64 << 20)
    for at, wall_s in enumerate(times):
        web = vm_status(
            residue_bytes=at * MIB, in_use_bytes=300 * MIB, returned_bytes=MIB, uid=0, label="team"
        )
        now = status(web, vm_status("db", 7), wall_s=wall_s)
        writer.write([now], [action(at, web.key, wall_s=wall_s)])
    writer.close()
    return str(path)


def test_each_moment_has_all_vms_as_they_were(tmp_path: Path) -> None:
    now_s = int(time.time()) // 10 * 10
    times = [float(now_s - 10 * at) for at in (3, 2, 1, 0)]
    path = recorded(tmp_path / "h.db", *times)
    assert frames.newest(path) == now_s
    assert frames.moments(path, now_s - 100, now_s + 1) == tuple(int(at) for at in times)
    assert frames.moments(path, 5, 5) == ()
    found = frames.frame(path, now_s - 10)
    assert [vm.name for vm in found.vms] == ["db", "web"]
    assert [one.residue_bytes for one in found.samples] == [100 * MIB, 2 * MIB]
    assert [one.wall_s for one in found.actions] == times[:3]
    assert frames.frame(path, 77).samples == ()
    replay = HistoryReplay(FilePast(path), 3600)
    scrub = replay.begin().moved(-1)
    assert scrub.wall_s == now_s - 10
    shown = replay.snapshot(scrub.wall_s)
    assert [(vm.name, vm.owner) for vm in shown.vms] == [("db", ""), ("web", "team")]
    assert shown.vms[1].parts == VmParts(300 * MIB, 200 * MIB, 2 * MIB, MIB)
    assert len(replay.recent(60)) == 4


def test_a_clock_that_was_set_back_leaves_all_moments_to_see(tmp_path: Path) -> None:
    later = time.time() + 5000
    path = recorded(tmp_path / "h.db", later, later - 600, later - 590)
    moments = HistoryReplay(FilePast(path), 3600).begin().moments
    assert len(moments) == 3
    assert list(moments) == sorted(moments)


def test_a_history_that_is_missing_damaged_or_empty(tmp_path: Path) -> None:
    with pytest.raises(HistoryError, match="there is no history yet"):
        HistoryReplay(FilePast(str(tmp_path / "none.db")), 60).begin()
    (tmp_path / "bad.db").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    with pytest.raises(HistoryError, match=r"bad\.db"):
        HistoryReplay(FilePast(str(tmp_path / "bad.db")), 60).begin()
    open_for_writing(str(tmp_path / "empty.db")).close()
    assert HistoryReplay(FilePast(str(tmp_path / "empty.db")), 60).begin().moments == ()
    assert HistoryReplay(FilePast(str(tmp_path / "empty.db")), 60).recent(60) == []
