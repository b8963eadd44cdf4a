"""A killed worker has ended before its changes are restored."""

from __future__ import annotations

import os
import time

import pytest

from giveback_agent.runtime.worker import Worker


def blocked() -> tuple[Worker, int]:
    """A worker that reads a pipe for ever, and the other end of the pipe."""
    reader, writer = os.pipe()

    def read() -> None:
        os.read(reader, 1)

    return Worker("reclaim", read, time.monotonic(), 60.0, reader), writer


def test_a_killed_worker_is_waited_for() -> None:
    worker, _ = blocked()
    worker.abandon()
    worker.wait(20.0)
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


def test_one_that_goes_on_is_not_waited_for_long() -> None:
    worker, writer = blocked()
    worker.wait(0.05)
    os.kill(worker.pid, 0)
    worker.abandon()
    worker.wait(20.0)
    os.close(writer)
