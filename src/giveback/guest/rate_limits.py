"""Bounds on how often: lines and bytes a second that a guest may send, and waits between tries. Pure."""

from __future__ import annotations


class Bucket:
    """So many a second, and a burst: `take` says whether one more is within the bounds."""

    __slots__ = ("_burst", "_left", "_rate", "_seen_s")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._seen_s: float | None = None

    def take(self, amount: float, now_s: float) -> bool:
        """Take `amount`; False where it is more than there is, and then it is not taken."""
        if self._seen_s is not None:
            gained = max(0.0, now_s - self._seen_s) * self._rate
            self._left = min(self._burst, self._left + gained)
        self._seen_s = now_s
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Pace:
    """What all sessions with one owner's guests may send a second together: lines and bytes."""

    __slots__ = ("_bytes", "_lines")

    def __init__(self, lines_a_second: float, bytes_a_second: float, burst_s: float = 4.0) -> None:
        self._lines = Bucket(lines_a_second, lines_a_second * burst_s)
        self._bytes = Bucket(bytes_a_second, bytes_a_second * burst_s)

    def take(self, lines: int, nbytes: int, now_s: float) -> bool:
        """Count what came; False where that is more than there is, and its sender is to rest."""
        has_lines = self._lines.take(lines, now_s)
        return self._bytes.take(nbytes, now_s) and has_lines


class Backoff:
    """How long to wait before trying again: doubled each time, forgotten when all went well."""

    __slots__ = ("_first_s", "_most_s", "_next_s")

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def wait_s(self, chance: float) -> float:
        """The next wait; `chance` in [0, 1) spreads it over half to one and a half of that."""
        wait_s = self._next_s * (0.5 + chance)
        self._next_s = min(self._most_s, self._next_s * 2)
        return wait_s

    def reset(self) -> None:
        """All went well: the next wait is the first one again."""
        self._next_s = self._first_s
