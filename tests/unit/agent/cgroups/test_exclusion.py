"""Patterns of cgroups that are excluded from reclaim."""

from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.cgroups.exclusion import (
    PATTERN_LIMIT_CHARS,
    PATTERNS_LIMIT,
    is_excluded,
    kept,
    matches_name,
    parse_patterns,
)

POSTGRES = "/system.slice/system-postgresql.slice/postgresql@17-main.service"


@pytest.mark.parametrize(
    ("path", "pattern", "excluded"),
    [
        (POSTGRES, "postgresql@17-main.service", True),
        (POSTGRES, "postgresql@*.service", True),
        (POSTGRES, "postgresql*", True),
        (POSTGRES, "postgresql", False),
        (POSTGRES, "system.slice", True),
        (POSTGRES, "/system.slice/*/postgresql@??-main.service", True),
        (POSTGRES, "system.slice/postgresql*", False),
        (f"{POSTGRES}/below", "postgresql@17-main.service", True),
        ("/system.slice", "system.slice/postgresql*", False),
        ("/machine.slice/libpod-1.scope/container", "machine.slice/libpod-*", True),
        ("/machine.slice", "machine.slice/*", False),
        ("/", "*", False),
        ("", "*", False),
    ],
)
def test_a_pattern_names_a_unit_anywhere_or_a_path_from_the_root(
    path: str, pattern: str, excluded: bool
) -> None:
    assert is_excluded(path, (pattern,)) is excluded
    assert not is_excluded(path, ())


def test_folders_are_taken_as_paths_below_the_mount() -> None:
    folders = ("/sys/fs/cgroup/a.slice/x.service", "/sys/fs/cgroup/a.slice/y.service")
    assert kept(folders, "/sys/fs/cgroup/", ("x.service",)) == folders[1:]
    assert kept(folders, "/sys/fs/cgroup", ("sys",)) == folders


def test_a_value_is_a_list_between_commas() -> None:
    assert parse_patterns(" a.service, b/c-* ,") == ("a.service", "b/c-*")
    assert parse_patterns("") == ()
    for bad in ("/", "a//b", "a, ..", "./a", "a\x1b", "x" * (PATTERN_LIMIT_CHARS + 1)):
        assert parse_patterns(bad) is None, bad
    assert parse_patterns(",".join(["x"] * PATTERNS_LIMIT)) is not None
    assert parse_patterns(",".join(["x"] * (PATTERNS_LIMIT + 1))) is None


@given(st.text("ab*?", max_size=8), st.text("ab", max_size=8))
def test_it_matches_as_the_shell_does(pattern: str, name: str) -> None:
    assert matches_name(name, pattern) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_makes_it_fail(path: str, text: str) -> None:
    for pattern in parse_patterns(text) or ():
        assert isinstance(is_excluded(path, (pattern,)), bool)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    began_s = time.process_time()
    assert not matches_name("a" * 255, "*a" * 100 + "b")
    assert time.process_time() - began_s < 1
