"""Real reader processes: their limits, their ends, and hangs that no signal ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import stuck_fuse
from scripted_vmm import process

from giveback.errors import VmError
from giveback.host.readers.blame import HUNG_PER_USER
from giveback.host.readers.pool import Limits, Readers
from giveback.vmm.find import recognised

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback.vmm.base import Backend, VmDescription

ME = os.getpid()
QUICK = Limits(wall_s=1.0, cpu_s=5.0)
PATIENT = Limits(wall_s=60.0, cpu_s=1.0)


@pytest.fixture
def readers() -> Iterator[Readers]:
    pool = Readers()
    yield pool
    pool.close()


def ask(readers: Readers, function: object, *arguments: object, limits: Limits = PATIENT) -> Any:  # noqa: ANN401
    async def asked() -> object:
        return await readers.call(function, *arguments, pid=ME, limits=limits)  # type: ignore[arg-type]

    return asyncio.run(asked())


# The functions that readers run: they find them by name in this module.


def echo(value: object) -> object:
    return value


def refuse(why: str) -> None:
    raise VmError(why)


def fail() -> None:
    raise ZeroDivisionError("a defect")


def take(size: int) -> int:
    return len(bytearray(size))


def burn() -> None:
    while True:
        pass


def end() -> None:
    os._exit(3)


def shout(size: int) -> str:
    return "x" * size


def who() -> tuple[int, list[str], int]:
    names = []
    for fd in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            names.append(str(fd.readlink()))
    return os.getpid(), names, resource.getrlimit(resource.RLIMIT_AS)[0]


def listener(path: str) -> tuple[socket.socket, str]:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    return connection, "connected"


def test_results_are_returned_and_errors_keep_their_messages(readers: Readers) -> None:
    value = [1, None, True, "\udcff\0é", {"a": [2.5]}]
    assert ask(readers, echo, value) == value
    with pytest.raises(VmError, match=r"^it has ended$"):
        ask(readers, refuse, "it has ended")
    with pytest.raises(VmError, match="ZeroDivisionError: a defect"):
        ask(readers, fail)
    # None of them ended a reader or is recorded as a failure.
    assert readers.blame.suspects == frozenset()


def test_a_reader_has_limits_and_no_descriptor_of_its_parent(
    readers: Readers, tmp_path: Path
) -> None:
    with (tmp_path / "secret").open("w"):
        pid, names, address_space = ask(readers, who)
    assert pid != ME
    assert not [name for name in names if "secret" in name or "pipe" in name]
    assert names.count("/dev/null") == 3
    assert address_space < 2 << 30
    with pytest.raises(VmError, match="needs more than 256 MiB"):
        ask(readers, take, 1 << 30)
    assert ask(readers, who)[0] == pid


@pytest.mark.parametrize(
    ("function", "arguments", "why"),
    [(burn, (), "exceeded its limits"), (end, (), "ended"), (shout, (4 << 20,), "too long")],
    ids=["processor", "death", "answer"],
)
def test_a_reader_that_exceeds_its_limits_costs_one_call(
    readers: Readers, function: object, arguments: tuple[object, ...], why: str
) -> None:
    with pytest.raises(VmError, match=why):
        ask(readers, function, *arguments)
    readers.forget(ME)
    assert ask(readers, echo, 1) == 1


def test_a_descriptor_is_passed_back(readers: Readers, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        answer = ask(readers, listener, str(tmp_path / "s"))
        assert isinstance(answer, tuple)
        found, value = answer
        assert isinstance(found, socket.socket)
        assert value == "connected"
        taken, _ = server.accept()
        with found, taken:
            found.sendall(b"hello")
            assert taken.recv(10) == b"hello"


def test_concurrent_calls_and_a_cancelled_one(readers: Readers) -> None:
    async def work() -> None:
        calls = (readers.call(echo, n, pid=ME, limits=PATIENT) for n in range(20))
        assert await asyncio.gather(*calls) == list(range(20))
        burning = asyncio.create_task(readers.call(burn, pid=ME, limits=Limits(60.0, 60.0)))
        await readers.call(echo, 0, pid=ME, limits=PATIENT)
        burning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await burning
        # A late answer would be mistaken for the answer to this call.
        assert await readers.call(echo, 7, pid=ME, limits=PATIENT) == 7

    asyncio.run(work())
    assert ask(readers, echo, 8) == 8
    assert readers.blame.suspects == frozenset()


def test_a_reader_that_ends_while_others_are_asked_is_judged_once(readers: Readers) -> None:
    """Other calls look for readers that have ended since; this one is still being judged."""

    async def cancelled() -> asyncio.Task[None] | None:
        """Cancel a call; return the judging of its reader, None if it had no reader yet."""
        burning = asyncio.create_task(readers.call(burn, pid=ME, limits=Limits(60.0, 60.0)))
        await readers.call(echo, 0, pid=ME, limits=PATIENT)
        burning.cancel()
        while not (readers._ending or burning.done()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        return next(iter(readers._ending), None)

    async def work() -> None:
        ending = None
        while ending is None:
            ending = await cancelled()
        while not (readers._killed or ending.done()):  # noqa: ASYNC110
            await asyncio.sleep(0)
        # One that had ended already was judged in one step.
        for reader in list(readers._killed):
            # It ends before the loop goes on.
            select.select([reader.connection], [], [], 60)
            readers._sweep()
        await ending
        assert readers._hanging == readers._killed == []

    asyncio.run(work())


def test_a_killed_starter_is_replaced(readers: Readers) -> None:
    assert ask(readers, echo, 1) == 1
    os.kill(readers._starter_pid, 9)
    with contextlib.suppress(VmError):
        ask(readers, end)
    readers.forget(ME)
    with contextlib.suppress(VmError):
        ask(readers, echo, 2)
    assert ask(readers, echo, 3) == 3


def test_no_process_is_left_after_the_pool_was_closed(readers: Readers) -> None:
    pids = [ask(readers, who)[0], readers._starter_pid]
    readers.close()
    deadline_s = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Tell whether the process runs; a zombie that init has not reaped yet does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123
            return file.read().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


@pytest.mark.skipif(not stuck_fuse.usable(), reason="needs root and /dev/fuse")
def test_processes_that_hang_their_readers_are_skipped_and_the_others_found(
    readers: Readers, tmp_path: Path
) -> None:
    """A command line names a file on a file system that never answers: SIGKILL does not end such a wait."""
    with stuck_fuse.mounted(tmp_path / "stuck") as stuck, contextlib.ExitStack() as stack:
        hanging = [
            stack.enter_context(process("qemu-system-x86_64", "-readconfig", f"{stuck}/hang")).pid
            for _ in range(HUNG_PER_USER + 1)
        ]
        slow = stack.enter_context(
            process("qemu-system-x86_64", "-readconfig", f"{stuck}/page")
        ).pid
        fine = stack.enter_context(process("qemu-system-x86_64", "-m", "64M", "-name", "fine")).pid

        def find(*pids: int) -> list[tuple[Backend, VmDescription] | VmError | None]:
            return asyncio.run(recognised(readers, pids))

        (seen,) = find(fine)
        assert isinstance(seen, tuple)
        assert seen[1].name == "fine"
        found = find(hanging[0], fine)
        assert "did not answer in 3 s" in str(found[0])
        assert isinstance(found[1], tuple)
        # The process is known by now: it is not waited for.
        assert "not read any more" in str(find(hanging[0])[0])
        assert readers.problems == (
            f"process {hanging[0]} of user 0 made its reader hang; it is not read any more",
        )
        assert "did not answer" in str(find(slow)[0])
        found = find(*hanging[1:], fine)
        assert isinstance(found[-1], tuple), "who was read before is read whatever its user does"
        assert f"{HUNG_PER_USER} readers hang at processes of its user" in str(found[-2])
        assert readers.blame.hung == HUNG_PER_USER
    # The file system is unmounted: readers that waited for it end, and this user's processes are read again.
    deadline_s = time.monotonic() + 30
    while readers.blame.hung:
        assert time.monotonic() < deadline_s
        with contextlib.suppress(VmError):
            ask(readers, echo, 1)
    assert ask(readers, echo, 1) == 1
