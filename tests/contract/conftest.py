"""What contract tests share: folders whose paths are short enough for sockets."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield an empty folder with a short path; it is removed after the test.

    A unix socket's path has at most 107 bytes (unix(7)), and pytest-xdist's own folders take over 70.
    """
    base = tmp_path_factory.getbasetemp()
    users = next((above for above in base.parents if above.name.startswith("pytest-of-")), base)
    folder = Path(tempfile.mkdtemp(prefix="t-", dir=users))
    inside = folder / "t"
    inside.mkdir()
    yield inside
    shutil.rmtree(folder, ignore_errors=True)
