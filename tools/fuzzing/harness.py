"""The harness, and the properties checked for every input: the kind of error, the size and the cost."""

from __future__ import annotations

import ast
import dataclasses
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from giveback_kernel.errors import GivebackError
from giveback_kernel.record import Record, as_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

CORPUS = Path(__file__).with_name("corpus")
INPUT_LIMIT_BYTES = 16 << 10
ERROR_LIMIT_CHARS = 8000
CPU_LIMIT_S = 5.0
"""For one input of at most INPUT_LIMIT_BYTES: far above what any takes."""
WEIGHT_BASE, WEIGHT_A_BYTE = 20_000, 64
GROWTH_LIMIT = 8.0
"""Instructions for four times the input: 4 is linear, 16 is quadratic."""


class FoundError(Exception):
    """A parser violated a property."""


@dataclass(frozen=True, slots=True)
class Harness:
    """A parser of foreign bytes. `run` calls it; it may raise `errors`, and nothing else.

    `tokens` are words of its grammar, `seeds` valid inputs. `is_slow`: each input needs a server or
    a disk, so there are few of them.
    """

    name: str
    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]
    tokens: tuple[bytes, ...] = ()
    errors: tuple[type[Exception], ...] = (GivebackError,)
    is_slow: bool = False

    def corpus(self) -> list[bytes]:
        """Return the seeds and the inputs that coverage-guided runs found: a bytes literal per line."""
        path = CORPUS / f"{self.name}.txt"
        lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
        return [*self.seeds, *(ast.literal_eval(line) for line in lines)]

    def try_one(self, data: bytes, *, weigh: bool = False) -> None:
        """Parse one input. Raises FoundError if the parser violates a property."""
        try:
            self._try(data, weigh=weigh)
        except FoundError as error:
            raise FoundError(f"{error}\n  {data!r}") from error.__cause__

    def _try(self, data: bytes, *, weigh: bool) -> None:
        began_s = time.process_time()
        try:
            found = self.run(data)
        except self.errors as error:
            found = None
            if len(str(error)) > ERROR_LIMIT_CHARS:
                raise FoundError(
                    f"{self.name}: an error of {len(str(error))} characters"
                ) from error
        except Exception as error:
            raise FoundError(f"{self.name}: {type(error).__name__}: {str(error)[:200]}") from error
        took_s = time.process_time() - began_s
        if took_s > CPU_LIMIT_S:
            raise FoundError(f"{self.name}: {len(data)} bytes took {took_s:.1f} s of CPU")
        limit = WEIGHT_BASE + WEIGHT_A_BYTE * len(data)
        if weigh and weight(found, limit) > limit:
            raise FoundError(
                f"{self.name}: {len(data)} bytes became more than {limit} objects or characters"
            )

    def growth(self, part: bytes, count: int = 24) -> float:
        """Return how many times more instructions `part` needs when it is repeated four times as often."""
        once = instructions(lambda: self._quiet(part * count))
        longer = instructions(lambda: self._quiet(part * 4 * count))
        return longer / max(once, 2000)

    def _quiet(self, data: bytes) -> None:
        try:
            self.run(data)
        except self.errors:
            return


def weight(value: object, limit: int) -> int:
    """Count the objects and characters of a result, up to `limit`."""
    total, todo = 0, [value]
    while todo and total <= limit:
        one = todo.pop()
        total += 1
        if isinstance(one, (str, bytes)):
            total += len(one)
        else:
            todo.extend(_parts(one))
    return total


def _parts(value: object) -> Iterator[object]:
    if isinstance(value, dict):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from value
    elif isinstance(value, Record):
        yield from as_dict(value).values()
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        yield from (getattr(value, field.name) for field in dataclasses.fields(value))


def instructions(work: Callable[[], object]) -> int:
    """Count the Python instructions of `work`, which are the same on every machine."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        work()
    finally:
        sys.settrace(before)
    return count
