"""Processes found by their command line, on a fake tree and on this process."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from giveback.errors import VmError
from giveback.host import procs

if TYPE_CHECKING:
    from pathlib import Path


def fake(root: Path, pid: int, cmdline: bytes) -> None:
    (root / f"proc/{pid}").mkdir(parents=True)
    (root / f"proc/{pid}/cmdline").write_bytes(cmdline)


def test_processes_come_in_order_and_kernel_threads_do_not(tmp_path: Path) -> None:
    fake(tmp_path, 30, b"/usr/bin/qemu-system-x86_64\0-m\x002G\0")
    fake(tmp_path, 4, b"/sbin/init\0")
    fake(tmp_path, 2, b"")
    (tmp_path / "proc/9").mkdir()  # a process that ended between the listing and the reading
    (tmp_path / "proc/meminfo").write_bytes(b"")
    found = list(procs.processes(str(tmp_path)))
    assert [(p.pid, p.program) for p in found] == [(4, "init"), (30, "qemu-system-x86_64")]
    assert found[1].argv[1:] == ("-m", "2G")


def test_bytes_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    fake(tmp_path, 5, b"/bin/\xff\0\0x\0")
    (process,) = procs.processes(str(tmp_path))
    assert os.fsencode(process.argv[0]) == b"/bin/\xff"
    assert process.argv[1:] == ("", "x")


def test_a_long_command_line_is_cut(tmp_path: Path) -> None:
    fake(tmp_path, 5, b"a" * (procs.COMMAND_LINE_LIMIT_BYTES + 10))
    (process,) = procs.processes(str(tmp_path))
    assert len(process.argv[0]) == procs.COMMAND_LINE_LIMIT_BYTES
    assert process.cut


def test_the_incomplete_last_word_of_a_cut_command_line_is_left_out(tmp_path: Path) -> None:
    words = [b"-name", b"guest=" + b"a" * (procs.COMMAND_LINE_LIMIT_BYTES - 20), b"-m", b"2000000G"]
    fake(tmp_path, 5, b"qemu-system-x86_64\0" + b"\0".join(words) + b"\0")
    fake(tmp_path, 6, b"qemu-system-x86_64\0-m\x002G\0")
    long, short = procs.processes(str(tmp_path))
    assert long.cut
    assert long.argv[1:] == ("-name",)
    assert not short.cut
    assert short.argv[1:] == ("-m", "2G")


def test_the_error_says_that_procfs_is_missing(tmp_path: Path) -> None:
    with pytest.raises(VmError, match="procfs"):
        list(procs.processes(str(tmp_path)))


def test_this_process_is_read() -> None:
    process = procs.read_process("/", os.getpid())
    assert process is not None
    assert process.argv[0] == sys.orig_argv[0]
    assert procs.read_process("/", 4_194_305) is None
    sizes = procs.status_bytes("/", os.getpid())
    assert sizes["VmHWM"] >= sizes["VmRSS"] > 0
    assert (procs.start_ticks("/", os.getpid()) or 0) > 0
    assert procs.start_ticks("/", 4_194_305) is None


def test_a_path_is_converted_by_the_processs_root_or_working_folder() -> None:
    assert procs.own_path("/", 7, "/run/q.sock") == "/proc/7/root/run/q.sock"
    assert procs.own_path("/", 7, "q.sock") == "/proc/7/cwd/q.sock"


def test_the_executable_of_a_process(tmp_path: Path) -> None:
    place = tmp_path / "proc/7"
    place.mkdir(parents=True)
    (place / "cmdline").write_bytes(b"web\0")
    process = procs.read_process(str(tmp_path), 7)
    assert process is not None
    assert (process.exe, process.executable) == ("", "")
    (place / "exe").symlink_to("/usr/bin/qemu-kvm (deleted)")
    process = procs.read_process(str(tmp_path), 7)
    assert process is not None
    assert (process.program, process.executable) == ("web", "qemu-kvm")


def test_only_a_regular_file_of_bounded_size_is_read(tmp_path: Path) -> None:
    root, pid = "/", os.getpid()
    (tmp_path / "a").write_bytes(b"12345")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert procs.read_own_file(root, pid, str(tmp_path / "a"), 5) == b"12345"
    assert procs.read_own_file(root, pid, os.path.relpath(tmp_path / "a"), 5) == b"12345"
    assert procs.read_own_file(root, pid, str(tmp_path / "link"), 5) == b"12345"
    assert procs.read_own_file(root, pid, str(tmp_path / "a"), 4) is None
    with (tmp_path / "a").open("rb") as file, open(os.devnull, "rb") as device:  # noqa: PTH123
        for form in ("/dev/fd/{}", "/proc/self/fd/{}"):
            assert procs.read_own_file(root, pid, form.format(file.fileno()), 5) == b"12345"
            assert procs.read_own_file(root, pid, form.format(device.fileno()), 5) is None
    for path in ("/dev/null", "/proc/self/cmdline", "/proc/thread-self/comm", "/dev/fd/999999",
                 str(tmp_path / "fifo"), str(tmp_path), str(tmp_path / "none"), "", "a\0b"):  # fmt: skip
        assert procs.read_own_file(root, pid, path, 5) is None


def test_a_stopped_process_is_distinguished_from_a_sleeping_one(tmp_path: Path) -> None:
    for pid, state, stopped in ((1, b"S", False), (2, b"T", True), (3, b"t", False)):
        (tmp_path / f"proc/{pid}").mkdir(parents=True)
        # The name may have any character.
        (tmp_path / f"proc/{pid}/stat").write_bytes(b"%d (a) T (b) %b 1 1" % (pid, state))
        assert procs.is_stopped(str(tmp_path), pid) is stopped
    assert not procs.is_stopped(str(tmp_path), 4)
    assert not procs.is_stopped("/", os.getpid())
