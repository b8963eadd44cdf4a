"""The daemon as a process of its own, on a scripted host: started, killed, asked over its socket."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scripted_guests import Host

DEADLINE_S = 60.0
_RUN = """
import asyncio, resource, sys
from pathlib import Path
from giveback_kernel.errors import GivebackError

from giveback.manager import logs
from giveback.manager.lifecycle import manage
from giveback.manager.settings.load import load
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
resource.setrlimit(resource.RLIMIT_AS, (int(sys.argv[4]), int(sys.argv[4])))
if int(sys.argv[5]):
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[5]), int(sys.argv[5])))
logs.set_up(sys.stderr, "info")
try:
    asyncio.run(manage(load(Path(sys.argv[1])), Path(sys.argv[1]), root=sys.argv[2]))
except GivebackError as error:
    print(error, file=sys.stderr)
    raise SystemExit(error.exit_code)
"""


class Manager:
    """A daemon's process, and its files."""

    def __init__(self, host: Host, more: str = "") -> None:
        self.host = host
        self.path = host.folder / "giveback.toml"
        self.log = host.folder / "daemon.log"
        self.known = host.folder / "run"
        self.write_settings(more)

    def write_settings(self, more: str) -> None:
        folder = self.host.folder
        daemon = f'[daemon]\nsocket = "{folder}/api.sock"\nstate = "{folder}/state"\n'
        self.path.write_text(daemon + more)

    def start(
        self,
        file_limit_bytes: int | None = None,
        environment: dict[str, str] | None = None,
        *,
        address_space_bytes: int = resource.RLIM_INFINITY,
        descriptors: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """A new process; it may still be starting."""

        with self.log.open("ab") as log:
            return subprocess.Popen(
                [
                    sys.executable, "-c", _RUN, str(self.path), str(self.host.root),
                    str(resource.RLIM_INFINITY if file_limit_bytes is None else file_limit_bytes),
                    str(address_space_bytes), str(descriptors or 0),
                ],
                stderr=log,
                # The place where every command looks is of this test, too.
                env={**(environment or os.environ), "RUNTIME_DIRECTORY": str(self.known)},
            )  # fmt: skip

    @contextlib.contextmanager
    def running(
        self,
        file_limit_bytes: int | None = None,
        environment: dict[str, str] | None = None,
        *,
        address_space_bytes: int = resource.RLIM_INFINITY,
        descriptors: int | None = None,
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A daemon that serves; killed at the end, if it has not ended by then."""
        child = self.start(
            file_limit_bytes,
            environment,
            address_space_bytes=address_space_bytes,
            descriptors=descriptors,
        )
        try:
            self.until(lambda: self.status() is not None)
            yield child
        finally:
            child.kill()
            child.wait()

    def status(self) -> dict[str, Any] | None:
        """What it says of itself; None where nobody answers."""
        try:
            return self.request("GET", "/v1/status")
        except OSError:
            return None

    def vm(self, name: str) -> dict[str, Any]:
        """One VM of the status; {} where it is not among them."""
        vms = (self.status() or {"vms": []})["vms"]
        return next((vm for vm in vms if vm["name"] == name), {})

    def request(self, method: str, resource: str, body: object = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("daemon", timeout=DEADLINE_S)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(DEADLINE_S)
        with contextlib.closing(connection):
            connection.sock.connect(str(self.host.folder / "api.sock"))
            text = None if body is None else json.dumps(body)
            connection.request(method, resource, text, {"Content-Type": "application/json"})
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found

    def until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition; fails with the daemon's log."""
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, self.log.read_text()
            time.sleep(0.05)


def resident_bytes(pid: int) -> int:
    """What a process holds, by its own sums."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0
