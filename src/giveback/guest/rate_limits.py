"""Rate limits: lines and bytes per second that a guest may send, and waits between attempts. Pure."""

from __future__ import annotations


class Bucket:
    """A token bucket: it gains `rate` tokens per second and holds at most `burst`."""

    __slots__ = ("_burst", "_left", "_rate", "_seen_s")

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._seen_s: float | None = None

    def take(self, amount: float, now_s: float) -> bool:
        """Take `amount` tokens and return True; take none and return False if there are fewer."""
        if self._seen_s is not None:
            gained = max(0.0, now_s - self._seen_s) * self._rate
            self._left = min(self._burst, self._left + gained)
        self._seen_s = now_s
        if amount > self._left:
            return False
        self._left -= amount
        return True


class Pace:
    """The lines and bytes per second that all guests of one owner may send together."""

    __slots__ = ("_bytes", "_lines")

    def __init__(self, lines_a_second: float, bytes_a_second: float, burst_s: float = 4.0) -> None:
        self._lines = Bucket(lines_a_second, lines_a_second * burst_s)
        self._bytes = Bucket(bytes_a_second, bytes_a_second * burst_s)

    def take(self, lines: int, nbytes: int, now_s: float) -> bool:
        """Count received lines and bytes; return False if they exceed a rate and the sender must pause."""
        has_lines = self._lines.take(lines, now_s)
        return self._bytes.take(nbytes, now_s) and has_lines


class Backoff:
    """The wait before the next attempt: from `first_s`, doubled each time, at most `most_s`."""

    __slots__ = ("_first_s", "_most_s", "_next_s")

    def __init__(self, first_s: float, most_s: float) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def wait_s(self, chance: float) -> float:
        """Return the next wait in seconds; `chance` in [0, 1) spreads it over 0.5 to 1.5 of its length."""
        wait_s = self._next_s * (0.5 + chance)
        self._next_s = min(self._most_s, self._next_s * 2)
        return wait_s

    def reset(self) -> None:
        """Start again from the first wait, after a success."""
        self._next_s = self._first_s
