"""A row's figures on disk: one JSON file each, written whole, kept until what it is of has changed."""

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
    """What came back of the page cache of one thing that ended: percent of `cold_bytes`.

    A page counts once the guest has dropped it and the host has it back.
    """

    name: str
    cold_bytes: Bytes
    back_15_percent: Number
    back_60_percent: Number


@_KNOWN_KEYS_ALONE
@dataclass(frozen=True, slots=True)
class RowFigures:
    """What was measured of a row. `before`: as the first thing ended; `after`: a minute past the last."""

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
    """A finished row: figures, or why there are none. `version` is of agent, lab, QEMU and size."""

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
        """Keep a result in place of the row's earlier one. Raises GivebackError."""
        path = self._path(result.row)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            scratch.write_text(json.dumps(asdict(result), indent=1) + "\n")
            scratch.replace(path)
        except OSError as error:
            raise GivebackError(f"{path}: {error.strerror}: the row is lost") from error

    def read(self, row: MatrixRow) -> RowResult | None:
        """The stored result, or None where there is none that can be read."""
        try:
            with self._path(row).open("rb") as file:
                return _RESULT.validate_json(file.read(FILE_LIMIT_BYTES))
        except (OSError, ValidationError):
            return None

    def is_done(self, row: MatrixRow, version: str) -> bool:
        """Whether the row was measured, with what would measure it now; one that failed was not."""
        stored = self.read(row)
        return stored is not None and stored.figures is not None and stored.version == version

    def _path(self, row: MatrixRow) -> Path:
        return self.folder / f"{row.key}.json"
