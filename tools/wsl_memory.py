"""Show in Windows what WSL's VM holds, beside what its guest uses. Run it there: `py wsl_memory.py`.

One file, standard library only, Python 3.9: it needs no giveback on either side. It asks `tasklist.exe` for
the VM's working set and `wsl.exe` for the guest's /proc/meminfo, and changes nothing. `--from` reads recorded
outputs instead. Never run on a real Windows machine yet: docs/wsl.md has what was tested.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

TASKLIST = ("tasklist.exe", "/fo", "csv", "/nh", "/fi", "imagename eq vmmem*")
MEMINFO = ("wsl.exe", "--exec", "cat", "/proc/meminfo")
TIMEOUT_S = 60
LIMIT_BYTES = 1 << 20
MIB = 1 << 20
_SIZE_LIMIT_BYTES = 1 << 50
_FIELDS = ("MemTotal", "MemFree", "Buffers", "Cached", "SReclaimable", "Shmem")


class ReadingError(Exception):
    """An output is not what it should be; the text says what to do."""


class Guest(NamedTuple):
    """The guest's memory: `cache_bytes` could be reclaimed, `used_bytes` is the rest that is not free."""

    total_bytes: int
    free_bytes: int
    cache_bytes: int
    used_bytes: int


def parse_tasklist(data: bytes) -> int:
    """Return the working set in bytes of WSL's VM, from `tasklist /fo csv /nh`.

    The process is `vmmemWSL`, or the only `vmmem` (older Windows gives every VM that name). Any separator of
    thousands is accepted. Raises ReadingError if there is not exactly one.
    """
    found: dict[str, list[int]] = {"vmmemwsl": [], "vmmem": []}
    for line in data[:LIMIT_BYTES].decode("latin-1").splitlines():
        fields = line.strip().strip('"').split('","')
        if len(fields) != 5 or fields[0].lower() not in found:
            continue
        digits = "".join(c for c in fields[4] if c in "0123456789")
        if digits and len(digits) < 15 and int(digits) << 10 < _SIZE_LIMIT_BYTES:
            found[fields[0].lower()].append(int(digits) << 10)
    sizes = found["vmmemwsl"] or found["vmmem"]
    if not sizes:
        raise ReadingError(
            "tasklist shows no vmmemWSL: start a distribution (`wsl`), and try again"
        )
    if len(sizes) > 1:
        raise ReadingError(
            f"tasklist shows {len(sizes)} VMs of one name: stop the others (Hyper-V, Sandbox), and try again"
        )
    return sizes[0]


def parse_meminfo(data: bytes) -> Guest:
    """Return the guest's memory from /proc/meminfo, in bytes.

    Raises ReadingError if a line is missing: then the text is a message of wsl.exe, which is UTF-16.
    """
    fields: dict[str, int] = {}
    for line in data[:LIMIT_BYTES].splitlines():
        name, _, value = line.partition(b":")
        words = value.split()
        key = name.decode("latin-1")
        if key in _FIELDS and len(words) == 2 and words[0].isdigit() and len(words[0]) < 13:
            fields[key] = int(words[0]) << 10
    if len(fields) < len(_FIELDS):
        said = " ".join(data[:4000].replace(b"\0", b"").decode("latin-1").split())[:200]
        raise ReadingError(f"wsl.exe gave no /proc/meminfo, but: {said or 'nothing'}")
    total, free = fields["MemTotal"], min(fields["MemFree"], fields["MemTotal"])
    cache = fields["Cached"] + fields["Buffers"] + fields["SReclaimable"] - fields["Shmem"]
    cache = max(0, min(cache, total - free))
    return Guest(total, free, cache, total - free - cache)


def table(working_set_bytes: int, guest: Guest) -> str:
    """Return the lines to print: both sides in MiB, and what the difference is."""
    beyond = working_set_bytes - guest.used_bytes - guest.cache_bytes
    rows = [
        ("Windows: working set of the VM", working_set_bytes),
        ("  guest: used by programs and kernel", guest.used_bytes),
        ("  guest: cache, which can be dropped", guest.cache_bytes),
        ("  held but not used by the guest", max(0, beyond)),
        ("guest: free", guest.free_bytes),
        ("guest: all memory", guest.total_bytes),
    ]
    lines = [f"{name:<40}{size // MIB:>9,} MiB" for name, size in rows]
    if beyond < 0:
        lines.append(
            "Windows holds less than the guest uses: part of it is swapped out, or they were read apart"
        )
    return "\n".join(lines)


def ask(command: tuple[str, ...]) -> bytes:
    """Return a program's output. Raises ReadingError if it does not run, or takes too long."""
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
    except FileNotFoundError as error:
        raise ReadingError(f"{command[0]} is not found: run this in Windows, not in WSL") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReadingError(f"{command[0]}: {error}") from error
    return done.stdout


def main(words: list[str] | None = None) -> int:
    """Print both sides; return 0, or 1 if one cannot be read."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--from",
        dest="recorded",
        nargs=2,
        type=Path,
        metavar=("TASKLIST", "MEMINFO"),
        help="files with the outputs of the two programs",
    )
    args = parser.parse_args(words)
    try:
        if args.recorded:
            outputs = [path.read_bytes() for path in args.recorded]
        else:
            outputs = [ask(TASKLIST), ask(MEMINFO)]
        print(table(parse_tasklist(outputs[0]), parse_meminfo(outputs[1])))
    except (OSError, ReadingError) as error:
        sys.stderr.write(f"wsl_memory: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
