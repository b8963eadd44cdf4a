"""Senpai on the guest's root cgroup, by both of its published control laws."""

from __future__ import annotations

from giveback_lab.bench.strategies.running import of_program

STRATEGIES = (
    of_program(
        "senpai",
        "Senpai as in TMO's paper, on the root cgroup (re-implementation)",
        "Weiner et al., TMO: Transparent Memory Offloading in Datacenters, ASPLOS 2022",
        ("senpai.py",),
    ),
    of_program(
        "senpai-oomd",
        "Senpai as in oomd's code, on the root cgroup (re-implementation)",
        "facebookincubator/oomd 88c28fd, src/oomd/plugins/Senpai.cpp, immediate_backoff",
        ("senpai.py",),
    ),
)
