"""Input from the host's disk and the daemon's API: settings, leases, history, requests."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry

from fuzzing.harness import Harness
from giveback.errors import InputError
from giveback.manager.devices import leases
from giveback.manager.history import reader, schema
from giveback.manager.history.schema import HistoryError
from giveback.manager.http import requests
from giveback.manager.http.metrics import prometheus
from giveback.manager.settings import load

_TOML = b"""\
log_level = "info"
[daemon]
socket = "/run/a/api.sock"
state = "/var/lib/a"
[access]
read = ["@adm", "1000"]
[host]
free_at_least = "10%"
[history]
keep = true
limit = "64M"
[vm.web]
floor = "1G"
[vm."ci-*"]
ignore = true
"""
_LEASE = {
    "version": 1, "boot": "b", "vm": "web", "pid": 7, "start_ticks": 5, "device": "balloon",
    "control": "/run/qmp", "before_bytes": 5, "target_bytes": 3, "wall_s": 1.5, "device_id": "",
    "most_bytes": 9,
}  # fmt: skip
_BODIES = (
    b'{"goal_bytes": 1048576, "within_s": 5.5, "vms": ["a"], "dry_run": true}',
    b'{"urgency": 2, "lease_s": 60}',
    b'{"since": "2h"}',
    b'{"from": "1", "to": "2", "vm": "a"}',
)


def _settings(data: bytes) -> object:
    return load.from_bytes(data, "a.toml", environ={}, uid=0)


def _lease(data: bytes) -> object:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:  # memory: it is made and gone
        (Path(folder) / f"1-2-balloon{leases.SUFFIX}").write_bytes(data)
        return leases.LeaseStore(Path(folder)).load()


def _request(data: bytes) -> object:
    try:
        said = json.loads(data)
    except (ValueError, RecursionError):
        return None
    found: list[object] = []
    for model in (requests.ReclaimBody, requests.UrgencyBody):
        try:
            found.append(requests.checked(model, said))
        except InputError as error:
            found.append(str(error))
    if isinstance(said, dict):
        query = {str(k): str(v) for k, v in said.items()}
        found.append(requests.TimeSpan.of(query, 1e9))
        found.append(requests.TimeSpan.of(query, 1e9, requests.UsageQuery))
    return found


def _accept(data: bytes) -> object:
    return prometheus.rendered(CollectorRegistry(), data.decode("latin-1"))


@cache
def _history() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/h.db"
        connection = schema.open_for_writing(path)
        connection.execute("PRAGMA journal_mode = DELETE").fetchall()
        connection.close()
        return Path(path).read_bytes()


def _read_history(data: bytes) -> object:
    """Read a real file in which the bytes replace others, from an offset that the first two of them say."""
    whole = bytearray(_history())
    start = int.from_bytes(data[:2], "little") % len(whole)
    whole[start : start + len(data) - 2] = data[2:]
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        path = f"{folder}/h.db"
        Path(path).write_bytes(whole)
        return reader.read(path, 0, 1 << 31, "web")


HARNESSES = (
    Harness(
        "settings-toml",
        _settings,
        (_TOML, _TOML.replace(b"1000", b"9" * 5000)),
        (b"[vm.a]\n", b' = "1G"\n', b"0xffff", b"1979-05-27", b'"""'),
    ),
    Harness(
        "lease",
        _lease,
        (json.dumps(_LEASE).encode(),),
        (b'"pid":', b'"device":"virtio-mem"', b'"most_bytes":'),
    ),
    Harness(
        "api-request",
        _request,
        _BODIES,
        (b'"vms":', b'"goal_bytes":', b'"since":', b"1e400", b"NaN"),
    ),
    Harness(
        "api-accept",
        _accept,
        (
            b"application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1",
        ),
        (
            b";version=",
            b";escaping=",
            b"application/openmetrics-text",
            b"1.0.0",
            b"allow-utf-8",
            b";q=",
        ),
    ),
    Harness(
        "history",
        _read_history,
        (
            b"\0\0SQLite format 3\0",
            b"\x64\0\x0d\0\0\0",
            b"\0\x10\xff\xff\xff\xff",
            b"\xff\xff\xff\xfftr(d",
        ),
        (b"CREATE TABLE", b"\xff\xff\xff\xff"),
        errors=(HistoryError, InputError),
        is_slow=True,
    ),
)
