"""Record the processes at which a reader hung or died, and decide which are not read again. Pure.

A reader that ignores SIGKILL waits for something that the process controls (a page behind FUSE, say), and
costs memory until the wait ends. So only a few readers are risked for one user and in all, and such a
process is not read while the wait lasts. A process that was only slow (the host swaps, or its command line
is on a slow disk) gets more than one chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from giveback.host.budgets import owner_of

HUNG_PER_USER = 3
"""If this many readers hang at one user's processes, those that were never read are refused."""
HUNG_OF_STRANGERS = 12
"""If this many readers hang in all, no process that was never read is read: a user can have many uids."""
HUNG_OF_OWNER = 8
"""If this many readers hang at one user's processes, none of them is read."""
HUNG_LIMIT = 48
"""If this many readers hang in all, no new one is started; the remaining ones continue."""
_CHANCES = 3
_AGAIN_S = 30.0
_SELDOM_S = 3600.0
"""The wait after _CHANCES failures. It is finite: swapping on three days of a year must not lose a VM."""
_KNOWN_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Culprit:
    """The identity of a process when it was read: its PID alone may be reused."""

    pid: int
    started_s: float
    """Seconds from the host's boot to its start."""
    uid: int | None


@dataclass(slots=True)
class _Record:
    culprit: Culprit
    failures: int = 0
    again_s: float = 0.0
    """Monotonic time from which it may be read again; infinite: never."""


@dataclass(slots=True)
class Blame:
    """The failures of reading, by process."""

    _records: dict[int, _Record] = field(default_factory=dict)
    _hung: dict[int, Culprit] = field(default_factory=dict)
    """The process by the PID of the reader that hangs at it."""
    _answered: dict[int, set[str]] = field(default_factory=dict)
    """The functions that have read a process, by its PID."""

    @property
    def suspects(self) -> frozenset[int]:
        """PIDs of processes with a recorded failure."""
        return frozenset(self._records)

    @property
    def hung(self) -> int:
        """Number of readers that hang at present."""
        return len(self._hung)

    @property
    def is_strict(self) -> bool:
        """Whether so many readers hang that a process's owner must be checked before each read."""
        return len(self._hung) >= HUNG_PER_USER

    def answered(self, pid: int, function: str = "") -> None:
        """Record that a function has read a process."""
        if len(self._answered) >= _KNOWN_LIMIT:
            self._answered.clear()
        self._answered.setdefault(pid, set()).add(function)

    def slow(self, culprit: Culprit, now_s: float) -> None:
        """Record that a reader had to be killed or died, and has ended."""
        record = self._record(culprit)
        record.failures += 1
        wait_s = _AGAIN_S if record.failures < _CHANCES else _SELDOM_S
        record.again_s = max(record.again_s, now_s + wait_s)

    def hangs(self, reader: int, culprit: Culprit) -> None:
        """Record that a reader does not end by SIGKILL: the process is not read until it has ended."""
        self._record(culprit).again_s = float("inf")
        self._hung[reader] = culprit

    def ended(self, reader: int, now_s: float) -> None:
        """Record that a hung reader has ended: the process may only have been slow, as on a busy host."""
        culprit = self._hung.pop(reader, None)
        if culprit is None or culprit in self._hung.values():
            return
        record = self._records.get(culprit.pid)
        if record is not None and record.culprit.started_s == culprit.started_s:
            record.again_s = 0.0
            self.slow(culprit, now_s)

    def forget(self, pid: int) -> None:
        """Forget a process that has ended: its PID may be reused by another."""
        self._records.pop(pid, None)
        self._answered.pop(pid, None)

    def refusal(self, process: Culprit, now_s: float, function: str = "") -> str:
        """Return why a function must not read this process now, or "" if it may."""
        pid, uid = process.pid, process.uid
        record = self._records.get(pid)
        if record is not None and record.culprit.started_s != process.started_s:
            # The PID was reused by another process.
            self.forget(pid)
            record = None
        if record is not None and now_s < record.again_s:
            forever = record.again_s == float("inf")
            return f"process {pid} made its reader hang: " + (
                "it is not read any more" if forever else "it is read again in a while"
            )
        if not self.is_strict:
            return ""
        owner = owner_of(uid)
        of_owner = sum(owner_of(culprit.uid) == owner for culprit in self._hung.values())
        is_known = function in self._answered.get(pid, ())
        if of_owner >= (HUNG_OF_OWNER if is_known else HUNG_PER_USER):
            return (
                f"process {pid} is not read: {of_owner} readers hang at processes of its user {uid}"
            )
        if len(self._hung) >= HUNG_OF_STRANGERS and not is_known:
            return f"process {pid} is not read: {len(self._hung)} readers hang at other processes"
        return ""

    def problems(self) -> tuple[str, ...]:
        """Return messages for the operator: the processes that are not read any more."""
        return tuple(
            f"process {pid} of user {record.culprit.uid} made its reader hang; it is "
            + ("not read any more" if record.again_s == float("inf") else "read once an hour")
            for pid, record in self._records.items()
            if record.again_s == float("inf") or record.failures >= _CHANCES
        )[:HUNG_LIMIT]

    def _record(self, culprit: Culprit) -> _Record:
        record = self._records.get(culprit.pid)
        if record is None or record.culprit.started_s != culprit.started_s:
            record = self._records[culprit.pid] = _Record(culprit)
        return record
