"""Show what the lab has fetched and built on this host, and remove entries that were not used lately.

Any entry may be removed: a missing one is fetched or built again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback_lab.packages.cache import cache_root, entries, remove

if TYPE_CHECKING:
    import argparse

HELP = "show what the lab keeps on this host, and remove what was not used lately"
DAY_S = 86_400.0
MIB = 1 << 20
MOST_DAYS = 10_000


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add `--remove-unused DAYS`; without it nothing is changed."""
    parser.add_argument(
        "--remove-unused",
        type=float,
        metavar="DAYS",
        help="remove entries that were not used for DAYS days (0: all)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the entries by kind, or remove old ones; return 0."""
    days = args.remove_unused
    if days is not None and not 0 <= days <= MOST_DAYS:
        raise InputError(f"--remove-unused {days:g}: must be 0 to {MOST_DAYS} days")
    root, now_s = cache_root(), time.time()
    kinds: dict[str, list[int]] = {}
    removed_bytes = 0
    for entry in entries(root):
        if days is not None and now_s - entry.used_s >= days * DAY_S:
            remove(entry)
            removed_bytes += entry.size_bytes
        else:
            kinds.setdefault(entry.kind, []).append(entry.size_bytes)
    for kind, sizes in sorted(kinds.items()):
        print(f"{kind:<10} {len(sizes):>3} entries  {sum(sizes) // MIB:>6} MiB")
    total_bytes = sum(sum(sizes) for sizes in kinds.values())
    print(f"{root}: {total_bytes // MIB} MiB")
    if days is not None:
        print(f"removed: {removed_bytes // MIB} MiB")
    return 0
