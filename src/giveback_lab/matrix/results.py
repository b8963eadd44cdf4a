"""Store a row's figures: one JSON file each, written atomically, valid until its version changes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from giveback_kernel.errors import GivebackError
from giveback_lab.matrix.rows import MatrixRow  # noqa: TC001  # pydantic reads the annotations
from giveback_lab.report.decode import Bytes, Number, Seconds  # noqa: TC001

if TYPE_CHECKING:
    from pathlib import Path

FILE_LIMIT_BYTES = 1 << 20
_KNOWN_KEYS_ALONE = with_config(ConfigDict(extra="forbid"))


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class EndFigures:
    """How much page cache of one ended process came back, in percent of `cold_bytes`.

    A page counts once the guest has dropped it and the host has it back.
    """

    name: str
    cold_bytes: Bytes
    back_15_percent: Number
    back_60_percent: Number


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class RowFigures:
    """The measurements of a row.

    `before` is the moment at which the first process ended; `after` is one minute past the last
    end.
    """

    release: str
    resident_before_bytes: Bytes
    resident_after_bytes: Bytes
    residue_bytes: Bytes
    cold_left_bytes: Bytes | None
    ends: tuple[EndFigures, ...]
    hot_bytes: Bytes
    hot_lost_bytes: Bytes
    method: str
    reason: str


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class RowResult:
    """A finished row: figures, or why there are none. `version` covers agent, lab, QEMU and RAM size."""

    row: MatrixRow
    version: str
    took_s: Seconds
    figures: RowFigures | None = None
    failure: str = ""


_RESULT = TypeAdapter(RowResult)


class RowStore:
    """The folder of the rows' files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, result: RowResult) -> None:
        """Replace the row's earlier result. Raises GivebackError."""
        path = self._path(result.row)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(asdict(result), indent=1) + "\n")
            scratch.replace(path)
        except OSError as error:
            raise GivebackError(f"{path}: {error.strerror}: the row is lost") from error

    def read(self, row: MatrixRow) -> RowResult | None:
        """Return the stored result, or None if no file can be read."""
        try:
            with self._path(row).open("rb") as file:
                return _RESULT.validate_json(file.read(FILE_LIMIT_BYTES))
        except (OSError, ValidationError):
            return None

    def is_done(self, row: MatrixRow, version: str) -> bool:
        """Return whether the row was measured with this version; a failed row was not."""
        stored = self.read(row)
        return stored is not None and stored.figures is not None and stored.version == version

    def _path(self, row: MatrixRow) -> Path:
        return self.folder / f"{row.key}.json"
