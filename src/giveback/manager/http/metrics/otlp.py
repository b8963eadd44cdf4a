"""Send the metrics to an OpenTelemetry collector by OTLP over HTTP, every half minute.

The families are those of /metrics, so each name is defined once. The library that encodes and sends them is
an extra (`[otlp]`). It sends in a thread: a collector that is gone or slow delays nothing, what it
missed is not kept, and `problems` says what is wrong. Credentials come from OTEL_EXPORTER_OTLP_HEADERS and
OTEL_EXPORTER_OTLP_CERTIFICATE, which the library reads. Source: opentelemetry.io/docs/specs/otlp.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from typing import TYPE_CHECKING

import structlog

from giveback.errors import InputError
from giveback.manager.settings.values import collector_url
from giveback_kernel import __version__
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.sdk.metrics.export import Metric, MetricsData, NumberDataPoint
    from prometheus_client.core import Metric as Family

PERIOD_S = 30.0
FIRST_S = 2.0
"""By then the host and the VMs have been sampled."""
SEND_S = 10.0
"""The most time that one sending takes, with its repetitions."""
_LIBRARY = "opentelemetry"
_WORDS_LIMIT_CHARS = 300


class OtlpExport:
    """The sending of metrics to one collector.

    Raises InputError, with what to install, if the extra is missing.
    """

    def __init__(self, url: str, period_s: float = PERIOD_S) -> None:
        self._url, self._period_s = collector_url(url), period_s
        self._place = f"daemon.otlp: {escape_for_terminal(self._url, 200)}"
        self._problem = ""
        self._log = structlog.get_logger("giveback.manager.http.metrics")
        self._errors = _LastError()
        self._exporter = _exporter(self._url)

    @property
    def problems(self) -> tuple[str, ...]:
        """Why the last sending failed; empty if it did not."""
        return (f"{self._place}: {self._problem}",) if self._problem else ()

    async def run(self, take: Callable[[], Iterable[Family]], prepare: Callable[[], None]) -> None:
        """Send until cancelled. `prepare` runs on the loop, then `take` in a thread: it may take long."""
        library = logging.getLogger(_LIBRARY)
        # Its own lines come once per attempt. What it says is shown as one problem instead.
        library.propagate = False
        library.addHandler(self._errors)
        try:
            await asyncio.sleep(min(FIRST_S, self._period_s))
            while True:
                prepare()
                await asyncio.to_thread(self._send, take)
                await asyncio.sleep(self._period_s)
        finally:
            library.removeHandler(self._errors)
            library.propagate = True
            # It ends the repetitions of a sending that is under way.
            self._exporter.shutdown(timeout_millis=0)

    def _send(self, take: Callable[[], Iterable[Family]]) -> None:
        self._errors.words = ""
        try:
            sent = self._exporter.export(metrics_data(take())).name == "SUCCESS"
            words = "" if sent else self._errors.words or "the collector refused the metrics"
        except Exception as error:  # noqa: BLE001  # the library's own; the daemon goes on without it
            words = f"{type(error).__name__}: {error}"
        words = escape_for_terminal(words, _WORDS_LIMIT_CHARS)
        if words and not self._problem:
            self._log.warning("metrics not sent", to=self._url, why=words)
        elif not words and self._problem:
            self._log.info("metrics sent again", to=self._url)
        self._problem = words


class _LastError(logging.Handler):
    """A handler that keeps the last thing that the library said."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.words = ""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the words of one line."""
        self.words = record.getMessage()


def _exporter(url: str) -> OTLPMetricExporter:
    try:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415
            OTLPMetricExporter,
        )
    except ImportError as error:
        raise InputError(
            f"daemon.otlp needs a library that is not installed ({error.name}): install giveback[otlp], or "
            "remove the setting"
        ) from error
    return OTLPMetricExporter(endpoint=url, timeout=SEND_S)


def metrics_data(families: Iterable[Family]) -> MetricsData:
    """Return the families as OTLP's data: counters as cumulative sums, all others as gauges."""
    from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415
        MetricsData,
        ResourceMetrics,
        ScopeMetrics,
    )
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope  # noqa: PLC0415

    now_ns = time.time_ns()
    metrics = [metric for family in families if (metric := _metric(family, now_ns)) is not None]
    host = socket.gethostname()
    resource = Resource(
        {
            "service.name": "giveback",
            "service.version": __version__,
            "service.instance.id": host,
            "host.name": host,
        }
    )
    scope = ScopeMetrics(InstrumentationScope("giveback", __version__), metrics, "")
    return MetricsData([ResourceMetrics(resource, [scope], "")])


def _metric(family: Family, now_ns: int) -> Metric | None:
    from opentelemetry.sdk.metrics.export import (  # noqa: PLC0415
        AggregationTemporality,
        Gauge,
        Metric,
        Sum,
    )

    is_counter = family.type == "counter"
    points = _points(family, now_ns, is_counter=is_counter)
    if not points:
        return None
    data = Sum(points, AggregationTemporality.CUMULATIVE, True) if is_counter else Gauge(points)
    return Metric(family.name, family.documentation, _unit_of(family.name), data)


def _points(family: Family, now_ns: int, *, is_counter: bool) -> list[NumberDataPoint]:
    from opentelemetry.sdk.metrics.export import NumberDataPoint  # noqa: PLC0415

    # prometheus_client also gives each counter's time of creation as a sample of its own.
    wanted = f"{family.name}_total" if is_counter else family.name
    return [
        NumberDataPoint(
            dict(sample.labels), now_ns if not is_counter else 0, now_ns, float(sample.value)
        )
        for sample in family.samples
        if sample.name == wanted
    ]


def _unit_of(name: str) -> str:
    """Return the unit in UCUM that a name ends with. A collector for Prometheus does not add it again."""
    for ending, unit in (
        ("bytes_per_second", "By/s"),
        ("bytes", "By"),
        ("seconds", "s"),
        ("ratio", "1"),
    ):
        if name.endswith(ending):
            return unit
    return ""
