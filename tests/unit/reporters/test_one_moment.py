"""All outputs of one moment agree: each fact has one source, is not negative and at most RAM."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from all_outputs import daemon_of, outputs, scraped, shown
from hypothesis import given, settings
from hypothesis import strategies as st
from observations import GIB, GUEST, HOST, MIB, observation

from giveback.accounting.usage import GuestSnapshot, GuestSource, HostSnapshot
from giveback.manager.history.recorder import _vm_row
from giveback.manager.history.records import VM_COLUMNS
from giveback.manager.http.answers import encoded
from giveback.manager.model import VmCondition
from giveback.reporters import daemon_status, explanation, vm_table
from giveback_kernel.units import size

AMOUNT = st.integers(0, 4 * GIB)
MAYBE = st.none() | AMOUNT
FACTS = (
    *("residue_bytes", "needed_bytes", "in_use_bytes", "cache_bytes", "returned_bytes"),
    "returnable_bytes",
)
NEGATIVE = re.compile(r"(?<![\w/.])-\d")


def test_a_fact_is_the_same_in_every_output() -> None:
    host = replace(HOST, peak_resident_bytes=HOST.resident_bytes + 120 * MIB)
    seen = observation(host=host)
    made, text = outputs(seen)
    for fact in FACTS:
        values = {name: document[fact] for name, document in made.items() if fact in document}
        assert len(set(values.values())) == 1, (fact, values)
        assert None not in values.values()
    assert made["status"]["returned_bytes"] == 120 * MIB
    assert made["status"]["ram_rows"]["free_returned"] == 120 * MIB
    samples = scraped(shown(seen))
    for fact in FACTS:
        assert samples[f'giveback_vm_{fact}{{vm="one"}}'] == made["status"][fact]
    # Returnable cache is not part of memory in use.
    assert f"= in use {size(made['ps']['in_use_bytes'])}" in re.sub(r" +", " ", text)
    assert shown(seen).reliability is None
    assert not any("reliability" in name for name in samples)


OTHERS_STATISTICS = GuestSnapshot(
    source=GuestSource.BALLOON, age_s=1.0, total_bytes=8 * GIB, free_bytes=4 * GIB
)
BOOT_TIME = replace(GUEST, source=GuestSource.BALLOON, age_s=55.0, moved_bytes=600 * MIB)


@pytest.mark.parametrize(
    ("guest", "why"),
    [(OTHERS_STATISTICS, "more than the VM has RAM"), (BOOT_TIME, "has moved by 600 MiB since")],
)
def test_unknown_amounts_are_unknown_in_every_output_with_one_reason(
    guest: GuestSnapshot, why: str, tmp_path: Path
) -> None:
    # Resident memory has changed by this since the daemon's report.
    seen = observation(guest=guest)
    vm = shown(seen) if guest.moved_bytes is None else replace(shown(seen), unknown=why)
    if guest.moved_bytes is None:
        assert vm.condition is VmCondition.CONTRADICTS
        assert why in vm.condition_text
        assert vm.residue_bytes is vm.needed_bytes is vm.in_use_bytes is None
        assert _vm_row(vm)[VM_COLUMNS.index("condition")] == "numbers contradict"
        assert _vm_row(vm)[VM_COLUMNS.index("residue_bytes")] is None
        samples = scraped(vm)
        assert samples['giveback_vm_condition{condition="numbers contradict",vm="one"}'] == 1
        assert samples['giveback_vm_unknown{vm="one"}'] == 1
        assert not any("residue" in name for name in samples)
    status = json.loads(encoded(daemon_of(vm)))
    assert any(why in line for line in status["vm_problems"])
    assert daemon_status.text(daemon_of(vm), 2.0).count(why) == 1
    for document in (vm_table.documents([seen])[0], explanation.document(seen)):
        assert why in str(document["unknown"])
        assert document["residue_bytes"] is document["needed_bytes"] is None
    table = vm_table.text([seen])
    assert why in table
    assert " ? " in table
    assert why in explanation.text(seen)
    from giveback.reporters.waterfall_figure import draw

    draw(seen, str(tmp_path / "x.svg"))
    draw(seen, str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").stat().st_size > 1000
    assert "<!-- ? " in (tmp_path / "x.svg").read_text() or why in (tmp_path / "x.svg").read_text()


HOSTS = st.builds(
    HostSnapshot,
    ram_resident_bytes=st.integers(0, 2 * GIB),
    ram_swap_bytes=AMOUNT,
    ram_huge_bytes=AMOUNT,
    ram_pss_bytes=AMOUNT,
    own_resident_bytes=AMOUNT,
    own_pss_bytes=AMOUNT,
    own_swap_bytes=AMOUNT,
    page_tables_bytes=AMOUNT,
    peak_resident_bytes=AMOUNT,
    placed=st.sampled_from([True, True, True, False]),
)
GUESTS = st.builds(
    GuestSnapshot,
    source=st.sampled_from(GuestSource),
    age_s=st.none() | st.floats(0, 100),
    moved_bytes=MAYBE,
    free_by_order=st.lists(AMOUNT, max_size=11).map(tuple),
    report_order=st.none() | st.integers(0, 10),
    reporting=st.none() | st.booleans(),
    **dict.fromkeys(
        ["total_bytes", "free_bytes", "available_bytes", "anon_bytes", "cache_bytes", "dirty_bytes",
         "cold_cache_bytes", "slab_reclaimable_bytes", "kernel_bytes", "learned_floor_bytes",
         "would_take_bytes", "cache_floor_bytes"],
        MAYBE,
    ),
)  # fmt: skip


def amounts(document: Any, name: str = "") -> list[tuple[str, int]]:  # noqa: ANN401
    """Yield every number of bytes in a document with its name."""
    if isinstance(document, dict):
        rows = name in ("rows", "ram_rows")
        found = []
        for key, value in document.items():
            found += amounts(value, f"{name}_bytes" if rows else str(key))
        return found
    if isinstance(document, list):
        return [one for value in document for one in amounts(value, name)]
    is_amount = isinstance(document, int) and name.endswith("_bytes")
    return [(name, document)] if is_amount else []


@settings(deadline=None, max_examples=150)
@given(HOSTS, GUESTS)
def test_no_output_shows_a_negative_amount_or_more_than_ram(
    host: HostSnapshot, guest: GuestSnapshot
) -> None:
    seen = observation(host=host, guest=guest)
    made, text = outputs(seen)
    for name, document in made.items():
        for label, amount in amounts(document):
            assert amount >= 0, (name, label, amount)
        for fact in (*FACTS, "resident_bytes"):
            assert (document.get(fact) or 0) <= GIB, (name, fact)
    for remedy in made["explain"]["remedies"]:
        assert (remedy["expected_bytes"] or 0) <= GIB
    assert not NEGATIVE.search(text), NEGATIVE.search(text)
    for line, value in scraped(shown(seen)).items():
        assert value >= 0, line


def test_the_api_sends_the_fields_of_a_status() -> None:
    vm = shown(observation())
    assert json.loads(encoded(vm)).keys() == asdict(vm).keys()
