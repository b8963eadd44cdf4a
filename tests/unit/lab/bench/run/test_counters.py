"""A guest's own counters: parsed if valid, and otherwise None."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_kernel.errors import KernelFileError
from giveback_lab.bench.run.counters import files_of, parse, script_of, sections

VMSTAT = """nr_free_pages 1000
workingset_refault_anon 3
workingset_refault_file 40
pgpgin 12
pswpin 1
pswpout 2
allocstall_normal 5
allocstall_movable 6
compact_stall 7
thp_fault_fallback 8
oom_kill 0
"""
PRESSURE = """some avg10=0.00 avg60=0.00 avg300=0.00 total=1234
full avg10=0.00 avg60=0.00 avg300=0.00 total=99
"""
STAT = "77 (a) b (python3) S 1 77 77 0 -1 4194560 100 0 0 0 150 50 25 25 20 0 1 0 300 1 1 0\n"
ROLLUP = "55d0c0000000-7ffd ---p 00000000 00:00 0 [rollup]\nRss: 9000 kB\nPss:    4321 kB\nPss_Dirty: 1 kB\n"


def output(**files: str) -> str:
    names = {
        "vmstat": "/proc/vmstat", "cpu": "/proc/pressure/cpu", "memory": "/proc/pressure/memory",
        "stat": "/proc/77/stat", "rollup": "/proc/77/smaps_rollup", "kernel": "/proc/9/smaps_rollup",
    }  # fmt: skip
    return "".join(f"==> {names[name]}\n{text}" for name, text in files.items())


def test_all_counters_of_one_moment() -> None:
    counters = parse(output(vmstat=VMSTAT, cpu=PRESSURE, stat=STAT, rollup=ROLLUP, kernel=""))
    assert counters.refault_file_pages == 40
    assert counters.refault_anon_pages == 3
    assert (counters.swap_in_pages, counters.swap_out_pages) == (1, 2)
    assert counters.allocation_stalls == 11
    assert counters.order9_failures == 8
    assert counters.compact_stalls == 7
    assert counters.read_bytes == 12 << 10
    assert counters.psi_some_us == {"cpu": 1234}
    assert counters.psi_full_us == {"cpu": 99}
    assert counters.agent_cpu_s == 2.5
    assert counters.agent_memory_bytes == 4321 << 10
    assert counters.oom_kills == 0


def test_what_the_kernel_does_not_count_is_none() -> None:
    counters = parse(output(vmstat="nr_free_pages 1\n", memory=""))
    assert counters.refault_file_pages is None
    assert counters.psi_some_us == {}
    assert counters.agent_cpu_s is None
    assert counters.agent_memory_bytes is None


def test_a_process_that_has_gone_is_not_counted() -> None:
    counters = parse(output(vmstat=VMSTAT, stat="", rollup=""))
    assert counters.agent_cpu_s is None


def test_a_guest_without_vmstat_is_refused() -> None:
    with pytest.raises(KernelFileError):
        parse(output(cpu=PRESSURE))


@given(st.text())
def test_garbage_never_crashes(text: str) -> None:
    try:
        parse(output(vmstat=VMSTAT) + text)
    except KernelFileError:
        return


@given(st.lists(st.integers(1, 1 << 22), max_size=4, unique=True))
def test_the_script_names_every_file_it_prints(pids: list[int]) -> None:
    paths = files_of(pids)
    script = script_of(paths)
    assert all(f"echo '==> {path}'; cat {path} " in script for path in paths)
    assert len(paths) == 4 + 2 * len(pids)


def test_sections_keep_their_lines() -> None:
    assert sections("noise\n==> /a\n1\n2\n==> /b\n") == {"/a": "1\n2\n", "/b": ""}
