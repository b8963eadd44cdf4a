"""Which processes are not read any more, because a reader hung or died while it read them. Pure.

A reader that ignores SIGKILL waits for something that its victim controls (a page behind FUSE, say); it
costs memory until that ends. So few are risked for one user and few in all, and a process that did it is
not read again. One that was only slow - the host swaps, or its command line is on a slow disk - has
more than one chance.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from giveback.host.budgets import owner_of

HUNG_PER_USER = 3
"""Readers that one user's processes may cost; then those that were never read are not begun with."""
HUNG_OF_STRANGERS = 12
"""Readers that processes which were never read may cost in all: a user can have many uids."""
HUNG_OF_OWNER = 8
"""Readers that one user's processes may cost, those that were read before among them."""
HUNG_LIMIT = 48
"""Readers that may hang in all. Then none is started in their place; what is left goes on."""
_CHANCES = 3
_AGAIN_S = 30.0
_SELDOM_S = 3600.0
"""After _CHANCES. Not never: a host that swapped on three days of a year has lost no VM."""
_KNOWN_LIMIT = 1 << 16


@dataclass(frozen=True, slots=True)
class Culprit:
    """A process as it was when it was read: a PID alone may be another's by now."""

    pid: int
    started_s: float
    """Seconds from the host's boot to its start."""
    uid: int | None


@dataclass(slots=True)
class _Record:
    culprit: Culprit
    failures: int = 0
    again_s: float = 0.0
    """When it may be read again; infinite: never."""


@dataclass(slots=True)
class Blame:
    """What is held against which process."""

    _records: dict[int, _Record] = field(default_factory=dict)
    _hung: dict[int, Culprit] = field(default_factory=dict)
    """By the reader's PID, while it hangs."""
    _answered: dict[int, set[str]] = field(default_factory=dict)
    """By PID, the functions that have read it."""

    @property
    def suspects(self) -> frozenset[int]:
        """PIDs that something is held against."""
        return frozenset(self._records)

    @property
    def hung(self) -> int:
        """Readers that hang now."""
        return len(self._hung)

    @property
    def is_strict(self) -> bool:
        """Whether it matters whose a process is: a user, or all together, have used up their readers."""
        return len(self._hung) >= HUNG_PER_USER

    def answered(self, pid: int, function: str = "") -> None:
        """Note that a function could read a process."""
        if len(self._answered) >= _KNOWN_LIMIT:
            self._answered.clear()
        self._answered.setdefault(pid, set()).add(function)

    def slow(self, culprit: Culprit, now_s: float) -> None:
        """Note that a reader had to be killed, or died, and that it is gone."""
        record = self._record(culprit)
        record.failures += 1
        wait_s = _AGAIN_S if record.failures < _CHANCES else _SELDOM_S
        record.again_s = max(record.again_s, now_s + wait_s)

    def hangs(self, reader: int, culprit: Culprit) -> None:
        """Note that a reader cannot even be killed: this process is never read again."""
        self._record(culprit).again_s = float("inf")
        self._hung[reader] = culprit

    def ended(self, reader: int) -> None:
        """Note that a reader that hung has ended."""
        self._hung.pop(reader, None)

    def forget(self, pid: int) -> None:
        """Note that the process has ended: whoever has its PID next is another one."""
        self._records.pop(pid, None)
        self._answered.pop(pid, None)

    def refusal(self, process: Culprit, now_s: float, function: str = "") -> str:
        """Why a function is not to read this process now; "" where it may."""
        pid, uid = process.pid, process.uid
        record = self._records.get(pid)
        if record is not None and record.culprit.started_s != process.started_s:
            # Another process has its PID now.
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
        """What an operator has to know: which processes are not read any more."""
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
