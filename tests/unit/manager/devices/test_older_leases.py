"""Leases that older commits wrote are known, released and dropped; a newer one stays and is named."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
from older_versions import BOOT, FOLDER, PEERS

from giveback.manager.devices.leases import VERSION, LeaseStore
from giveback.manager.model import ActionKind, Lease

if TYPE_CHECKING:
    from pathlib import Path

GIB = 1 << 30
WEB = Lease(
    vm="qemu/web/4711", pid=4711, start_ticks=123456, device=ActionKind.BALLOON,
    control="qmp:/run/vm/web.qmp", before_bytes=2 * GIB, target_bytes=GIB, wall_s=1.8e9,
    most_bytes=4 * GIB,
)  # fmt: skip
DB = Lease(
    vm="qemu/db/4712", pid=4712, start_ticks=123460, device=ActionKind.VIRTIO_MEM,
    control="qmp:/run/vm/db.qmp", before_bytes=3 * GIB, target_bytes=2 * GIB, wall_s=1.8e9 + 5,
    device_id="vm0",
)  # fmt: skip


def store_in(folder: Path) -> LeaseStore:
    boot = folder / "proc/sys/kernel/random/boot_id"
    boot.parent.mkdir(parents=True)
    boot.write_text(BOOT + "\n")
    return LeaseStore(folder / "leases", str(folder))


@pytest.mark.parametrize("commit", PEERS)
def test_older_leases_are_known_and_dropped(commit: str, tmp_path: Path) -> None:
    shutil.copytree(FOLDER / commit / "leases", tmp_path / "leases")
    store = store_in(tmp_path)
    assert store.load() == ((WEB, DB), ())
    store.drop(WEB)
    store.drop(DB)
    assert list((tmp_path / "leases").iterdir()) == []


def test_a_newer_lease_stays_and_is_named(tmp_path: Path) -> None:
    shutil.copytree(FOLDER / "ce7cdbc/leases", tmp_path / "leases")
    path = tmp_path / "leases/4711-123456-balloon.lease"
    said = {**json.loads(path.read_bytes()), "version": VERSION + 1}
    path.write_text(json.dumps(said))
    known, (problem,) = store_in(tmp_path).load()
    assert known == (DB,)
    assert str(path) in problem
    assert "return its memory" in problem
    assert json.loads(path.read_bytes()) == said
