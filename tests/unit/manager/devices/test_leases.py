"""Leases on disk: whatever a VM is called, and whatever lies in the folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from giveback.manager.devices.leases import SUFFIX, LeaseStore, file_name
from giveback.manager.model import ActionKind, Lease

amounts = st.integers(0, (1 << 57) - 1)
# A VM's name comes from a command line: any bytes but NUL, as Python has them.
names = st.binary(max_size=60).map(lambda raw: raw.decode("utf-8", "surrogateescape"))
leases = st.builds(
    Lease,
    vm=names,
    pid=amounts,
    start_ticks=amounts,
    device=st.sampled_from([ActionKind.BALLOON, ActionKind.VIRTIO_MEM]),
    control=names,
    before_bytes=amounts,
    target_bytes=amounts,
    wall_s=st.floats(0, 1e10),
    device_id=names,
    most_bytes=amounts,
)


# Each is synced to the disk, several times.
@settings(max_examples=25, deadline=None)
@given(st.lists(leases, max_size=3, unique_by=file_name))
def test_what_is_kept_comes_back(kept: list[Lease]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = LeaseStore(Path(folder) / "a/b")
        for lease in kept:
            store.put(lease)
            store.put(lease)
        assert sorted(store.load()[0], key=file_name) == sorted(kept, key=file_name)
        for lease in kept:
            store.drop(lease)
            store.drop(lease)
        assert store.load() == ((), ())


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.lists(st.none())
keys = [
    "version",
    "boot",
    "vm",
    "pid",
    "start_ticks",
    "device",
    "control",
    "before_bytes",
    "wall_s",
]


@given(
    st.binary(max_size=200)
    | st.dictionaries(st.sampled_from(keys), values).map(lambda d: json.dumps(d).encode())
    | st.just(b"[" * 60_000)
    | st.just(b" " * 70_000)
)
def test_a_file_that_is_none_is_named_and_left(text: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1-2-balloon.lease"
        path.write_bytes(text)
        found, problems = LeaseStore(Path(folder)).load()
        assert found == ()
        assert len(problems) == 1
        assert str(path) in problems[0]
        assert problems[0].isprintable()
        assert path.exists()


@settings(max_examples=25, deadline=None)
@given(leases, st.integers(0, 400))
def test_a_lease_that_was_cut_is_none(lease: Lease, kept_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = LeaseStore(Path(folder))
        store.put(lease)
        path = Path(folder) / file_name(lease)
        whole = path.read_bytes()
        path.write_bytes(whole[:kept_bytes])
        assert store.load()[0] == (() if kept_bytes < len(whole) else (lease,))


def test_other_files_and_links_are_left_alone() -> None:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "history.sqlite").write_bytes(b"x")
        (Path(folder) / "link.lease").symlink_to("/etc/passwd")
        found, problems = LeaseStore(Path(folder)).load()
        assert found == ()
        assert len(problems) == 1
        assert len(list(Path(folder).iterdir())) == 2


def test_a_pipe_among_the_leases_is_told_and_not_waited_for() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.mkfifo(Path(folder) / f"1-2-balloon{SUFFIX}")
        found, problems = LeaseStore(Path(folder)).load()
    assert found == ()
    assert any("not a regular file" in problem for problem in problems)
