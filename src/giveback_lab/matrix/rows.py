"""Which guests the matrix has, and which it cannot have here. Data only."""

from __future__ import annotations

from dataclasses import dataclass

from giveback.errors import InputError
from giveback_lab.images.kernels import check_kernel_name
from giveback_lab.vms.lab import DISTRIBUTION, GUESTS, MACHINES, SMALL

KERNELS = ("5.10", "6.1", "6.12", "7.2", "7.3")
AMD64, ARM64, ARM64_16K = "amd64", "arm64", "arm64-16k"
# Debian has kernels with 16 KiB pages since trixie.
KERNELS_16K = ("6.12", "7.2", "7.3")


@dataclass(frozen=True, slots=True, order=True)
class MatrixRow:
    """One guest: a kernel series, a machine as `--arch` names it, small or distribution."""

    kernel: str
    machine: str
    guest: str

    @property
    def key(self) -> str:
        """The name of the row and of its file."""
        return f"{self.kernel}-{self.machine}-{self.guest}"


ROWS = (
    *(MatrixRow(kernel, AMD64, SMALL) for kernel in KERNELS),
    *(MatrixRow(kernel, AMD64, DISTRIBUTION) for kernel in KERNELS),
    *(MatrixRow(kernel, ARM64, SMALL) for kernel in KERNELS),
    *(MatrixRow(kernel, ARM64_16K, SMALL) for kernel in KERNELS_16K),
)


@dataclass(frozen=True, slots=True)
class NotRun:
    """A guest that the lab does not have: what it is, why, and which tests stand for it."""

    what: str
    why: str
    tested: str


NOT_RUN = (
    NotRun(
        "Linux 6.6 and 6.8", "no Debian suite has them", "nothing of their own: features are probed"
    ),
    NotRun(
        "RHEL 8, 9 and 10 kernels",
        "not among Debian's packages",
        "nothing of their own; 5.14 lacks memory.reclaim as the 5.10 row does",
    ),
    NotRun("Ubuntu kernels", "only where the host is Ubuntu", "nothing of their own"),
    NotRun(
        "WSL 2", "it needs Windows", "a namespace as WSL's (6.12), its files' text in unit tests"
    ),
    NotRun(
        "more than 8 vCPUs",
        "2 host CPUs emulate them too slowly",
        "generated trees (docs/scale.md)",
    ),
)


def rows_of(words: str) -> tuple[MatrixRow, ...]:
    """Return the rows that a command line names, such as "6.12-amd64-small,7.3" or "all".

    A part of a name, such as "7.3" or "arm64-16k-small", selects all rows that contain it. Raises
    InputError.
    """
    if words == "all":
        return ROWS
    found: dict[MatrixRow, None] = {}
    for word in (part.strip() for part in words.split(",")):
        rows = [row for row in ROWS if word and f"-{word}-" in f"-{row.key}-"] or [_row(word)]
        found.update(dict.fromkeys(rows))
    return tuple(found)


def _row(word: str) -> MatrixRow:
    """Return a row that is not among ROWS, of another kernel. Raises InputError."""
    for machine in sorted(MACHINES, key=len, reverse=True):
        for guest in GUESTS:
            kernel = word.removesuffix(f"-{machine}-{guest}")
            if kernel != word:
                check_kernel_name(kernel)
                return MatrixRow(kernel, machine, guest)
    raise InputError(
        f"--rows {word}: no such row: KERNEL-MACHINE-GUEST such as {ROWS[0].key}, a part of it, or all"
    )
