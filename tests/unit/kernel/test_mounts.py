"""Which mount is seen at a path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.release import steps
from giveback_kernel import mounts
from giveback_kernel.errors import KernelFileError
from giveback_kernel.mounts import Mount

if TYPE_CHECKING:
    from pathlib import Path

NAMES = st.sampled_from(["a", "b", "c d", "e\\f"])
PATHS = st.lists(NAMES, max_size=3).map(lambda names: "/" + "/".join(names))


def naive(history: list[tuple[int, str]], path: str) -> int | None:
    """Whatever was mounted last on the path or above it is seen."""
    for number, point in reversed(history):
        if f"{path}/".replace("//", "/").startswith(f"{point}/".replace("//", "/")):
            return number
    return None


def escaped(path: str) -> str:
    return path.replace("\\", "\\134").replace(" ", "\\040")


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[tuple[int, str]], bytes]:
    """Mount at random places, and sometimes unmount the last mount of one."""
    numbers = draw(st.permutations(range(20, 32)))
    history: list[tuple[int, str]] = []
    parents: dict[int, int] = {}
    for number in numbers[: draw(st.integers(1, 12))]:
        point = draw(PATHS) if history else "/"
        here = naive(history, point)
        on_top = [n for n, p in history if n == here and p == point]
        is_leaf = here not in parents.values()
        if on_top and is_leaf and len(history) > 1 and draw(st.booleans()):
            history = [one for one in history if one[0] != here]
            continue
        parents[number] = 1 if here is None else here
        history.append((number, point))
    rows = [
        f"{number} {parents[number]} 0:{number} / {escaped(point)} rw - tmpfs none rw\n"
        for number, point in history
    ]
    return history, "".join(draw(st.permutations(rows))).encode()


@settings(deadline=None, max_examples=300)
@given(tables(), PATHS)
def test_the_order_of_lines_does_not_matter(
    table: tuple[list[tuple[int, str]], bytes], path: str
) -> None:
    history, data = table
    parsed = mounts.parse(data)
    assert len(parsed) == len(history)
    found = mounts.covering(parsed, path)
    assert (found and found.mount_id) == naive(history, path)
    seen = {mount.mount_id for mount in mounts.visible(parsed, ("tmpfs",))}
    assert seen == {number for number, point in history if naive(history, point) == number}


@settings(deadline=None)
@given(tables(), st.sets(st.integers(20, 31)))
def test_what_is_not_on_the_way_does_not_count(
    table: tuple[list[tuple[int, str]], bytes], marked: set[int]
) -> None:
    data = table[1]
    for number in marked:
        data = data.replace(b" 0:%d " % number, b" 1:%d " % number)
    lines = [x.replace(b"- tmpfs", b"- cgroup") if b" 1:" in x else x for x in data.split(b"\n")]
    data = b"\n".join(lines)
    whole = mounts.visible(mounts.parse(data), ("cgroup",))
    assert mounts.visible(mounts.parse(data, (b"cgroup",)), ("cgroup",)) == whole


@settings(deadline=None)
@given(tables(), PATHS)
def test_without_numbers_the_last_line_counts(
    table: tuple[list[tuple[int, str]], bytes], path: str
) -> None:
    history, _ = table
    text = "".join(f"m{number} {escaped(point)} tmpfs rw 0 0\n" for number, point in history)
    found = mounts.covering(mounts.parse_table(text.encode()), path)
    expected = naive(history, path)
    assert (found and found.source) == (expected and f"m{expected}")


@settings(deadline=None)
@given(st.binary(max_size=400), st.text(max_size=20))
def test_any_bytes(data: bytes, path: str) -> None:
    for table in (mounts.parse(data), mounts.parse(data, (b"cg",)), mounts.parse_table(data)):
        mounts.covering(table, path)
        mounts.visible(table, ("tmpfs",))


def test_a_line() -> None:
    line = (
        rb"36 35 98:0 /sub /mnt/a\040b\134c rw,noatime shared:1 master:2 - ext4 /dev/x rw,errors=c"
    )
    expected = Mount("/mnt/a b\\c", "ext4", "/dev/x", "rw,errors=c", "/sub", 36, 35)
    assert mounts.parse(line + b"\n") == (expected,)
    assert mounts.parse(line) == ()  # unfinished
    assert mounts.parse(line.replace(b"/mnt", b"/\xff") + b"\n")[0].point == "/\udcff/a b\\c"


def test_a_loop_of_parents_ends() -> None:
    table = mounts.parse(b"1 2 0:1 / /a rw - tmpfs t rw\n2 1 0:1 / /a rw - tmpfs t rw\n")
    assert mounts.covering(table, "/a") is None
    itself = mounts.parse(b"1 1 0:1 / / rw - rootfs rootfs rw\n2 1 0:2 / / rw - ext4 /dev/a rw\n")
    found = mounts.covering(itself, "/x")
    assert found is not None
    assert found.fs_type == "ext4"


def test_reading(tmp_path: Path) -> None:
    assert mounts.covering(mounts.read_mounts(), "/proc/self") is not None
    with pytest.raises(KernelFileError, match="mountinfo"):
        mounts.read_mounts(str(tmp_path))
    root = plant(tmp_path, {"/proc/mounts": b"/dev/a / ext4 rw 0 0\n"})
    assert mounts.read_mounts(root) == (Mount("/", "ext4", "/dev/a", "rw"),)
    plant(tmp_path, {mounts.PATH: b"1 0 8:0 / / rw - xfs /dev/b rw\n"})
    assert mounts.read_mounts(root)[0].fs_type == "xfs"


def test_a_scratch_folder_is_on_what_is_seen_there(tmp_path: Path) -> None:
    table = (
        b"20 1 8:0 / / rw - ext4 /dev/a rw\n"
        b"21 20 8:0 / /var/lib rw - ext4 /dev/a rw\n"
        b"22 20 0:9 / /var rw - tmpfs t rw\n"
    )
    root = plant(tmp_path, {mounts.PATH: table})
    assert steps.is_in_memory(root, "/var/lib/giveback")
    assert not steps.is_in_memory(root, "/home")
    assert steps.is_in_memory(str(tmp_path / "nothing"), "/home")
