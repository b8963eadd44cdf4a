"""Answer the host over a virtio-serial port: JSON lines, one request or event a line.

- `{"id": 1, "do": "exec", "argv": [...]}` streams `line` events and ends with `exit`.
- `{"do": "spawn"}` starts a process that outlives the request, and answers with its pid.
- `{"do": "kill", "pid": …, "signal": …}` sends a signal.
- `{"do": "sample", "period_s": 1}` starts a stream of `sample` events with raw kernel files.
- `{"do": "put"}` writes a small file.

A failed request ends with `exit`, a code that is not 0, and a reason.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import IO, Any

PORT_NAME = "org.giveback.lab.0"
SAMPLED_FILES = ("/proc/meminfo", "/proc/buddyinfo")
READ_LIMIT_BYTES = 1 << 20


def find_port(name: str, sysfs: str = "/sys/class/virtio-ports") -> str | None:
    """Return the device of the virtio-serial port that the host gave this name, or None."""
    try:
        entries = os.listdir(sysfs)
    except OSError:
        return None
    for entry in entries:
        try:
            with open(f"{sysfs}/{entry}/name") as file:
                if file.read().strip() == name:
                    return f"/dev/{entry}"
        except OSError:
            continue
    return None


class Server:
    """Read requests from `source`, write answers and events to `sink`.

    `reopens` says that the source may continue after its end, as a virtio-serial port does.
    """

    def __init__(
        self, source: IO[bytes], sink: Callable[[bytes], None], reopens: bool = True
    ) -> None:
        self._source = source
        self._reopens = reopens
        self._sink = sink
        self._lock = threading.Lock()
        self._sampling_s: float | None = None
        self._ended = False

    def send(self, **message: object) -> None:
        """Write one message; threads take turns. Without a connected host it is lost."""
        message.setdefault("t", time.monotonic())
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._lock:
            try:
                self._sink(line)
            except OSError:
                self._ended = not self._reopens

    def run(self) -> None:
        """Answer requests; without end if the source reopens."""
        self.send(event="hello", kernel=os.uname().release, cpus=os.cpu_count())
        while True:
            line = self._source.readline()
            if not line:
                if not self._reopens:
                    self._ended = True
                    return
                # No host is connected: the port reads as ended until one is.
                time.sleep(0.2)
                continue
            self._answer_line(line)

    def _answer_line(self, line: bytes) -> None:
        """Answer one line. Every request gets an end, so its sender never waits without limit."""
        number = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise TypeError("a request is a JSON object")
            number = request.get("id")
            self.answer(request)
        except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
            reason = f"{type(error).__name__}: {error}"
            self.send(event="exit", id=number, code=1, reason=reason)

    def answer(self, request: dict[str, Any]) -> None:
        """Start what a request asks for."""
        number, what = request.get("id"), request["do"]
        if what == "exec":
            self._exec(number, request)
        elif what == "spawn":
            self.send(event="exit", id=number, code=0, pid=self._spawn(number, request))
        elif what == "kill":
            os.kill(request["pid"], request["signal"])
            self.send(event="exit", id=number, code=0)
        elif what == "sample":
            first = self._sampling_s is None
            self._sampling_s = float(request["period_s"])
            if first:
                threading.Thread(target=self._sample, daemon=True).start()
            self.send(event="exit", id=number, code=0)
        elif what == "look":
            self._look()
            self.send(event="exit", id=number, code=0)
        elif what == "put":
            with open(request["path"], "wb") as file:
                file.write(base64.b64decode(request["data"]))
            self.send(event="exit", id=number, code=0)
        else:
            self.send(event="exit", id=number, code=2, reason=f"no request {what!r}")

    def _popen(self, request: dict[str, Any]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            request["argv"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **request.get("env", {})},
            start_new_session=True,
        )

    def _exec(self, number: object, request: dict[str, Any]) -> None:
        try:
            process = self._popen(request)
        except OSError as error:
            self.send(event="exit", id=number, code=127, reason=str(error))
            return
        threading.Thread(target=self._pump, args=(number, process), daemon=True).start()

    def _spawn(self, number: object, request: dict[str, Any]) -> int:
        process = self._popen(request)
        threading.Thread(target=self._pump, args=(number, process, "ended"), daemon=True).start()
        return process.pid

    def _pump(self, number: object, process: subprocess.Popen[bytes], end: str = "exit") -> None:
        assert process.stdout is not None  # noqa: S101  # _popen pipes it
        with process.stdout as printed:
            for line in printed:
                text = line.decode("utf-8", "replace").rstrip("\n")
                self.send(event="line", id=number, line=text)
        self.send(event=end, id=number, code=process.wait())

    def _sample(self) -> None:
        due = time.monotonic()
        while not self._ended:
            self._look()
            due = max(due + (self._sampling_s or 1.0), time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _look(self) -> None:
        self.send(event="sample", files={path: _read(path) for path in SAMPLED_FILES})


def _read(path: str) -> str:
    with open(path, "rb") as file:
        return file.read(READ_LIMIT_BYTES).decode("ascii", "replace")


def serve() -> int:
    """Serve the host's port; return an exit code if there is none."""
    device = find_port(PORT_NAME)
    if device is None:
        print(f"giveback-lab: no virtio-serial port named {PORT_NAME}", file=sys.stderr)
        return 1
    fd = os.open(device, os.O_RDWR | os.O_CLOEXEC)

    def sink(data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]

    with os.fdopen(os.dup(fd), "rb") as source:
        Server(source, sink).run()
    return 0
