"""The daemon's status and this host's observations become the same kind of snapshot."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from manager_samples import MIB, action, status, vm_status
from observations import GIB, observation

from giveback.host.memory import HostView
from giveback.top import from_observations
from giveback.top.from_status import snapshot_of, verdict_of
from giveback.top.model import VmParts


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"expected_bytes": 512 * MIB, "measured_bytes": 498 * MIB}, "asked 512 MiB, got 498"),
        ({"measured_bytes": None}, "asked 300 MiB, waits for it"),
        ({"measured_bytes": 0, "verdict": "cache is in use"}, "asked 300 MiB, got 0 KiB: cache is in use"),
        ({"expected_bytes": 0, "reason": "cal\x1bm"}, "ask: cal\\x1bm"),
    ],
)  # fmt: skip
def test_a_verdict_is_a_sentence(changes: dict[str, Any], words: str) -> None:
    assert verdict_of(action(**changes)) == words


def test_a_verdict_says_how_long_it_took() -> None:
    done = action(expected_bytes=512 * MIB, measured_bytes=498 * MIB)
    assert verdict_of(done, 9.4) == "asked 512 MiB, got 498 in 9 s"
    # A clock that was set back.
    assert verdict_of(done, -5.0).endswith("in 0 s")


def test_a_status_becomes_a_snapshot() -> None:
    known = vm_status(
        "we\x1b[2Jb\n", uid=0, in_use_bytes=400 * MIB, cache_bytes=200 * MIB, returned_bytes=MIB,
        rows={"free_trapped": 7, "anon": 9}, ram_rows={"anon": 9, "balloon": 5},
    )  # fmt: skip
    known = replace(known, guest_stall_percent=3.5, guest_available_percent=20.0)
    silent = vm_status("db", 7, residue_bytes=None, in_use_bytes=None, unknown="no numbers")
    done = action(vm=known.key, took_s=9.0)
    shown = snapshot_of(status(known, silent, actions=(action(0, known.key), done)), {0: "root"})
    web, db = shown.vms
    assert (web.name, web.owner) == ("we\\x1b[2Jb\\n", "root")
    assert web.parts == VmParts(400 * MIB, 200 * MIB, 100 * MIB, MIB)
    assert web.verdict == "asked 300 MiB, got 290 in 9 s"
    assert web.rows == {"free, resident: in small free blocks": 7, "anonymous": 9}
    assert web.ram_rows == {"ballooned or unplugged": 5}
    assert (web.stall_percent, web.guest_available_percent) == (3.5, 20.0)
    assert (db.parts, db.unknown, db.owner) == (None, "no numbers", "")
    assert shown.host is not None
    assert shown.host.urgency == 1
    assert snapshot_of(replace(status(), host=None, decision=None)).host is None


def test_observations_become_a_snapshot() -> None:
    seen = [observation("on\x1be"), observation("two", 2, host=None, problems=("barred",))]
    shown = from_observations.snapshot_of(
        seen, HostView(0.0, 8 * GIB, 2 * GIB), 5.0, {1: 0}, {0: "me"}
    )
    one, two = shown.vms
    assert (one.name, one.owner, one.condition) == ("on\\x1be", "me", "ok")
    assert one.parts is not None
    assert one.parts.trapped_bytes == 350 * MIB
    assert (two.condition, two.condition_text, two.parts) == ("unreadable", "barred", None)
    assert shown.host is not None
    assert shown.host.urgency is None
