"""Kata Containers' mem-agent: its two cores separately, and both with a period shorter than a cell."""

from __future__ import annotations

from giveback_lab.bench.strategies.running import of_program

SOURCE = "kata-containers 7c6ba40, src/libs/mem-agent/src/"
FILES = ("kata.py", "kata_compact.py", "kata_memcg.py", "kata_psi.py")

STRATEGIES = (
    of_program(
        "kata-compact",
        "Kata mem-agent's compact core, every 600 s (re-implementation)",
        f"{SOURCE}compact.rs",
        FILES,
    ),
    of_program(
        "kata-memcg",
        "Kata mem-agent's memcg core, every 600 s (re-implementation)",
        f"{SOURCE}memcg.rs",
        FILES,
    ),
    of_program(
        "kata-eager",
        "Kata mem-agent's two cores, every 61 s instead of 600 (re-implementation)",
        f"{SOURCE}compact.rs, memcg.rs; the period is ours",
        FILES,
        # Just above the minute that the memcg core waits between two ageings.
        ("kata-both", "period_secs=61"),
    ),
)
