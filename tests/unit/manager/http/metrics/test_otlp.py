"""The metrics as OpenTelemetry's data: the same names and values as /metrics."""

from __future__ import annotations

import builtins
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_samples import status, vm_status
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from giveback.errors import InputError
from giveback.manager.http.metrics import otlp, prometheus
from giveback.manager.settings.values import collector_url

LABELS = st.text(max_size=20)


@given(st.lists(st.tuples(LABELS, st.floats(allow_nan=False, allow_infinity=False)), max_size=5))
def test_every_sample_becomes_a_point_with_its_labels(samples: list[tuple[str, float]]) -> None:
    gauge = GaugeMetricFamily("giveback_x_bytes", "Words.", labels=["vm"])
    counter = CounterMetricFamily("giveback_y", "Words.", labels=["kind"])
    for label, value in samples:
        gauge.add_metric([label], value)
        counter.add_metric([label], abs(value), created=1.0)
    (resource,) = otlp.metrics_data([gauge, counter]).resource_metrics
    (scope,) = resource.scope_metrics
    if not samples:
        assert scope.metrics == []
        return
    held, counted = scope.metrics
    assert (held.name, held.unit, counted.name) == ("giveback_x_bytes", "By", "giveback_y")
    points = [(point.attributes, getattr(point, "value", None)) for point in held.data.data_points]
    assert points == [({"vm": label}, value) for label, value in samples]
    sums = [(point.attributes, getattr(point, "value", None)) for point in counted.data.data_points]
    assert sums == [({"kind": label}, abs(value)) for label, value in samples]


def test_nothing_that_prometheus_shows_is_left_out() -> None:
    now = status(vm_status("web", 100), vm_status("db", 200))
    registry = prometheus.registry_of(lambda: now, prometheus.ActionCounts())
    families = list(registry.collect())
    (resource,) = otlp.metrics_data(families).resource_metrics
    sent = {metric.name for metric in resource.scope_metrics[0].metrics}
    assert sent == {family.name for family in families if family.samples}
    assert "giveback_vm_resident_bytes" in sent
    assert resource.resource.attributes["service.name"] == "giveback"


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/metrics"),
        ("https://otel.example/", "https://otel.example/v1/metrics"),
        ("http://h:1/own/path", "http://h:1/own/path"),
        ("http://[::1]:4318", "http://[::1]:4318/v1/metrics"),
    ],
)
def test_a_collector_is_named_by_its_url(text: str, url: str) -> None:
    assert collector_url(text) == url


@pytest.mark.parametrize(
    "text",
    ["localhost:4318", "ftp://h", "http://", "http://u:p@h", "http://h?a=b", "http://h:0", "http://h:x",
     "http://h:99999", "http://h\n", "http://h/ü", "h" * 3000, "http://[::1", "http:///v1/metrics"],
)  # fmt: skip
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".") as refused:
        collector_url(text)
    assert "\n" not in str(refused.value)


@given(st.text(max_size=60) | st.text(max_size=40).map(lambda text: f"http://{text}"))
def test_any_text_is_a_url_or_refused_in_words(text: str) -> None:
    try:
        url = collector_url(text)
    except ValueError:
        return
    assert url.startswith(("http://", "https://"))


def test_without_the_extra_the_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *more: Any) -> Any:  # noqa: ANN401
        if name.startswith("opentelemetry"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *more)

    for name in [name for name in sys.modules if name.startswith("opentelemetry")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError, match=r"daemon.otlp needs .* install giveback\[otlp\]"):
        otlp.OtlpExport("http://127.0.0.1:4318")


def test_the_registry_may_be_empty() -> None:
    (resource,) = otlp.metrics_data(CollectorRegistry().collect()).resource_metrics
    assert resource.scope_metrics[0].metrics == []
