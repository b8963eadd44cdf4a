"""The benchmark's works in a guest: what is done, what is read again, what goes on for ever.

Every size is a fraction of the guest's RAM, every content follows from the seed. A work has the steps
`run` (its last line says how long it took), `reread` (its hot set once more), `again` (what has ended starts
once more), `report` (of what goes on), `clean` and `linger`.
"""

from __future__ import annotations

import json
import os
import sys
import time

from giveback_lab_guest.works.build import Build
from giveback_lab_guest.works.containers import Containers
from giveback_lab_guest.works.database import Database
from giveback_lab_guest.works.demo_day import BenchDay
from giveback_lab_guest.works.ended import ended
from giveback_lab_guest.works.files import Editor, Files
from giveback_lab_guest.works.hogs import Hogs, keep
from giveback_lab_guest.works.service import Service30, Service50, Service70
from giveback_lab_guest.works.whole_day import WholeDay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_lab_guest.works.job import Job

JOBS = {
    "build": Build,
    "files": Files,
    "hogs": Hogs,
    "database": Database,
    "editor": Editor,
    "day": BenchDay,
    "containers": Containers,
    "service-30": Service30,
    "service-50": Service50,
    "service-70": Service70,
    "whole-day": WholeDay,
}
DROP_CACHES = "/proc/sys/vm/drop_caches"


def bench(words: list[str]) -> int:
    """`STEP WORK FOLDER RAM_BYTES SEED CPUS`, `drop`, `keep BYTES`, or `ended …`; returns an exit code."""
    step = words[0]
    if step == "drop":
        return drop()
    if step == "keep":
        return keep(int(words[1]))
    if step == "ended":
        return ended(words[1:])
    name, folder, ram, seed, cpus = words[1:]
    os.makedirs(folder, exist_ok=True)
    job = JOBS[name](folder, int(ram), int(seed), int(cpus))
    return STEPS[step](job)


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


def deploy(job: Job) -> int:
    """The work, and then what goes on for ever: as one service does it."""
    return run(job) or linger(job)


def again(job: Job) -> int:
    """Start once more what has ended; says how long it took."""
    begin = time.monotonic()
    job.again()
    say(again_s=time.monotonic() - begin)
    return 0


def report(job: Job) -> int:
    """What goes on says what it has done so far."""
    say(**job.report())
    return 0


def warm(job: Job) -> int:
    """The process that keeps a work's hot files: it stays."""
    job.warm()
    return 0


STEPS = {
    "run": run,
    "reread": reread,
    "clean": clean,
    "linger": linger,
    "deploy": deploy,
    "again": again,
    "report": report,
    "warm": warm,
}


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
