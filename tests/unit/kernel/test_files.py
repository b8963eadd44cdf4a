"""Reads of files that are not what they should be."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError


def test_a_pipe_or_a_device_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zeros").symlink_to("/dev/zero")
    for name in ("pipe", "zeros"):
        with pytest.raises(KernelFileError, match="not a regular file"):
            files.read(str(tmp_path), f"/{name}")
        with pytest.raises(KernelFileError, match="not a regular file"):
            list(files.pieces(str(tmp_path), f"/{name}", 1 << 20, 1.0))
    assert files.read("/", "/proc/self/comm")
