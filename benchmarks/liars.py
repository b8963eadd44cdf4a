"""Simulate how long a host lasts with guests that lie: seconds until nothing is available, as a table.

    .venv/bin/python benchmarks/liars.py     (takes a minute)

There are 20 honest guests (256 MiB of trapped memory and of cold cache each, 1 GiB of warm cache)
on a host of 64 GiB with 7 GiB available that loses 256 MiB/s. 0 to 128 liars hold 64 MiB each and
report 8 GiB more as cold cache.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit/helpers"))

from lying_guests import Lie, losing_host

LIARS = (0, 1, 4, 16, 64, 128)
LOST_BYTES_PER_S = 256 << 20


def main() -> int:
    print("| what the liars do | " + " | ".join(f"{count} liars" for count in LIARS) + " |")
    print("|---|" + "---|" * len(LIARS))
    for lie in Lie:
        seconds = [losing_host(count, lie).seconds_to_oom(LOST_BYTES_PER_S) for count in LIARS]
        print(f"| {lie} | " + " | ".join(f"{after:.1f} s" for after in seconds) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
