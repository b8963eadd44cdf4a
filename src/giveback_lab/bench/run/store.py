"""Finished cells on disk: one compressed JSON file each, written atomically.

A failed cell has a separate file with its reasons and no measurements. A cell of `none` that was
measured again in another sitting keeps its file under a number: the cells of its own sitting are
compared with it, not with the new one.
"""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from dataclasses import asdict, astuple, dataclass, fields
from itertools import count
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from giveback.errors import InputError
from giveback_kernel.errors import GivebackError
from giveback_lab.bench.analysis.comparable import NONE, is_beside
from giveback_lab.bench.model import SCHEMA, Cell, CellResult, CellSample
from giveback_lab.report.decode import fault

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIX = ".json.gz"
FAILED_SUFFIX = ".failed.json.gz"
EARLIER = re.compile(r"\.[0-9]+(?=\.json\.gz$)")
"""The number in the file name of a cell of `none` that a later one has replaced."""
LIMIT_BYTES = 64 << 20
"""Limit of one unpacked file: an hour of three VMs is below 2 MB."""

_RESULT = TypeAdapter(CellResult)
_IN_A_ROW = [field.name for field in fields(CellSample)]


@dataclass(frozen=True, slots=True)
class ResultRefused:
    """A stored file that does not count, and why."""

    path: Path
    reason: str


def to_json(result: CellResult) -> str:
    """Return a result as JSON; samples are rows in the order of Sample's fields."""
    plain = asdict(result)
    for vm, of_vm in zip(result.vms, plain["vms"], strict=True):
        of_vm["samples"] = [list(astuple(sample)) for sample in vm.samples]
    return json.dumps(plain, separators=(",", ":"))


def from_json(text: str) -> CellResult:
    """Parse the output of `to_json`. Raises ValueError for anything else, another schema included."""
    try:
        plain = json.loads(text)
        if plain["schema"] != SCHEMA:
            raise ValueError(f"of schema {plain['schema']!r}, not {SCHEMA}")
        for course in plain["vms"]:
            course["samples"] = [_of_row(row) for row in course["samples"]]
        return _RESULT.validate_python(plain)
    except ValidationError as error:
        raise ValueError(f"not a stored cell: {fault(error)}") from error
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a stored cell: {error!r}") from error


def _of_row(row: list[object]) -> dict[str, object]:
    if len(row) != len(_IN_A_ROW):
        raise ValueError(f"not a stored cell: a sample of {len(row)} columns, not {len(_IN_A_ROW)}")
    return dict(zip(_IN_A_ROW, row, strict=True))


class Store:
    """The folder `OUT/cells`."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "cells"

    def make(self) -> None:
        """Make the folder and check that it can be written. Raises InputError."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            probe = self.folder / f".writable.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise InputError(
                f"--out {self.folder.parent}: {error.strerror}: choose a folder that can be written"
            ) from error

    def write(self, result: CellResult) -> Path:
        """Store a result; one without VMs is stored as a failure. Raises GivebackError.

        It replaces the stored result of its cell. Cells of `none` are treated as in the module's
        docstring.
        """
        failed = not result.vms
        path = self._path(result.cell.key, FAILED_SUFFIX if failed else SUFFIX)
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            scratch.write_bytes(gzip.compress(to_json(result).encode(), mtime=0))
            if not failed and result.cell.strategy == NONE:
                self._keep_earlier(result)
            scratch.replace(path)
            if not failed:
                self._path(result.cell.key, FAILED_SUFFIX).unlink(missing_ok=True)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise GivebackError(f"{path}: {error.strerror}: the cell is lost") from error
        return path

    def read(self, cell: Cell) -> CellResult | ResultRefused | None:
        """Return the stored result of a cell without failures, or None if there is none."""
        path = self._path(cell.key, SUFFIX)
        return read_file(path) if path.exists() else None

    def _keep_earlier(self, result: CellResult) -> None:
        stored = self.read(result.cell)
        if isinstance(stored, CellResult) and stored.sitting != result.sitting:
            key = result.cell.key
            numbered = (self._path(f"{key}.{number}", SUFFIX) for number in count(1))
            free = next(path for path in numbered if not path.exists())
            self._path(key, SUFFIX).rename(free)

    def prune(self) -> list[Path]:
        """Remove earlier cells of `none` whose sitting has no other cell left; return their paths.

        Raises GivebackError.
        """
        stored = [(p, r) for p, r in self._files() if isinstance(r, CellResult)]
        others = [result for _, result in stored if result.cell.strategy != NONE and result.vms]
        removed = []
        for path, none in stored:
            if EARLIER.search(path.name) and not any(is_beside(none, one) for one in others):
                try:
                    path.unlink(missing_ok=True)
                except OSError as error:
                    raise GivebackError(f"{path}: {error.strerror}: remove it") from error
                removed.append(path)
        return removed

    def read_all(self) -> tuple[list[CellResult], list[ResultRefused]]:
        """Return everything stored, failures too, in the order of the file names."""
        found: list[CellResult] = []
        refused: list[ResultRefused] = []
        for _, result in self._files():
            if isinstance(result, ResultRefused):
                refused.append(result)
            else:
                found.append(result)
        return found, refused

    def _files(self) -> Iterator[tuple[Path, CellResult | ResultRefused]]:
        for path in sorted(self.folder.glob(f"[!.]*{SUFFIX}")):
            yield path, read_file(path)

    def _path(self, key: str, suffix: str) -> Path:
        return self.folder / f"{key}{suffix}"


def read_file(path: Path) -> CellResult | ResultRefused:
    """Return one stored cell, or why it does not count; the file's name must match its cell."""
    try:
        data = _unpacked(path.read_bytes())
        result = from_json(data.decode())
    except (OSError, ValueError, EOFError, zlib.error) as error:
        return ResultRefused(path, str(error))
    name = EARLIER.sub("", path.name) if result.cell.strategy == NONE else path.name
    if name not in (result.cell.key + SUFFIX, result.cell.key + FAILED_SUFFIX):
        return ResultRefused(path, f"holds the cell {result.cell.key}")
    return result


def _unpacked(data: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    text = unpacker.decompress(data, LIMIT_BYTES)
    if not unpacker.eof:
        raise ValueError("cut short, or far too large")
    return text
