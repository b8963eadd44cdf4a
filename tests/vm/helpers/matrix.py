"""What takes longer than CI has: `GIVEBACK_MATRIX=1 ./run test tests/vm` runs it, too."""

from __future__ import annotations

import os

import pytest

MATRIX = pytest.mark.skipif(
    os.environ.get("GIVEBACK_MATRIX") != "1", reason="of the matrix: set GIVEBACK_MATRIX=1"
)
