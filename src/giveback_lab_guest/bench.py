"""The benchmark's workloads in a guest: what is done, what is read again, what keeps running.

Every size is a fraction of the guest's RAM, every content follows from the seed. A workload has
these steps:

- `run`: the workload; the last line of output says how long it took.
- `reread`: read its hot set again.
- `again`: start again what has ended.
- `report`: the figures of what keeps running.
- `clean`: remove the workload's files.
- `linger`: start what keeps running.
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
    """Run `STEP WORK FOLDER RAM_BYTES SEED CPUS`, `drop`, `keep BYTES` or `ended …`; return an exit code."""
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
    """Run the workload; print how long it took and the bytes of its hot set."""
    begin = time.monotonic()
    for name, act in job.phases():
        say(phase=name)
        act()
    say(done=True, work_s=time.monotonic() - begin, hot_bytes=job.hot_bytes())
    return 0


def reread(job: Job) -> int:
    """Read the hot set; print how long it took and how many bytes came from disk."""
    # The reader's own code and lists must be in memory first: only the hot set is to be measured.
    read_again = job.prepare_reread()
    before = read_bytes()
    begin = time.monotonic()
    total = read_again()
    seconds = time.monotonic() - begin
    say(reread_s=seconds, reread_bytes=total, disk_bytes=read_bytes() - before)
    return 0


def clean(job: Job) -> int:
    """Remove the workload's files."""
    job.clean()
    say(done=True)
    return 0


def linger(job: Job) -> int:
    """Run what keeps running after the workload, without end."""
    say(done=True)
    job.linger()
    return 0


def deploy(job: Job) -> int:
    """Run the workload, then what keeps running: as a single service does."""
    return run(job) or linger(job)


def again(job: Job) -> int:
    """Start again what has ended; print how long it took."""
    begin = time.monotonic()
    job.again()
    say(again_s=time.monotonic() - begin)
    return 0


def report(job: Job) -> int:
    """Print the figures of what keeps running."""
    say(**job.report())
    return 0


def warm(job: Job) -> int:
    """Be the process that holds a workload's hot files; it does not exit."""
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
    """Write dirty pages, then drop all clean cache and slab, once."""
    os.sync()
    with open(DROP_CACHES, "w") as file:
        file.write("3\n")
    say(done=True)
    return 0


def read_bytes(path: str = "/proc/vmstat") -> int:
    """Return the bytes read from block devices since boot."""
    with open(path) as file:
        for line in file:
            name, _, value = line.partition(" ")
            if name == "pgpgin":
                return int(value) * 1024
    return 0


def say(**message: object) -> None:
    """Print one JSON line for the host."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()
