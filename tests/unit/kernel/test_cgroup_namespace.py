"""Paths of a cgroup namespace and of the kernel's own root: which is which."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import cgroup, cgroup_namespace, lru_gen
from giveback_kernel.cgroup import CgroupMounts

if TYPE_CHECKING:
    from pathlib import Path

PAGE = os.sysconf("SC_PAGE_SIZE")
MOUNT = "/sys/fs/cgroup"
MOUNTINFO = b"30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n"
# Two distributions of one WSL VM, alike but for their cache: microsoft/WSL#41512.
OURS = {"/system.slice/docker.service": 9000, "/system.slice/cron.service": 40, "/init.scope": 300}
THEIRS = {"/system.slice/docker.service": 20, "/system.slice/cron.service": 4000, "/init.scope": 31}


def listed(places: dict[str, dict[str, int]]) -> bytes:
    text, number = "memcg     1 /\n node     0\n          1          9          0          5 \n", 1
    for place, groups in places.items():
        for path, pages in {"": 0, "/system.slice": 0, **groups}.items():
            number += 1
            text += f"memcg {number:5d} {place}{path}\n node     0\n"
            for generation, part in enumerate((pages - pages // 3, 0, pages // 3, 0)):
                text += f" {generation:10d} {9:10d} {0:10d} {part:10d} \n"
    return text.encode()


WSL = listed({"/wsl-user/distro-3": THEIRS, "/wsl-user/distro-27": OURS})


def tree(groups: dict[str, int], top: bool = True) -> dict[str, bytes]:
    """The files of a namespace, as its processes see them."""
    files = {cgroup.PATH: MOUNTINFO, "/proc/self/cgroup": b"0::/system.slice/agent.service\n"}
    if top:
        files |= {f"{MOUNT}/cgroup.type": b"domain\n", f"{MOUNT}/memory.max": b"max\n"}
    for path, pages in {"": sum(groups.values()), "/system.slice": 0, **groups}.items():
        half = pages // 3
        stat = f"inactive_file {(pages - half) * PAGE}\nactive_file {half * PAGE}\n"
        files[f"{MOUNT}{path}/memory.stat"] = stat.encode()
    return files


def place(root: str) -> str | None:
    return cgroup_namespace.read_place(root, cgroup.read_cgroup(root))


def test_a_distribution_of_wsl_finds_its_place(tmp_path: Path) -> None:
    root = plant(tmp_path, {**tree(OURS), lru_gen.PATH: WSL})
    assert cgroup.read_cgroup(root) == CgroupMounts("v2", MOUNT, "/", is_part=True)
    assert place(root) == "/wsl-user/distro-27"
    assert cgroup_namespace.place_here(root) == "/wsl-user/distro-27"


def test_the_kernels_own_root_is_no_namespace(tmp_path: Path) -> None:
    root = plant(tmp_path, tree(OURS, top=False))
    assert place(root) == ""
    assert cgroup_namespace.place_here(str(tmp_path / "nothing")) == ""


@pytest.mark.parametrize(
    "data",
    [
        listed({"/a": OURS, "/b": OURS}),  # which of the two?
        listed({"/a": THEIRS}),
        listed({"/a": {"/system.slice/docker.service": 9000}, "/b": {"/init.scope": 9000}}),
        b"",
        b"nonsense\n",
    ],
)
def test_where_it_cannot_be_told_it_is_not_guessed(tmp_path: Path, data: bytes) -> None:
    root = plant(tmp_path, {**tree(OURS), lru_gen.PATH: data})
    found = place(root)
    assert found in (None, "/a")
    if found:  # one cgroup that is missing does not hide 96 % of the pages
        assert b"docker.service" in data
        assert b"/b/init.scope" in data


def test_without_cache_or_without_the_file_nothing_tells(tmp_path: Path) -> None:
    root = plant(tmp_path, tree(OURS))
    assert place(root) is None
    few = plant(tmp_path / "few", {**tree({"/a": 3}), lru_gen.PATH: listed({"/x": {"/a": 3}})})
    assert place(few) is None


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["/a", "/a/b", "/b", "/a b/c", "/x/a", "/x"]),
        st.integers(1000, 100_000),
        min_size=1,
    ),
    st.lists(st.sampled_from(["/p", "/q/r", "/q", "/p/x"]), unique=True, min_size=1),
    st.data(),
)
def test_the_place_with_our_pages_is_found_or_none(
    ours: dict[str, int], places: list[str], data: st.DataObject
) -> None:
    real = data.draw(st.sampled_from(places))
    listings = {}
    for name in places:
        some = data.draw(st.sets(st.sampled_from(sorted(ours))))
        others = {path: data.draw(st.integers(0, 100_000)) for path in sorted(some)}
        listings[name] = ours if name == real else others
    read = (listed(listings), b"")
    found = cgroup_namespace.place_of(read, ours)
    assert found in (real, None)
    if len(places) == 1:
        assert found == real


@pytest.mark.parametrize(
    ("told", "shown", "expected"),
    [
        ("/system.slice/agent.service", "/", "/system.slice/agent.service"),
        ("/", "/", "/"),
        ("/kubepods/pod1", "/kubepods/pod1", "/"),
        ("/kubepods/pod1/init", "/kubepods/pod1", "/init"),
        ("/elsewhere", "/kubepods/pod1", None),
        ("/../other", "/", None),
    ],
)
def test_this_processs_cgroup_below_the_mount(
    tmp_path: Path, told: str, shown: str, expected: str | None
) -> None:
    root = plant(tmp_path, {cgroup_namespace.OWN_PATH: f"1:name=systemd:/x\n0::{told}\n".encode()})
    mounts = CgroupMounts("v2", MOUNT, shown)
    assert cgroup_namespace.own_path(root, mounts) == expected


def test_a_mount_that_shows_more_than_the_namespace_is_searched(tmp_path: Path) -> None:
    # After `unshare --cgroup` the mount is still the old one: its root is then /../.. of ours.
    files = {cgroup_namespace.OWN_PATH: b"0::/sub\n"}
    for name, pid in (("a/one", 1), ("b/two", os.getpid())):
        for path in (name.partition("/")[0], name, f"{name}/sub"):
            files[f"{MOUNT}/{path}/memory.stat"] = b""
        files[f"{MOUNT}/{name}/sub/cgroup.procs"] = b"%d\n" % pid
    root = plant(tmp_path, files)
    own = cgroup_namespace.own_path(root, CgroupMounts("v2", MOUNT, "/../.."))
    assert own == "/b/two/sub"
    assert cgroup_namespace.own_path(root, CgroupMounts("v2", MOUNT, "/..")) is None
