"""Kernel values that are changed for a while and restored, also after a SIGKILL at any point.

The order of writes guarantees it: the original values are written to a record under /run before the kernel's
are changed, and the record is removed only after they are restored. The next start finds the record and
restores. A value that another process has set meanwhile is left alone.

`SavedValue` is one value at a time; the caller decides whether the present value was set by this agent.
`SavedValues` is one kind of value of many cgroups at once, each recorded with the value that was set.

Records are under /run because the kernel's values do not survive a reboot either.
"""

from __future__ import annotations

import os

from giveback_agent.runtime import run_dir
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError
from giveback_kernel.fields import number, text
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


RECORD_LIMIT_BYTES = 1 << 20


class Saved(Record):
    """An original value and its file ("" if there is only one file of this kind)."""

    value: int
    path: str = ""


class Restored(Record):
    """The result of `restore`: whether a record was `found`, and the value restored, None if none."""

    found: bool
    saved: Saved | None = None


class Changed(Record):
    """One file: its original value, the value set by the agent (both as the kernel writes them), its path."""

    original: str
    ours: str
    path: str


class _Record:
    """A file under /run that exists while kernel values are changed."""

    def __init__(self, record_name: str, record_limit_bytes: int, file_name: str) -> None:
        self.record_path = f"{run_dir.FOLDER}/{record_name}"
        self._record_limit_bytes = record_limit_bytes
        self._file_name = file_name

    def is_saved(self, root: str) -> bool:
        """Tell whether there is a record, valid or not."""
        return os.path.lexists(files.under(root, self.record_path))

    def _put(self, root: str, lines: str) -> None:
        run_dir.make_folder(root)
        if not run_dir.write_file(root, self.record_path, lines):
            path = files.under(root, self.record_path)
            raise KernelFileError(
                path, "cannot be written, so a crash could not be repaired: is /run full?"
            )

    def _is_well_formed(self, path: str) -> bool:
        return path.startswith("/") and path.endswith(f"/{self._file_name}") and "/../" not in path


class SavedValue(_Record):
    """A kind of kernel value with its record.

    `file_name` is set if the system has many such files, one per folder: the record then has the path of
    the file, and only a file of that name is ever written.
    """

    def __init__(
        self, record_name: str, what: str, *, file_name: str = "", record_limit_bytes: int = 32
    ) -> None:
        super().__init__(record_name, record_limit_bytes, file_name)
        self._what = what

    def save(self, root: str, saved: Saved) -> None:
        """Record the original value. Raises KernelFileError or AgentError: then change nothing."""
        line = f"{saved.value} {saved.path}" if self._file_name else f"{saved.value}"
        self._put(root, f"{line}\n")

    def load(self, root: str, limit: int) -> Saved:
        """Read the record of a value below `limit`. Raises KernelFileError if it is not valid."""
        data = files.read(root, self.record_path, self._record_limit_bytes)
        word, _, path = data.rstrip(b"\n").partition(b" ") if self._file_name else (data, b"", b"")
        saved = Saved(number(self.record_path, self._what, word.strip(), limit), text(path))
        if self._file_name and not self._is_well_formed(saved.path):
            raise KernelFileError(self.record_path, f"does not name a file {self._file_name}")
        return saved

    def restore(
        self,
        root: str,
        load: Callable[[], Saved | None],
        is_ours: Callable[[Saved], bool],
        write: Callable[[Saved], None],
    ) -> Restored:
        """Undo the change that this process or a killed one has recorded.

        `load` returns the value to restore: the recorded one, or for an invalid record a default or None.
        `is_ours` tells whether the kernel still has the agent's value. Raises KernelFileError; the record
        is then kept, so try again.
        """
        if not self.is_saved(root):
            return Restored(False)
        saved = load()
        ours = saved is not None and is_ours(saved)
        if saved is not None and ours:
            write(saved)
        run_dir.remove_file(root, self.record_path)
        return Restored(True, saved if ours else None)


class _RecordsLock:
    """The lock on the records, held while this process has one that needs it."""

    def __init__(self) -> None:
        self._fd: int | None = None
        self._records: set[str] = set()

    def take(self, root: str, record: str) -> bool:
        """Take the lock for a record; return False if another process has it. Raises KernelFileError."""
        if self._fd is None:
            self._fd = run_dir.lock_records(root)
        if self._fd is None:
            return False
        self._records.add(record)
        return True

    def release(self, record: str) -> None:
        """Release the lock, if this record was the last that needed it."""
        self._records.discard(record)
        if self._fd is not None and not self._records:
            os.close(self._fd)
            self._fd = None


_LOCK = _RecordsLock()


class SavedValues(_Record):
    """One kind of memory limit, `file_name`, of many cgroups: an amount or `max` in each file.

    A manual pass may run beside the service. So from `change` to `restore` a process holds a lock, which
    ends with the process: no other process restores the values of a live one.
    """

    def __init__(self, record_name: str, file_name: str) -> None:
        super().__init__(record_name, RECORD_LIMIT_BYTES, file_name)

    def read(self, root: str, path: str) -> str | None:
        """Read the value in the file at `path`; None if it has vanished, or its value is not a limit."""
        try:
            first = files.read(root, path, 64).partition(b"\n")[0]
        except KernelFileError:
            return None
        token = first.decode("ascii", "replace").strip()
        return token if _is_limit(token) else None

    def change(self, root: str, changes: tuple[Changed, ...]) -> int:
        """Record all original values, then set the new ones in this order; return how many were set.

        An existing record is restored first. A cgroup that has vanished, or refuses the value, is skipped.
        Raises KernelFileError or AgentError, and changes nothing, if the record cannot be written, would
        be longer than RECORD_LIMIT_BYTES, or belongs to another process.
        """
        if not changes:
            return 0
        self.restore(root)
        lines = "".join([f"{c.original} {c.ours} {c.path}\n" for c in changes])
        if len(lines.encode("utf-8", "surrogateescape")) > RECORD_LIMIT_BYTES:
            path = files.under(root, self.record_path)
            raise KernelFileError(path, f"{len(changes)} cgroups are too many to record")
        run_dir.make_folder(root)
        if not _LOCK.take(root, self.record_path):
            raise KernelFileError(files.under(root, self.record_path), "another process uses it")
        self._put(root, lines)
        return sum([_write_limit(root, change.path, change.ours) for change in changes])

    def restore(self, root: str) -> int | None:
        """Undo every change on record; return the number of files, or None without a record.

        The last file is restored first. A value that was not set by this agent is left alone, and an
        invalid line is ignored. Nothing is done if another live process made the changes. Raises
        KernelFileError if a file refuses its original value, or the record cannot be removed; the record
        is then kept, so try again.
        """
        try:
            if self.is_saved(root) and _LOCK.take(root, self.record_path):
                return self._restore(root)
            return None
        finally:
            _LOCK.release(self.record_path)

    def _restore(self, root: str) -> int:
        count, refused = 0, ""
        for change in reversed(self._recorded(root)):
            if self.read(root, change.path) != change.ours:
                continue
            if _write_limit(root, change.path, change.original):
                count += 1
            elif self.read(root, change.path) == change.ours:
                refused = change.path
        if refused:
            raise KernelFileError(
                files.under(root, refused), "the kernel refuses its original value"
            )
        run_dir.remove_file(root, self.record_path)
        return count

    def _recorded(self, root: str) -> list[Changed]:
        try:
            data = files.read(root, self.record_path, self._record_limit_bytes)
        except KernelFileError:
            return []
        found = []
        for line in data.decode("utf-8", "surrogateescape").split("\n")[:-1]:
            original, _, rest = line.partition(" ")
            ours, _, path = rest.partition(" ")
            if self._is_well_formed(path) and _is_limit(original) and _is_limit(ours):
                found.append(Changed(original, ours, path))
        return found


def _is_limit(token: str) -> bool:
    return token == "max" or (token.isascii() and token.isdigit() and len(token) <= 20)


def _write_limit(root: str, path: str, value: str) -> bool:
    try:
        files.write(root, path, f"{value}\n")
    except KernelFileError:
        return False
    return True
