"""Run the real manager for the host pressure demonstration: `giveback daemon`, as a separate process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.errors import VmError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from giveback_lab.pressure.small_host import SmallHost
    from giveback_lab.vms.vm import LabVm

_KNOWN_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 20.0
SETTINGS = """\
[daemon]
socket = "{folder}/api.sock"
state = "{folder}/state"
[host]
cgroup = "{cgroup}"
[history]
keep = false
"""


@contextlib.asynccontextmanager
async def daemon(
    host: SmallHost, vms: list[LabVm], keep: Path | None = None
) -> AsyncIterator[None]:
    """Run the daemon on the small host; yield once it knows the VMs. Raises VmError.

    Its log and its last status are written to `keep`.
    """
    folder = Path(tempfile.mkdtemp(prefix="giveback-daemon-"))
    settings = folder / "giveback.toml"
    settings.write_text(SETTINGS.format(folder=folder, cgroup=host.path))
    words = ["-m", "giveback", "daemon", "--settings", str(settings)]
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *words, stdin=asyncio.subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip
    try:
        await _until_known(process, folder, {vm.pid for vm in vms})
        yield
    finally:
        if keep is not None:
            _keep(await _status(folder), folder / "log", keep)
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_DEADLINE_S)
        except TimeoutError:
            process.kill()
            await process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _keep(status: bytes, log: Path, into: Path) -> None:
    into.mkdir(parents=True, exist_ok=True)
    (into / "daemon-status.json").write_bytes(status)
    shutil.copyfile(log, into / "daemon.log")


async def _until_known(process: asyncio.subprocess.Process, folder: Path, pids: set[int]) -> None:
    """Wait until the daemon receives data from the agents of these VMs."""
    try:
        async with asyncio.timeout(_KNOWN_DEADLINE_S):
            while not pids <= await _heard(folder):
                if process.returncode is not None:
                    raise VmError(f"the daemon ended: {(folder / 'log').read_text()[-1000:]}")
                await asyncio.sleep(0.5)
    except TimeoutError as error:
        said = (folder / "log").read_text()[-1000:]
        raise VmError(f"the daemon has no connection to the VMs' agents: {said}") from error


async def _status(folder: Path) -> bytes:
    """Return the output of `giveback status --json`."""
    words = ["-m", "giveback", "status", "--socket", str(folder / "api.sock"), "--json"]
    asked = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said, _ = await asked.communicate()
    return said


async def _heard(folder: Path) -> set[int]:
    """Return the process ids of the VMs whose agents are connected to the daemon."""
    try:
        vms = json.loads(await _status(folder))["vms"]
        return {vm["pid"] for vm in vms if vm["guest_source"] == "agent"}
    except (ValueError, KeyError, TypeError):
        return set()
