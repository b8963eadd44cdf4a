"""JSON made by hand must be JSON."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from giveback_agent import link

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=20,
)


@given(VALUES)
def test_encode_reads_back_the_same(value: object) -> None:
    text = link.encode(value)
    assert json.loads(text) == value
    assert "\n" not in text
    assert text.isascii()


@given(st.floats())
def test_numbers_that_json_has_no_word_for_become_null(value: float) -> None:
    read = json.loads(link.encode(value))
    assert read is None or abs(read - value) <= 1e-6 or read == round(value, 6)


def test_a_vm_without_a_port_loses_words_and_nothing_else(tmp_path: Path) -> None:
    channel = link.Link(str(tmp_path))
    assert channel.send(event="step", step="compact") is False
    channel.close()


def test_the_port_is_found_by_its_name(tmp_path: Path) -> None:
    port = tmp_path / "sys/class/virtio-ports/vport1p2"
    port.mkdir(parents=True)
    (port / "name").write_text("org.giveback.agent.0\n")
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/vport1p2").touch()
    channel = link.Link(str(tmp_path))
    assert channel.send(event="step", step="compact", text='a "b"\n') is True
    channel.close()
    assert json.loads((tmp_path / "dev/vport1p2").read_text())["text"] == 'a "b"\n'
