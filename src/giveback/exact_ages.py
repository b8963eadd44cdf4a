"""How long free pages have been resident, as far as repeated looks can say.

Neither side knows it: a guest's kernel does not date its free pages, and a host can at best watch for
accesses from now on. What can be said is at how many looks in a row a page was free in
the guest and resident here. A page that was used and freed between two looks counts as the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


class Ages:
    """Remembers, for each page, since which look it has been free and resident."""

    def __init__(self) -> None:
        self._since: npt.NDArray[np.float64] | None = None

    def look(self, held: Mask, now_s: float, page_bytes: int) -> tuple[tuple[float, int], ...]:
        """Take in a look; returns (seconds, bytes held for at least that long), the oldest last.

        Empty for the first look, and where RAM has changed its size: then the count starts anew.
        """
        before = self._since
        if before is None or len(before) != len(held):
            self._since = np.where(held, now_s, np.nan)
            return ()
        since = np.where(held, np.where(np.isnan(before), now_s, before), np.nan)
        self._since = since
        starts, counts = np.unique(since[held], return_counts=True)
        at_least = np.cumsum(counts)
        found = [
            (float(now_s - start), int(count) * page_bytes)
            for start, count in zip(starts, at_least, strict=True)
        ]
        return tuple(reversed(found))
