"""The lab's program in a guest.

`serve` answers the host, `work` and `reread` are its workloads, `strategy` is another system's way
to return memory, `bench` runs the benchmark's workloads.
"""

from __future__ import annotations

import sys


def main() -> int:
    """Run one of the lab's guest commands and return its exit code."""
    command, *words = sys.argv[1:] or ["serve"]
    if command == "serve":
        from giveback_lab_guest.serve import serve

        return serve()
    if command == "work":
        from giveback_lab_guest.works.demo import work

        return work(words)
    if command == "reread":
        from giveback_lab_guest.works.demo import reread

        return reread(words)
    if command == "strategy":
        from giveback_lab_guest.strategies import strategy

        return strategy(words)
    if command == "bench":
        from giveback_lab_guest.bench import bench

        return bench(words)
    print(f"giveback-lab: no command {command!r}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
