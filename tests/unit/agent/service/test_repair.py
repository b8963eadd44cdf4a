"""SIGKILL at any write, and the next start or `repair` leaves every kernel value as it was found."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent_kernel_samples import GUEST, plant
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_agent.commands import repair as command
from giveback_agent.release import percpu_lists, report_order
from giveback_agent.release.cache import live_protection, memory_high
from giveback_agent.runtime import run_dir
from giveback_agent.service import cpu_weight
from giveback_agent.service.repair import repair_all
from giveback_kernel import files, page_reporting

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

MIB = 1 << 20
CGROUP = "/sys/fs/cgroup"
OWN = f"{CGROUP}/giveback-agent.service"
MOUNT = b"25 1 0:22 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
STAT = f"active_file {MIB}\ninactive_file {40 * MIB}\n".encode()
APPS = tuple(f"{CGROUP}/a.slice/app{n}" for n in range(3))
# Every kernel value that the agent changes for a while, with its original value.
FOUND = {
    page_reporting.ORDER_PATH: "9",
    percpu_lists.PATH: "0",
    f"{OWN}/cpu.weight": "1",
    **{f"{folder}/memory.high": "max" for folder in (*APPS, f"{CGROUP}/a.slice")},
    **{f"{folder}/memory.low": "0" for folder in (*APPS, f"{CGROUP}/a.slice")},
}
RECORDS = ("report-order", "percpu-fraction", "cpu-weight", "memory-high", "memory-low")
WRITES = 40


def guest(folder: Path) -> str:
    cgroups = {
        f"{path}/{name}": data
        for path in (CGROUP, f"{CGROUP}/a.slice", *APPS)
        for name, data in {
            "memory.stat": STAT,
            "memory.current": b"%d\n" % (41 * MIB),
            "cgroup.events": b"populated 1\nfrozen 0\n",
        }.items()
    }
    own = {"/proc/self/cgroup": b"0::/giveback-agent.service\n", f"{OWN}/cgroup.procs": b""}
    found = {path: f"{value}\n".encode() for path, value in FOUND.items()}
    return plant(folder, {**GUEST, "/proc/self/mountinfo": MOUNT, **cgroups, **own, **found})


def values(root: str) -> dict[str, str]:
    # A fake file keeps the end of a longer value: only its first line counts.
    return {path: Path(root + path).read_text().splitlines()[0] for path in FOUND}


def change_everything(root: str) -> None:
    """Make and undo one change of each kind, as the steps of a pass do."""
    cpu_weight.raise_weight(root, ())
    live_protection.protect(root, CGROUP)
    memory_high.reclaim_cold(root, 600 << 10)
    live_protection.restore(root)
    percpu_lists.drain(root)
    report_order.lower(root, 5)
    report_order.lower(root, 0)
    report_order.restore(root)
    cpu_weight.restore(root)


def killed_at_write(root: str, number: int, after: bool) -> bool:
    """Do all changes in a child that is killed before, or right after, its `number`-th write or removal."""
    pid = os.fork()
    if pid == 0:
        left = number

        def counted(function: Callable[..., object]) -> Callable[..., Any]:
            def call(*args: object) -> object:
                nonlocal left
                left -= 1
                if left == 0 and not after:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*args)
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        files.write = counted(files.write)
        run_dir.write_file = counted(run_dir.write_file)
        run_dir.remove_file = counted(run_dir.remove_file)
        percpu_lists._free_on_each_cpu = lambda: b""
        try:
            change_everything(root)
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


@given(number=st.integers(1, WRITES), after=st.booleans(), by_command=st.booleans())
@settings(deadline=None, max_examples=60)
def test_killed_at_any_write_every_value_is_as_found(
    tmp_path_factory: pytest.TempPathFactory, number: int, after: bool, by_command: bool
) -> None:
    root = guest(tmp_path_factory.mktemp("guest"))
    killed_at_write(root, number, after)
    if by_command:
        command.restore(root)
    else:
        assert repair_all(root).failed == ()
    assert values(root) == FOUND
    left = [name for name in RECORDS if os.path.lexists(root + f"/run/giveback/{name}")]
    assert left == []


def test_every_kind_of_value_was_seen_changed_by_a_kill(tmp_path: Path) -> None:
    seen: set[str] = set()
    number, killed = 0, True
    while killed:
        number += 1
        root = guest(tmp_path / str(number))
        killed = killed_at_write(root, number, after=True)
        seen |= {Path(p).name for p, value in values(root).items() if value != FOUND[p]}
        repair_all(root)
        assert values(root) == FOUND, number
    assert seen == {Path(path).name for path in FOUND}
    assert number <= WRITES < 3 * number


@given(number=st.integers(1, WRITES), which=st.sampled_from(sorted(FOUND)))
@settings(deadline=None, max_examples=40)
def test_a_value_set_by_another_process_after_the_kill_stays(
    tmp_path_factory: pytest.TempPathFactory, number: int, which: str
) -> None:
    root = guest(tmp_path_factory.mktemp("guest"))
    killed_at_write(root, number, after=True)
    theirs = "12" if "order" not in which else "10"
    Path(root + which).write_text(f"{theirs}\n")
    repair_all(root)
    assert values(root) == {**FOUND, which: theirs}
