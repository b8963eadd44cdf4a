"""Reclaim on request."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import files, reclaim
from giveback_kernel.errors import KernelFileError
from giveback_kernel.reclaim import RequestResult

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RECLAIM = "/sys/fs/cgroup/memory.reclaim"


@settings(deadline=None)
@given(st.integers(1, 1 << 57), st.none() | st.integers(0, 200))
def test_a_request_says_what_was_asked(amount_bytes: int, swappiness: int | None) -> None:
    amount, *options = reclaim.request(amount_bytes, swappiness).split(" ")
    assert int(amount) == amount_bytes
    assert options == ([] if swappiness is None else [f"swappiness={swappiness}"])


@pytest.mark.parametrize(("amount", "swappiness"), [(0, None), (-1, 0), (1, -1), (1, 201)])
def test_what_no_kernel_accepts_is_not_asked(amount: int, swappiness: int | None) -> None:
    with pytest.raises(ValueError, match=r"reclaim|swappiness"):
        reclaim.request(amount, swappiness)


@settings(deadline=None)
@given(st.none() | st.integers(1, 200), st.booleans())
def test_every_errno_has_an_outcome(number: int | None, with_swappiness: bool) -> None:
    outcome = reclaim.outcome_of(number, with_swappiness)
    assert (outcome == reclaim.DONE) == (number is None)
    assert (outcome == reclaim.PARTIAL) == (number == errno.EAGAIN)
    assert (outcome == reclaim.SWAPPINESS_REFUSED) == (number == errno.EINVAL and with_swappiness)


def kernel(answer: Callable[[str], int | None], asked: list[str]) -> Callable[..., None]:
    """Stand in for a kernel that answers a request with an errno: a plain file takes anything."""

    def write(root: str, path: str, text: str) -> None:
        asked.append(text)
        number = answer(text)
        if number is not None:
            raise KernelFileError(files.under(root, path), "refused", number)

    return write


@pytest.mark.parametrize(
    ("answer", "or_without", "expected", "requests"),
    [
        (lambda _: None, False, RequestResult(reclaim.DONE, None, True), 1),
        (lambda _: errno.EAGAIN, True, RequestResult(reclaim.PARTIAL, errno.EAGAIN, True), 1),
        (
            lambda text: errno.EINVAL if "swappiness" in text else None,
            True,
            RequestResult(reclaim.DONE, None, False),
            2,
        ),
        (
            lambda text: errno.EINVAL if "swappiness" in text else None,
            False,
            RequestResult(reclaim.SWAPPINESS_REFUSED, errno.EINVAL, True),
            1,
        ),
        (lambda _: errno.EINVAL, True, RequestResult(reclaim.FAILED, errno.EINVAL, False), 2),
        (lambda _: errno.ENODEV, True, RequestResult(reclaim.GONE, errno.ENODEV, True), 1),
        (lambda _: errno.EINTR, True, RequestResult(reclaim.INTERRUPTED, errno.EINTR, True), 1),
    ],
)
def test_asking(
    answer: Callable[[str], int | None],
    or_without: bool,
    expected: RequestResult,
    requests: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(files, "write", kernel(answer, asked))
    assert reclaim.reclaim("/", RECLAIM, 4096, 0, or_without) == expected
    assert len(asked) == requests


def test_a_cgroup_that_vanished(tmp_path: Path) -> None:
    assert reclaim.reclaim(str(tmp_path), RECLAIM, 4096).outcome == reclaim.GONE


@pytest.mark.parametrize(
    ("mountinfo", "reclaim_file"),
    [
        ("mountinfo_v2", "/sys/fs/cgroup/memory.reclaim"),
        ("mountinfo_hybrid", "/sys/fs/cgroup/unified/memory.reclaim"),
    ],
)
def test_where_the_root_cgroup_is_asked(tmp_path: Path, mountinfo: str, reclaim_file: str) -> None:
    root = plant(tmp_path, {"/proc/self/mountinfo": sample(mountinfo)})
    assert reclaim.root_reclaim_path(root) is None
    plant(tmp_path, {reclaim_file: b""})
    assert reclaim.root_reclaim_path(root) == reclaim_file
    assert reclaim.is_permitted(root, reclaim_file)
    assert reclaim.reclaim(root, reclaim_file, 1 << 20, 0).outcome == reclaim.DONE
    assert (tmp_path / reclaim_file.lstrip("/")).read_bytes() == b"1048576 swappiness=0"


def test_without_cgroups_there_is_nobody_to_ask(tmp_path: Path) -> None:
    assert reclaim.root_reclaim_path(str(tmp_path)) is None
    root = plant(tmp_path, {"/proc/self/mountinfo": b"30 1 254:0 / / rw - ext4 /dev/vda rw\n"})
    assert reclaim.root_reclaim_path(root) is None


def test_nodes_can_be_asked_without_cgroups(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/sys/devices/system/node/node1/reclaim": b""})
    (tmp_path / "sys/devices/system/node/node0").mkdir()
    assert reclaim.node_reclaim_paths(root) == ("/sys/devices/system/node/node1/reclaim",)


@pytest.mark.parametrize("what", [1, 2, 3])
def test_dropping(tmp_path: Path, what: int) -> None:
    root = plant(tmp_path, {reclaim.DROP_CACHES_PATH: b""})
    reclaim.drop_caches(root, what)
    assert (tmp_path / reclaim.DROP_CACHES_PATH.lstrip("/")).read_bytes() == b"%d" % what


@pytest.mark.parametrize("what", [0, 4, -1, 8])
def test_nothing_else_is_dropped(tmp_path: Path, what: int) -> None:
    root = plant(tmp_path, {reclaim.DROP_CACHES_PATH: b""})
    with pytest.raises(KernelFileError, match="drop_caches"):
        reclaim.drop_caches(root, what)
    assert (tmp_path / reclaim.DROP_CACHES_PATH.lstrip("/")).read_bytes() == b""
