"""Errors of the host's side: a VM's paths as its user knows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import VmError, by_its_own_names
from giveback.host.procs import own_path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/proc/7/root/run/q.sock: no answer", "/run/q.sock: no answer"),
        ("/proc/7/cwd/q.sock: no answer", "q.sock: no answer"),
        ("a /proc/7/root/a; b /proc/81/cwd/b", "a /a; b b"),
        # These are not paths within: they name what cannot be read.
        ("/proc/7/root: Permission denied", "/proc/7/root: Permission denied"),
        (
            "/proc/7/fd: Permission denied; run as root",
            "/proc/7/fd: Permission denied; run as root",
        ),
        ("/proc/self/root/x", "/proc/self/root/x"),
    ],
)
def test_an_error_names_a_path_as_its_vmm_does(text: str, shown: str) -> None:
    assert str(VmError(text)) == shown


@given(st.integers(1, 1 << 22), st.from_regex(r"/?[a-z][a-z./ -]{0,20}", fullmatch=True))
def test_what_makes_a_path_reachable_is_taken_off_again(pid: int, path: str) -> None:
    assert by_its_own_names(f"{own_path('/', pid, path)}: gone") == f"{path}: gone"
