"""Kernel files as strategies: written once and read back, so that a refused value is noticed."""

from __future__ import annotations

import json

from giveback_kernel import files
from giveback_kernel.errors import KernelFileError


def set_all(root: str, words: list[str]) -> int:
    """Write each `PATH=VALUE` in order; print a JSON line each with the value before and after.

    Return 0, or 1 at the first that cannot be written or does not read back as written.
    """
    for word in words:
        path, _, value = word.partition("=")
        try:
            before = _read(root, path)
            files.write(root, path, value + "\n")
            after = _read(root, path)
        except KernelFileError as error:
            print(json.dumps({"path": path, "refused": str(error)}), flush=True)
            return 1
        print(json.dumps({"path": path, "before": before, "after": after}), flush=True)
        if after != value:
            return 1
    return 0


def _read(root: str, path: str) -> str:
    return files.read(root, path, 4096).decode("ascii", "replace").strip()
