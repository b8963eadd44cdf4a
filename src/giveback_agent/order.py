"""The report order while it is ours: lowered, and restored whatever happens.

The kernel's own value is written to a file under /run before it is changed, so that an agent that
was killed is repaired by the next one.
"""

from __future__ import annotations

import os

from giveback_agent import files, runtime
from giveback_agent.errors import KernelFileError
from giveback_agent.kernel import page_reporting

STATE_PATH = runtime.FOLDER + "/report-order"
MOST = 31


class OrderGuard:
    """`page_reporting_order` of one guest, and what it was before we changed it."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._original: int | None = None

    @property
    def lowered(self) -> bool:
        """True while the kernel's order is not its own."""
        return self._original is not None

    def lower(self, order: int) -> None:
        """Set a lower order, the original kept first. Raises KernelFileError; nothing is changed then."""
        if self._original is None:
            original = page_reporting.read_order(self._root)
            if original is None:
                raise KernelFileError(
                    page_reporting.ORDER_PATH, "is not there: the report order is fixed"
                )
            if not runtime.write_file(self._root, STATE_PATH, f"{original}\n"):
                raise KernelFileError(
                    STATE_PATH, "cannot be written: the order would not be repaired after a crash"
                )
            try:
                page_reporting.write_order(self._root, order)
            except KernelFileError:
                self._forget()
                raise
            self._original = original
            return
        page_reporting.write_order(self._root, order)

    def restore(self) -> int | None:
        """Put the kernel's own order back; returns it. Raises KernelFileError, and may be tried again."""
        original = self._original
        if original is None:
            return None
        page_reporting.write_order(self._root, original)
        self._original = None
        self._forget()
        return original

    def repair(self) -> int | None:
        """Restore what a killed agent left lowered; returns the order, or None where nothing was left."""
        try:
            kept = int(files.read(self._root, STATE_PATH, 64))
        except (KernelFileError, ValueError):
            self._forget()
            return None
        try:
            if 0 <= kept <= MOST and page_reporting.read_order(self._root) != kept:
                page_reporting.write_order(self._root, kept)
                self._forget()
                return kept
        except KernelFileError:
            return None
        self._forget()
        return None

    def _forget(self) -> None:
        try:
            os.unlink(files.under(self._root, STATE_PATH))
        except OSError:
            pass
