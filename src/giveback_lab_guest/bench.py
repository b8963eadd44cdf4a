"""The benchmark's works in a guest: what is done, what is read again, what goes on for ever.

Every size is a fraction of the guest's RAM, every content follows from the seed. A work has the steps
`run` (its last line says how long it took), `reread` (its hot set once more), `clean` and `linger`.
"""

from __future__ import annotations

import json
import os
import sys
import time

from giveback_lab_guest.bench_build import Build
from giveback_lab_guest.bench_database import Database
from giveback_lab_guest.bench_day import BenchDay
from giveback_lab_guest.bench_files import Editor, Files
from giveback_lab_guest.bench_hogs import Hogs, keep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_lab_guest.bench_job import Job

JOBS = {
    "build": Build,
    "files": Files,
    "hogs": Hogs,
    "database": Database,
    "editor": Editor,
    "day": BenchDay,
}
DROP_CACHES = "/proc/sys/vm/drop_caches"


def bench(words: list[str]) -> int:
    """`STEP WORK FOLDER RAM_BYTES SEED CPUS`, `drop`, or `keep BYTES`; returns an exit code."""
    step = words[0]
    if step == "drop":
        return drop()
    if step == "keep":
        return keep(int(words[1]))
    name, folder, ram, seed, cpus = words[1:]
    os.makedirs(folder, exist_ok=True)
    job = JOBS[name](folder, int(ram), int(seed), int(cpus))
    steps = {"run": run, "reread": reread, "clean": clean, "linger": linger}
    return steps[step](job)


def run(job: Job) -> int:
    """Do the work; says how long it took and how much of it is its hot set."""
    begin = time.monotonic()
    for name, act in job.phases():
        say(phase=name)
        act()
    say(done=True, work_s=time.monotonic() - begin, hot_bytes=job.hot_bytes())
    return 0


def reread(job: Job) -> int:
    """Read the hot set; says how long it took and how much of it came from disk."""
    # The reader's own code and lists must be in memory: what is measured is the hot set.
    read_again = job.prepare_reread()
    before = read_bytes()
    begin = time.monotonic()
    total = read_again()
    seconds = time.monotonic() - begin
    say(reread_s=seconds, reread_bytes=total, disk_bytes=read_bytes() - before)
    return 0


def clean(job: Job) -> int:
    """Remove what the work has made."""
    job.clean()
    say(done=True)
    return 0


def linger(job: Job) -> int:
    """What goes on after the work, for ever."""
    say(done=True)
    job.linger()
    return 0


def drop() -> int:
    """Drop all clean cache and slab, once. Dirty pages are written first: only clean ones go."""
    os.sync()
    with open(DROP_CACHES, "w") as file:
        file.write("3\n")
    say(done=True)
    return 0


def read_bytes(path: str = "/proc/vmstat") -> int:
    """What was read from block devices since the boot."""
    with open(path) as file:
        for line in file:
            name, _, value = line.partition(" ")
            if name == "pgpgin":
                return int(value) * 1024
    return 0


def say(**message: object) -> None:
    """One JSON line for the host."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
