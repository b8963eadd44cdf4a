"""Metrics sent to a collector: a real HTTP server that decodes OTLP's protobuf, gone, deaf and refusing."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import queue
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pytest
from manager_process import Manager
from manager_samples import status, vm_status
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from scripted_guests import Host

from giveback.manager.http.metrics import prometheus
from giveback.manager.http.metrics.otlp import OtlpExport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DEADLINE_S = 60.0


class Collector:
    """A collector on loopback; `answers` with this status code."""

    def __init__(self, port: int = 0, answers: int = 200) -> None:
        self.got: queue.Queue[tuple[str, str, ExportMetricsServiceRequest]] = queue.Queue()
        self.answers = answers
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportMetricsServiceRequest.FromString(body)
                outer.got.put((self.path, self.headers.get("api-key", ""), request))
                self.send_response(outer.answers)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]

    @contextlib.contextmanager
    def running(self) -> Iterator[Collector]:
        thread = Thread(target=self.server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.server.shutdown()
            self.server.server_close()


def names_of(request: ExportMetricsServiceRequest) -> set[str]:
    return {
        metric.name
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


async def holds(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


def test_a_daemon_sends_what_prometheus_reads(tmp_path: Path) -> None:
    host = Host(tmp_path)
    with Collector().running() as collector:
        manager = Manager(host, f'otlp = "http://127.0.0.1:{collector.port}"\n')
        environment = {"OTEL_EXPORTER_OTLP_HEADERS": "api-key=s3cret"}
        with manager.running(environment=environment):
            path, key, request = collector.got.get(timeout=DEADLINE_S)
            manager.until(lambda: (manager.status() or {}).get("problems") == [])
    assert (path, key) == ("/v1/metrics", "s3cret")
    assert "giveback_info" in names_of(request)
    attributes = {one.key: one.value for one in request.resource_metrics[0].resource.attributes}
    assert attributes["service.name"].string_value == "giveback"
    assert attributes["host.name"].string_value == socket.gethostname()


def test_a_daemon_without_its_collector_works_and_says_so(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    host = Host(tmp_path)
    manager = Manager(host, f'otlp = "http://127.0.0.1:{port}"\n')
    with host.guest("web"), manager.running() as daemon:
        manager.until(lambda: manager.vm("web").get("condition") == "ok")
        manager.until(lambda: (manager.status() or {"problems": []})["problems"])
        (problem,) = (manager.status() or {})["problems"]
        assert problem.startswith(f"daemon.otlp: http://127.0.0.1:{port}/v1/metrics: ")
        daemon.terminate()
        assert daemon.wait(DEADLINE_S) == 0
    assert manager.log.read_text().count("metrics not sent") == 1


@pytest.mark.parametrize("fault", ["gone", "refuses", "deaf"])
def test_a_collector_that_is_back_gets_the_next_ones(fault: str) -> None:
    registry = prometheus.registry_of(lambda: status(vm_status()), prometheus.ActionCounts())

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            if fault != "deaf":
                listener.close()
            export = OtlpExport(f"http://127.0.0.1:{port}", period_s=0.1)
            families = lambda: list(registry.collect())  # noqa: E731
            sending = asyncio.create_task(export.run(families, lambda: None))
            if fault == "refuses":
                with Collector(port, answers=403).running():
                    await holds(lambda: export.problems)
            else:
                await holds(lambda: export.problems)
            (problem,) = export.problems
            assert str(port) in problem
            listener.close()
            with Collector(port).running() as collector:
                await holds(lambda: not export.problems)
                assert "giveback_vm_resident_bytes" in names_of(collector.got.get_nowait()[2])
            sending.cancel()
            await asyncio.wait((sending,), timeout=DEADLINE_S)
            assert sending.cancelled()

    asyncio.run(scenario())
