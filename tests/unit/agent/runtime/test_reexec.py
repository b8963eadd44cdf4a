"""The unpacked code that root runs."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from giveback_agent.runtime import reexec


@pytest.mark.parametrize("umask", [0, 0o002, 0o077])
def test_no_other_user_may_write_unpacked_code_with_any_umask(tmp_path: Path, umask: int) -> None:
    archive = tmp_path / "agent.pyz"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("a/b/c.py", "x = 1\n")
    folder = tmp_path / "lib"
    before = os.umask(umask)
    try:
        reexec.compile_into(str(archive), str(folder))
    finally:
        os.umask(before)
    modes = {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777
        for path in (folder, *folder.rglob("*"))
    }
    assert {name: mode for name, mode in modes.items() if mode & 0o022} == {}
    assert set(modes) == {".", "a", "a/b", "a/b/c.pyc", reexec.LAUNCHER}
