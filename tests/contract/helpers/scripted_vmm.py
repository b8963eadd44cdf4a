"""Stand-ins for VMMs that cannot run here: real processes with real mappings and sockets.

A process carries a VMM's name and command line and maps the RAM it claims; a server answers its API
from the published description, and every exchange is checked against that description.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
from named_python import ENVIRONMENT, python_named

from giveback.host.procs import Process, read_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OPENAPI = Path(__file__).parent / "openapi"

# Maps memory as in `kind:total_mib:touched_mib`, reports it, and runs until its input ends. Until then it
# accepts the sockets that it is given (`+path`), and closes them on request (`-path`).
_PROGRAM = """
import mmap, os, socket, sys
kept = []
for word in sys.argv[1].split():
    kind, total, touched = word.split(":")
    size = int(total) << 20
    if kind == "memfd":
        fd = os.memfd_create("ram")
        os.ftruncate(fd, size)
        area = mmap.mmap(fd, size)
    else:
        # With an unused guard page before and after it, as QEMU maps RAM.
        whole = mmap.mmap(-1, size + 8192, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        import ctypes
        base = ctypes.addressof(ctypes.c_char.from_buffer(whole))
        libc = ctypes.CDLL(None)
        for guard in (base, base + size + 4096):
            libc.mprotect(ctypes.c_void_p(guard), ctypes.c_size_t(4096), 0)
        libc.madvise(ctypes.c_void_p(base + 4096), ctypes.c_size_t(size), 15)
        ctypes.memset(base + 4096, 1, int(touched) << 20)
        kept.append(whole)
        continue
    area[: int(touched) << 20] = b"1" * (int(touched) << 20)
    kept.append(area)
control, sockets = socket.socket(fileno=0), {}
print("ready", flush=True)
while True:
    said, descriptors, _, _ = socket.recv_fds(control, 4096, 1)
    if said[:1] == b"+":
        sockets[said[1:]] = descriptors[0]
    elif said[:1] == b"-":
        os.close(sockets.pop(said[1:]))
    else:
        break
    control.send(b"k")
"""

_running: list[socket.socket] = []
"""The pipe to each scripted process for passing sockets: a VM's own are among its descriptors."""
_listening: dict[str, int] = {}
"""The listening sockets of scripted processes, by path."""


def descriptors_of(path: str) -> tuple[int, ...]:
    """Return the descriptors with which a process must be started to listen at this path."""
    return (_listening[path],) if path in _listening else ()


def _tell(control: socket.socket, sign: str, path: str) -> None:
    """Pass a socket to a process, or make it close one."""
    descriptors = [_listening[path]] if sign == "+" else []
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        socket.send_fds(control, [f"{sign}{path}".encode()], descriptors)
        control.recv(1)


@contextlib.contextmanager
def process(program: str, *words: str, memory: str = "") -> Iterator[Process]:
    """Run a process named `program` with these arguments, this memory and all `listening` sockets."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [program, "-S", "-c", _PROGRAM, memory, *words]
    child = subprocess.Popen(
        command,
        executable=python_named(program),
        stdin=its.fileno(),
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
    )
    its.close()
    assert child.stdout is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        for path in _listening:
            _tell(ours, "+", path)
        _running.append(ours)
        found = read_process("/", child.pid)
        assert found is not None
        yield found
    finally:
        if ours in _running:
            _running.remove(ours)
        child.kill()
        ours.close()
        child.stdout.close()
        child.wait()


class Api:
    """The answers of a scripted VMM by resource, as (status, body). `seen` are the received requests.

    Requests that change something are `PATCH resource`, answered with 204 by default; `sent` has them.
    """

    def __init__(self, vmm: str, answers: dict[str, tuple[int, Any]]) -> None:
        self.description = json.loads((OPENAPI / f"{vmm}.json").read_text())
        self.answers = answers
        self.seen: list[str] = []
        self.sent: list[tuple[str, Any]] = []
        self.faults: list[str] = []

    def answer(self, method: str, resource: str, request: object = None) -> tuple[int, Any]:
        self.seen.append(resource)
        operation = self.description["paths"].get(resource, {}).get(method.lower())
        if operation is None:
            self.faults.append(f"{method} {resource} is not in the description")
            return 404, {}
        if method == "GET":
            status, body = self.answers[resource]
        else:
            change = f"{method} {resource}"
            self.sent.append((change, request))
            self._check(operation["request"], change, request)
            status, body = self.answers.get(change, (204, None))
        name = operation.get(str(status), operation.get("default", "undescribed"))
        if name == "undescribed":
            self.faults.append(f"{resource} never answers {status}")
        elif name is not None:
            self._check(name, resource, body)
        return status, body

    def _check(self, name: str, resource: str, body: object) -> None:
        schema = {"$ref": f"#/schemas/{name}", "schemas": self.description["schemas"]}
        for fault in jsonschema.Draft202012Validator(schema).iter_errors(body):
            self.faults.append(f"{resource}: {fault.message}")


@contextlib.contextmanager
def serving(path: Path, api: Api) -> Iterator[Api]:
    """Serve HTTP at a unix socket; every exchange is validated against the published description."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(*api.answer("GET", self.path))

        def do_PUT(self) -> None:
            self._reply(*api.answer(self.command, self.path, self._request()))

        do_PATCH = do_PUT  # noqa: N815  # the name is http.server's

        def _request(self) -> object:
            return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

        def _reply(self, status: int, body: object) -> None:
            text = b"" if body is None else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_: object) -> None:
            pass

        def address_string(self) -> str:
            return "unix"

    with listening(path, Handler):
        yield api
    assert api.faults == []


@contextlib.contextmanager
def listening(
    path: Path, handler: type[socketserver.BaseRequestHandler] | Callable[..., Any]
) -> Iterator[None]:
    """Run a threaded server at a unix socket of every scripted process within the context."""

    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass

    with Server(str(path), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        _listening[str(path)] = server.fileno()
        for control in _running:
            _tell(control, "+", str(path))
        try:
            yield
        finally:
            for control in _running:
                _tell(control, "-", str(path))
            del _listening[str(path)]
            server.shutdown()
            thread.join()
