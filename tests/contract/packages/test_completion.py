"""Completion in real shells: the commands, and the names of the VMs that run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from peers import environment_of, peer
from scripted_vms import vm

from release import pages

NAMES = ("web-1", "web-2", "db")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The completions of every shell, and a command that knows three VMs."""
    made = tmp_path_factory.mktemp("completion")
    pages.write("giveback", made)
    program = made / "bin/giveback"
    program.parent.mkdir()
    lines = "\\n".join(NAMES)
    program.write_text(f'#!/bin/sh\n[ "$1 $2" = "ps --names" ] && printf "{lines}\\n"\n')
    program.chmod(0o755)
    return made


def in_bash(folder: Path, *words: str) -> set[str]:
    script = (
        f"source {folder}/{pages.COMPLETIONS['bash'].format(name='giveback')}\n"
        f"COMP_WORDS=({' '.join(words)} ''); COMP_CWORD={len(words)}\n"
        "_shtab_giveback; printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script], capture_output=True, text=True, check=True, timeout=60,
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
    )  # fmt: skip
    return {line.strip() for line in done.stdout.splitlines()}


@pytest.mark.parametrize("command", ["explain", "doctor", "history", "enable"])
def test_bash_knows_the_vms(folder: Path, command: str) -> None:
    assert set(NAMES) <= in_bash(folder, "giveback", command)


def test_fish_knows_the_vms(folder: Path) -> None:
    fish = peer("fish", "fish")
    path = folder / pages.COMPLETIONS["fish"].format(name="giveback")
    script = f"source {path}; complete -C 'giveback explain we'; complete -C 'giveback expl'"
    done = subprocess.run(
        [fish.path, "--no-config", "-c", script], capture_output=True, text=True, check=True, timeout=60,
        env={**environment_of(fish), "PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder)},
    )  # fmt: skip
    found = [line.split("\t")[0] for line in done.stdout.splitlines()]
    assert found == ["web-1", "web-2", "explain"]


def test_a_name_that_a_shell_would_run_is_not_offered(tmp_path: Path) -> None:
    with vm(tmp_path, "$(touch${IFS}x)"), vm(tmp_path, "a b"), vm(tmp_path, "plain-1"):
        done = subprocess.run(
            [sys.executable, "-m", "giveback", "ps", "--names"],
            capture_output=True, text=True, check=True, timeout=60,
        )  # fmt: skip
    names = done.stdout.splitlines()
    assert "plain-1" in names
    assert not [name for name in names if set(name) & set("$`; ")]
