"""A real Prometheus scrapes the daemon, evaluates its rules, and promtool finds no fault in either."""

from __future__ import annotations

import contextlib
import functools
import json
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
from peers import peer
from scripted_manager import ScriptedManager, action, running, status, vm_status, wait_for

import giveback
from giveback.accounting.ledger import Key
from giveback.manager.http.server import Endpoint
from giveback.manager.model import VmCondition

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARD = Path(giveback.__file__).parent / "manager/data/grafana-dashboard.json"
RULES = Path(giveback.__file__).parent / "manager/data/prometheus-rules.yml"
PACKAGE = "prometheus"
_CONFIG = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [{rules}]
scrape_configs:
  - job_name: giveback
    static_configs: [{{targets: ["{address}"]}}]
"""
_RULE_TESTS = """\
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'giveback_vm_condition{{job="giveback",instance="h",vm="web",condition="does not deliver"}}'
        values: '1x30'
      - series: 'giveback_host_urgency{{job="giveback",instance="h"}}'
        values: '0x5 2x25'
      - series: 'up{{job="giveback",instance="h"}}'
        values: '1x10 0x20'
      - series: 'giveback_status_time_seconds{{job="giveback",instance="h"}}'
        values: '0x30'
      - series: 'giveback_problems{{job="giveback",instance="h",about="history"}}'
        values: '1x40'
      - series: 'giveback_vm_resident_bytes{{job="giveback",instance="h",vm="web"}}'
        values: '4e9x90'
      - series: 'giveback_vm_residue_bytes{{job="giveback",instance="h",vm="web"}}'
        values: '2e9x90'
    promql_expr_test:
      - expr: giveback:vm_residue:ratio
        eval_time: 5m
        exp_samples:
          - labels: 'giveback:vm_residue:ratio{{job="giveback",instance="h",vm="web"}}'
            value: 0.5
      - expr: count by (alertname) (ALERTS{{alertstate="firing"}})
        eval_time: 4m
        exp_samples: [{{labels: '{{alertname="GivebackDaemonSilent"}}', value: 1}}]
      - expr: sort(count by (alertname) (ALERTS{{alertstate="firing"}}))
        eval_time: 20m
        exp_samples:
          - {{labels: '{{alertname="GivebackDaemonSilent"}}', value: 1}}
          - {{labels: '{{alertname="GivebackDaemonGone"}}', value: 1}}
          - {{labels: '{{alertname="GivebackHostShort"}}', value: 1}}
          - {{labels: '{{alertname="GivebackVmDoesNotDeliver"}}', value: 1}}
          - {{labels: '{{alertname="GivebackHistoryFails"}}', value: 1}}
"""


def promtool(*words: str, given: str = "") -> str:
    """What it prints; fails where it finds a fault."""
    done = subprocess.run(
        [peer(PACKAGE, "promtool", static=True).path, *words],
        input=given,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_rules_are_sound() -> None:
    assert "rules found" in promtool("check", "rules", str(RULES))


def test_the_alerts_come_when_they_should_and_not_before(tmp_path: Path) -> None:
    tests = tmp_path / "tests.yml"
    tests.write_text(_RULE_TESTS.format(rules=RULES))
    assert "SUCCESS" in promtool("test", "rules", str(tests))


def test_every_metric_keeps_to_the_conventions(tmp_path: Path) -> None:
    endpoint = Endpoint(socket_path=str(tmp_path / "s"), metrics_listen="127.0.0.1:0")
    with running(endpoint, ScriptedManager(picture())) as daemon:
        text = httpx2.get(f"http://{address_of(daemon.serving)}/metrics").text
    # The process's own metrics are the official client's, and not ours to name.
    ours = "".join(line + "\n" for line in text.splitlines() if "giveback_" in line)
    assert promtool("check", "metrics", given=ours) == ""


def picture() -> Any:  # noqa: ANN401
    rows = {key.name.lower(): number << 20 for number, key in enumerate(Key)}
    vms = [
        vm_status("web", 100, rows=rows),
        vm_status('evil\n"} 1\x1b[2J\udc80', 7, condition=VmCondition.SHORT),
        vm_status("twin", 8),
        vm_status("twin", 9, urgency=None, needed_bytes=None, residue_bytes=None),
    ]
    actions = (
        action(1),
        action(2, measured_bytes=5, verdict="short"),
        action(3, measured_bytes=None),
    )
    return status(*vms, wall_s=time.time(), actions=actions)


def address_of(serving: Any) -> str:  # noqa: ANN401
    host, port = serving.metrics_address
    return f"{host}:{port}"


@contextlib.contextmanager
def prometheus(folder: Path, target: str) -> Iterator[str]:
    """A Prometheus of our own that scrapes `target`; its address."""
    (folder / "config.yml").write_text(_CONFIG.format(rules=RULES, address=target))
    with (folder / "log").open("w+") as log, subprocess.Popen(
        [
            peer(PACKAGE, "prometheus", static=True).path, f"--config.file={folder / 'config.yml'}",
            f"--storage.tsdb.path={folder / 'data'}", "--web.listen-address=127.0.0.1:0",
            "--log.level=info",
        ],
        stdout=log, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            yield _listening(folder / "log")
        finally:
            process.kill()


def _listening(log: Path) -> str:
    """The port that the kernel chose, as the log names it."""

    def found() -> str:
        for line in log.read_text().splitlines():
            if 'msg="Listening on"' in line or 'msg="Start listening for connections"' in line:
                address = line.partition("address=")[2].split()[0].strip('"')
                if not address.endswith(":0"):
                    return address
        return ""

    wait_for(found, "Prometheus")
    return found()


def asked(server: str, expression: str) -> list[dict[str, Any]]:
    answer = httpx2.get(f"http://{server}/api/v1/query", params={"query": expression}).json()
    assert answer["status"] == "success", answer
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


def test_a_real_prometheus_sees_every_row_and_the_vanished_are_gone(tmp_path: Path) -> None:
    endpoint = Endpoint(socket_path=str(tmp_path / "s"), metrics_listen="127.0.0.1:0")
    manager = ScriptedManager(picture())
    with (
        running(endpoint, manager) as daemon,
        prometheus(tmp_path, address_of(daemon.serving)) as server,
    ):
        wait_for(lambda: asked(server, "giveback_vm_ledger_bytes"), "a scrape")
        rows = asked(server, 'giveback_vm_ledger_bytes{vm="web"}')
        assert {row["metric"]["row"]: int(float(row["value"][1])) for row in rows} == {
            key.name.lower(): number << 20 for number, key in enumerate(Key)
        }
        names = {one["metric"]["vm"] for one in asked(server, "giveback_vm_info")}
        assert {"web", "twin (pid 8)", "twin (pid 9)"} < names
        assert len(names) == 4
        assert all(name.isprintable() and len(name) <= 100 for name in names)
        verdicts = {
            one["metric"]["verdict"]: float(one["value"][1])
            for one in asked(server, "giveback_actions_verified_total")
        }
        assert verdicts == {"delivered": 1, "short": 1}
        assert float(asked(server, 'giveback_actions_total{kind="ask"}')[0]["value"][1]) == 3
        wait_for(lambda: asked(server, "giveback:vms_resident_bytes:sum"), "a recording rule")
        manager.say(vms=manager.now.vms[:1])
        wait_for(lambda: len(asked(server, "giveback_vm_info")) == 1, "the vanished VMs' end")
        wait_for(lambda: asked(server, 'up{job="giveback"} == 1'), "an answer to a scrape")


def queries_of(dashboard: dict[str, Any]) -> list[tuple[str, str]]:
    """Each panel's title with its queries, Grafana's variables replaced as "All" replaces them."""
    found = []
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"].replace("$instance", ".*").replace("$vm", ".*")
            assert "$" not in query, panel["title"]
            found.append((panel["title"], query))
    return found


def test_every_panel_of_the_dashboard_has_data(tmp_path: Path) -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(numbers) == len(set(numbers))
    endpoint = Endpoint(socket_path=str(tmp_path / "s"), metrics_listen="127.0.0.1:0")
    known = vm_status(
        "web", 100, in_use_bytes=1 << 20, returned_bytes=1 << 20, returnable_bytes=1 << 20,
        cold_bytes=1 << 20, warm_bytes=1 << 20, cache_floor_bytes=1 << 20, cpu_percent=1.0,
        swap_bytes=1 << 20,
    )  # fmt: skip
    shown = status(known, wall_s=time.time(), actions=(action(1),), problems=("history /x: full",))
    with (
        running(endpoint, ScriptedManager(shown)) as daemon,
        prometheus(tmp_path, address_of(daemon.serving)) as server,
    ):
        for title, query in queries_of(dashboard):
            # A rate needs two scrapes.
            wait_for(functools.partial(asked, server, query), f"{title}: {query}")
        for variable in dashboard["templating"]["list"][1:]:
            series = variable["query"]["query"].partition("(")[2].rpartition(",")[0]
            assert asked(server, series.replace("$instance", ".*"))
