"""The one parser of the agent's protocol accepts all that the agent writes, and nothing else."""

from __future__ import annotations

import ast
import asyncio
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from session_ends import Owner, Wire

from giveback.guest import protocol
from giveback.guest.session import Session
from giveback_agent.host_link import json_lines

HOST = Path(protocol.__file__).parents[1]
HOSTS_AND_LABS = sorted([*HOST.rglob("*.py"), *(HOST.parent / "giveback_lab").rglob("*.py")])
PLAIN = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20)
)


def line(**said: object) -> bytes:
    return json.dumps({"v": 1, **said}).encode()


@given(st.sampled_from(["memory", "pages"]), st.integers(0, 3), st.floats(0, 86_400))
def test_the_agent_reads_each_request(what: str, level: int, lease_s: float) -> None:
    number = protocol.new_id()
    for request in (protocol.ask(what, number), protocol.urgency(level, lease_s, number)):
        empty, said, end = request.split(b"\n")
        assert (empty, end) == (b"", b"")
        read = json_lines.parse(said)
        assert read is not None
        assert (read["v"], read["id"]) == (json_lines.VERSION, number)
        if "ask" in read:
            assert read["ask"] == what
        else:
            assert read["urgency"] == level
            assert abs(float(str(read["lease_s"])) - lease_s) <= 0.05 + 1e-9


@given(st.text(max_size=300), st.text(max_size=300))
def test_the_agents_events_are_parsed(step: str, text: str) -> None:
    event = protocol.parse(json_lines.line_of({"event": "step", "step": step, "text": text}))
    assert isinstance(event, protocol.StepEvent)
    assert event.text.isprintable()
    assert event.step is not None
    assert event.step.isprintable()


def test_parts_of_pages() -> None:
    assert protocol.parse(line(event="pages", id=7, part=0, of=1, data="x")) == protocol.Pages(
        7, 0, 1, "x"
    )
    good: dict[str, object] = {"event": "pages", "id": 7, "part": 1, "of": 2, "data": "x"}
    most = protocol.PARTS_LIMIT
    assert protocol.parse(line(**{**good, "part": most - 1, "of": most})) is not None
    for wrong in (
        {"part": 2}, {"part": -1}, {"part": True}, {"part": 1.0}, {"of": 1}, {"of": None},
        {"part": most, "of": most + 1}, {"data": 5}, {"data": None}, {"id": "7"},
    ):  # fmt: skip
        assert protocol.parse(line(**{**good, **wrong})) is None, wrong


@pytest.mark.parametrize("key", ["step", "text"])
def test_a_step_whose_text_is_not_text_is_refused(key: str) -> None:
    assert protocol.parse(line(event="step", **{key: 5})) is None
    assert protocol.parse(line(event="step")) == protocol.StepEvent("")


@given(st.dictionaries(st.text(max_size=9), PLAIN | st.lists(PLAIN, max_size=3), max_size=5))
def test_unknown_keys_are_ignored_and_nested_messages_refused(
    more: dict[str, object],
) -> None:
    said = {**more, "event": "hello", "agent": "0.1"}
    assert protocol.parse(json.dumps(said).encode()) == protocol.Hello("0.1")
    for deep in ("{}", '{"a":1}', "[[]]", "[{}]"):
        nested = json.dumps(said)[:-1] + f', "more": {deep}}}'
        assert protocol.parse(nested.encode()) is None


def test_the_agents_longest_line_is_parsed_and_a_longer_one_refused() -> None:
    short = line(event="memory", id=1, meminfo="")
    longest = line(event="memory", id=1, meminfo="x" * (protocol.LINE_LIMIT_BYTES - len(short)))
    assert len(longest) == protocol.LINE_LIMIT_BYTES
    assert isinstance(protocol.parse(longest), protocol.MemoryReport)
    assert protocol.parse(longest + b" ") is None


def test_a_greeting_is_short() -> None:
    assert protocol.is_greeted(b"OK 1073741824\n")
    for wrong in (b"", b"OK", b"NO 1\n", b"OK " + b"1" * 62):
        assert not protocol.is_greeted(wrong)


def test_a_session_does_not_accept_pages_as_the_answer_to_memory() -> None:
    async def converse() -> tuple[Owner, bool, bool]:
        owner, wire, buffer = Owner(), Wire(), memoryview(bytearray(4096))
        session = Session(owner, buffer, greets=False)
        session.connection_made(wire)
        assert session.ask(0.0)
        number = json.loads(wire.sent)["id"]

        def hear(said: bytes) -> None:
            buffer[: len(said) + 1] = said + b"\n"
            session.buffer_updated(len(said) + 1)

        hear(line(event="pages", id=number, part=0, of=1, data=""))
        before = session.waits_for_answer
        hear(line(event="memory", id=number))
        return owner, before, session.waits_for_answer

    owner, before, after = asyncio.run(converse())
    assert (before, after) == (True, False)
    assert owner.wrongs == ["answer to no request"]
    assert owner.ends == []
    assert [type(event) for event in owner.events] == [protocol.MemoryReport]


def test_only_one_module_knows_the_protocol() -> None:
    """Another module that parses the agent's lines, or uses a key of them, would be a second client."""
    keys = {"retry_s", "meminfo", "buddyinfo", "pcp_bytes", "compressed_swap_bytes"}
    knowing = set()
    for path in HOSTS_AND_LABS:
        for node in ast.walk(ast.parse(path.read_bytes())):
            imports = isinstance(node, ast.ImportFrom) and node.module == "giveback_agent.host_link"
            if imports or (isinstance(node, ast.Constant) and node.value in keys):
                knowing.add(path.relative_to(HOST.parent).as_posix())
    assert knowing == {"giveback/guest/protocol.py"}
