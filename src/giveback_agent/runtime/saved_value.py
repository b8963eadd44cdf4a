"""A kernel value that is changed for a while and put back, also after a SIGKILL at any point.

The order of writes is the guarantee: the original goes to a record under /run before the kernel is
changed, and the record is removed only after the original is back. Whoever starts next finds the
record and restores. A value that somebody else has set meanwhile is theirs, and is left alone.

Records live under /run because the kernel's values end with the kernel, too.
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


class Saved(Record):
    """One original: the value, and of which file it is ("" where the kind of value has only one)."""

    value: int
    path: str = ""


class Restored(Record):
    """What `restore` found and did: `saved` is what it put back, None where it put nothing back."""

    found: bool
    saved: Saved | None = None


class SavedValue:
    """A kind of kernel value with its record.

    `file_name` is set for values of which a system has many, one per folder: the record then says
    which file it was, and only a file of that name is ever written.
    """

    def __init__(
        self, record_name: str, what: str, *, file_name: str = "", record_limit_bytes: int = 32
    ) -> None:
        self.record_path = f"{run_dir.FOLDER}/{record_name}"
        self._what = what
        self._file_name = file_name
        self._record_limit_bytes = record_limit_bytes

    def save(self, root: str, saved: Saved) -> None:
        """Put the original on record. Raises KernelFileError or AgentError: then change nothing."""
        run_dir.make_folder(root)
        line = f"{saved.value} {saved.path}" if self._file_name else f"{saved.value}"
        if not run_dir.write_file(root, self.record_path, f"{line}\n"):
            path = files.under(root, self.record_path)
            raise KernelFileError(path, "cannot be written: a crash could not be repaired")

    def is_saved(self, root: str) -> bool:
        """Tell whether there is a record, whatever is in it."""
        return os.path.lexists(files.under(root, self.record_path))

    def load(self, root: str, limit: int) -> Saved:
        """Read the record of a value below `limit`. Raises KernelFileError for nonsense."""
        data = files.read(root, self.record_path, self._record_limit_bytes)
        word, _, path = data.rstrip(b"\n").partition(b" ") if self._file_name else (data, b"", b"")
        saved = Saved(number(self.record_path, self._what, word.strip(), limit), text(path))
        if self._file_name and not self._is_well_formed(saved.path):
            raise KernelFileError(self.record_path, f"names no {self._file_name}")
        return saved

    def restore(
        self,
        root: str,
        load: Callable[[], Saved | None],
        is_ours: Callable[[Saved], bool],
        write: Callable[[Saved], None],
    ) -> Restored:
        """Undo the change on record, by this process or a killed one.

        `load` reads the record, and gives the value to set, or None, where it is nonsense. `is_ours`
        tells whether the kernel still has our value. Raises KernelFileError; the record is then kept,
        so try again.
        """
        if not self.is_saved(root):
            return Restored(False)
        saved = load()
        ours = saved is not None and is_ours(saved)
        if saved is not None and ours:
            write(saved)
        run_dir.remove_file(root, self.record_path)
        return Restored(True, saved if ours else None)

    def _is_well_formed(self, path: str) -> bool:
        return path.startswith("/") and path.endswith(f"/{self._file_name}") and "/../" not in path
