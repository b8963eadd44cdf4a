"""The metrics of one status: text that can be parsed, whatever the VMs' names are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from manager_samples import action, status, vm_status
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_open
from prometheus_client.parser import text_string_to_metric_families as parse

from giveback.manager.http.metrics.prometheus import (
    KINDS_SHOWN,
    VMS_SHOWN,
    ActionCounts,
    StatusCollector,
    labels_of,
    registry_of,
    rendered,
)
from giveback.reporters.daemon_status import row_of
from giveback.reporters.tables.vm_columns import STATUS

if TYPE_CHECKING:
    from giveback.manager.model import DaemonStatus


FULL_VM = vm_status(
    in_use_bytes=101, cache_bytes=102, returnable_bytes=103, returned_bytes=104, own_bytes=105,
    charged_bytes=106, rows={"free_trapped": 107}, host_percent=12.5, cpu_percent=25.0,
    uptime_s=110.0, swap_bytes=111, swap_in_bytes_per_s=112.0, swap_out_bytes_per_s=113.0,
)  # fmt: skip


def samples_of(now: DaemonStatus, counts: ActionCounts | None = None) -> dict[str, list[float]]:
    """Each metric's values."""
    found: dict[str, list[float]] = {}
    for family in StatusCollector(lambda: now, counts or ActionCounts(), lambda: 3.5).collect():
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample.value)
    return found


def test_the_metrics_have_the_whole_status() -> None:
    found = samples_of(status())
    assert found["giveback_host_look_age_seconds"] == [2.5]
    assert found["giveback_host_memory_pressure_ratio"] == [0.015, 0.005]
    assert found["giveback_leased_bytes"] == [1 << 30]
    assert found["giveback_vm_lease_seconds"] == [20.0]
    assert sum(found["giveback_vms"]) == 1
    assert "giveback_host_trouble_seconds" not in found


def test_every_number_of_the_table_is_a_metric() -> None:
    amounts = {column.value(row_of(vm, status(vm))): column.word for column in STATUS
               for vm in [FULL_VM] if column.write is not None}  # fmt: skip
    known = {value for values in samples_of(status(FULL_VM)).values() for value in values}
    shown = known | {value * 100 for value in known}
    missing = {word for value, word in amounts.items() if value not in shown} - {"pid"}
    assert not missing


def test_what_is_not_known_is_left_out() -> None:
    vm = vm_status(needed_bytes=None, urgency=None, lease_left_s=None, sampled_age_s=None)
    found = samples_of(status(vm, host=None, decision=None))
    for name in ("giveback_vm_needed_bytes", "giveback_vm_urgency", "giveback_vm_lease_seconds",
                 "giveback_host_urgency", "giveback_host_memory_total_bytes"):  # fmt: skip
        assert name not in found


@pytest.mark.parametrize("by", ["host", "reclaim", "manual"])
def test_a_lease_is_labelled_by_who_set_the_urgency(by: str) -> None:
    vm = vm_status(urgency=2, urgency_by=by, lease_left_s=41.0)
    text = rendered(registry_of(lambda: status(vm), ActionCounts()), "")[0].decode()
    (line,) = [one for one in text.splitlines() if one.startswith("giveback_vm_lease_seconds{")]
    assert f'by="{by}"' in line
    assert line.endswith(" 41.0")


def test_actions_are_counted_once_and_again_when_they_are_verified() -> None:
    counts = ActionCounts()
    asked = action(1, measured_bytes=None)
    for actions in ((asked,), (asked, action(2)), (action(1, verdict="short"), action(2)), ()):
        counts.saw(actions)
    assert +counts.done == {"ask": 2}
    assert counts.verified == {("ask", "delivered"): 1, ("ask", "short"): 1}
    assert samples_of(status(), counts)["giveback_actions_total"] == [0, 2]


def test_actions_that_were_never_listed_are_counted() -> None:
    counts = ActionCounts()
    counts.saw([action(2), action(5)])
    counts.saw([action(5), action(1000)])
    assert sum(counts.done.values()) == 1000
    assert counts.done["ask"] == 3


def test_problems_are_told_by_what_they_are_about() -> None:
    problems = ("history /x: full", "a VM: bad", "settings: wrong")
    found = samples_of(status(problems=problems, vm_problems=("web: silent", "old: silent")))
    assert found["giveback_problems"] == [1, 1, 1, 2]


def test_what_is_shown_is_bounded() -> None:
    vm = vm_status(errors={f"kind {i}": 1 for i in range(1000)}, rows={"invented": 5, "anon": 1})
    found = samples_of(status(vm))
    assert len(found["giveback_vm_errors_total"]) == KINDS_SHOWN
    assert found["giveback_vm_ledger_bytes"] == [1]
    many = samples_of(status(*[vm_status(f"v{i}", i) for i in range(VMS_SHOWN + 7)]))
    assert len(many["giveback_vm_info"]) == VMS_SHOWN
    assert many["giveback_vms_not_shown"] == [7]


NAMES = st.text(max_size=200) | st.sampled_from(["", "a", "a (pid 1)", "\udc80", '"} 1\n', "ä"])


@given(st.lists(st.tuples(NAMES, st.integers(1, 3)), max_size=8))
def test_labels_are_unique_safe_and_short(named: list[tuple[str, int]]) -> None:
    labels = labels_of([vm_status(name, pid) for name, pid in named])
    assert len(set(labels)) == len(labels) == len(named)
    for label in labels:
        assert label.isascii()
        assert label.isprintable()
        assert 0 < len(label) < 800


@given(st.lists(NAMES, max_size=4), st.sampled_from(["", "application/openmetrics-text"]))
def test_every_name_gives_text_that_parses(names: list[str], accept: str) -> None:
    now = status(*[vm_status(name, i, guest_source=name) for i, name in enumerate(names)])
    text, _ = rendered(registry_of(lambda: now, ActionCounts()), accept)
    families = list((parse_open if accept else parse)(text.decode()))
    assert {"giveback_info", "giveback_vms"} <= {family.name for family in families}
    for family in families:
        assert re.fullmatch("[a-z_:]+", family.name)
