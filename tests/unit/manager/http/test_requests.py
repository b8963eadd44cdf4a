"""What clients may ask, who may ask it, and the daemon's unit and log: all that is pure of them."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, TypeVar

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from manager_samples import action, status, vm_status
from pydantic import PydanticUserError
from pydantic_core import PydanticSerializationError

from giveback.errors import InputError
from giveback.manager import logs, systemd_unit
from giveback.manager.http import openapi, requests
from giveback.manager.http.answers import encoded
from giveback.manager.http.feed import FeedListener, changes
from giveback.manager.model import VmCondition
from giveback.manager.settings import access as access_rules
from giveback.manager.settings.access import ApiAccess, ApiPeer, Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")
MIB = 1 << 20

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["goal_bytes", "within_s", "vms", "urgency", "lease_s", "x"]), inner
        )
    ),
    max_leaves=12,
)


def taken(parse: Callable[[], T]) -> T | None:
    """What is made of it, or None where it is refused, with words."""
    try:
        return parse()
    except InputError as error:
        return None if str(error) else pytest.fail("refused without a word")


@given(JSON)
def test_a_request_is_well_formed_or_refused_with_words(said: object) -> None:
    wanted = taken(lambda: requests.checked(requests.ReclaimBody, said))
    if wanted is not None:
        assert 0 < wanted.goal_bytes <= requests.GOAL_MOST_BYTES
        assert 0 < wanted.within_s <= requests.WITHIN_MOST_S
    told = taken(lambda: requests.checked(requests.UrgencyBody, said))
    if told is not None:
        assert told.urgency in (0, 1, 2, 3)
        assert 0 < told.lease_s <= requests.LEASE_MOST_S


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ([], "the body: must be a JSON object"),
        ({}, "goal_bytes: is missing"),
        ({"goal_bytes": True}, "goal_bytes: must be a whole number, not true"),
        ({"goal_bytes": 1.0}, "goal_bytes: must be a whole number, not 1.0"),
        ({"goal_bytes": 0}, "goal_bytes: must be greater than or equal to 1048576, not 0"),
        ({"goal_bytes": -5}, "goal_bytes: must be greater than or equal to 1048576, not -5"),
        ({"goal_bytes": 200}, "goal_bytes: must be greater than or equal to 1048576, not 200"),
        ({"goal_bytes": MIB, "dry_run": 1}, "dry_run: must be"),
        ({"goal_bytes": MIB, "within_s": "9"}, "within_s: must be a number, not '9'"),
        ({"goal_bytes": MIB, "within_s": 9e9}, "less than or equal to 3600"),
        ({"goal_bytes": MIB, "vms": ["a"] * 1001}, "vms: must be a list of at most 1000"),
        ({"goal_bytes": MIB, "vms": ["a", 3]}, "vms[1]: must be text, not 3"),
        ({"goal_byte": 1}, "is missing; goal_byte: there is no such key; did you mean goal_"),
        ({"goal_bytes": MIB, "\udc80": 2}, "the body: must be a JSON object"),
    ],
)
def test_what_is_wrong_in_a_request_is_all_named(said: object, words: str) -> None:
    with pytest.raises(InputError) as caught:
        requests.checked(requests.ReclaimBody, said)
    assert words in str(caught.value)


def test_a_request_of_faults_alone_gets_a_short_answer() -> None:
    query = {f"x{number}": "" for number in range(5000)}
    with pytest.raises(InputError) as caught:
        requests.TimeSpan.of(query, 1_800_000_000.5)
    assert str(caught.value).count("there is no such key; there are: since, from, to, vm") == 10


def test_a_vm_that_is_named_twice_is_asked_once() -> None:
    said = {"goal_bytes": MIB, "within_s": 5, "vms": ["b", "a", "b"]}
    assert requests.checked(requests.ReclaimBody, said) == requests.ReclaimBody(
        MIB, 5.0, ("b", "a")
    )


@given(st.dictionaries(st.sampled_from(["since", "from", "to", "vm", "x"]), st.text(max_size=12)))
def test_a_span_is_bounded_or_refused(query: dict[str, str]) -> None:
    span = taken(lambda: requests.TimeSpan.of(query, 1_800_000_000.5))
    if span is not None:
        assert 0 < span.to_s - span.from_s <= requests.SPAN_MOST_S


@given(st.dictionaries(st.sampled_from(["since", "from", "to", "vm", "at"]), st.text(max_size=12)))
def test_a_span_of_use_and_a_moment_are_bounded_or_refused(query: dict[str, str]) -> None:
    span = taken(lambda: requests.TimeSpan.of(query, 1_800_000_000.5, requests.UsageQuery))
    if span is not None:
        assert span.vm is None
        assert 0 < span.to_s - span.from_s <= requests.SPAN_MOST_S
    frame = taken(lambda: requests.checked(requests.FrameQuery, query))
    assert frame is None or 0 < frame.at < 10**12


@pytest.mark.parametrize("text", ["yesterday", "-1s", "0", "367d", "", "\x1b[2J"])
def test_a_span_that_is_refused_is_named_with_what_is_allowed(text: str) -> None:
    with pytest.raises(InputError) as caught:
        requests.TimeSpan.of({"since": text}, 0)
    said = "since: must be a span of time from 1 s to 366 d: write it like 90s, 15m, 2h or 7d, not"
    assert str(caught.value).startswith(said)
    assert str(caught.value).isprintable()


@given(
    st.integers(-1, 5),
    st.frozensets(st.integers(0, 5)),
    st.builds(
        ApiAccess,
        own_uid=st.integers(0, 5),
        writer_uids=st.frozensets(st.integers(0, 5)),
        writer_gids=st.frozensets(st.integers(0, 5)),
        reader_uids=st.frozensets(st.integers(0, 5)),
        reader_gids=st.frozensets(st.integers(0, 5)),
    ),
)
def test_without_a_rule_no_user_has_rights(
    uid: int, gids: frozenset[int], access: ApiAccess
) -> None:
    level = access.level(ApiPeer(1, uid, gids))
    writes = uid in {0, access.own_uid} | access.writer_uids or bool(gids & access.writer_gids)
    reads = uid in access.reader_uids or bool(gids & access.reader_gids)
    expected = Level.WRITE if writes else Level.READ if reads else Level.NOTHING
    assert level is (Level.NOTHING if uid < 0 else expected)


def test_rules_are_made_of_words() -> None:
    made = access_rules.access(["root", "@0", "1234"], ["@4321"])
    assert made.writer_uids == {0, 1234}
    assert made.writer_gids == {0}
    assert made.reader_gids == {4321}
    for words in (["no-such-user-here"], ["@no-such-group-here"], ["a\0b"]):
        with pytest.raises(InputError, match="does not exist"):
            access_rules.access(words)


def test_only_what_matters_is_told() -> None:
    before = status(vm_status("a", 1), vm_status("b", 2))
    after = status(
        vm_status("a", 1, resident_bytes=1), vm_status("b", 2, condition=VmCondition.SILENT),
        actions=(action(1), action(2)),
    )  # fmt: skip
    names = [name for name, _ in changes(before, after)]
    assert names == ["status", "vm", "action"]
    assert [name for name, _ in changes(None, after)] == ["status", "vm", "vm", "action", "action"]


def test_a_listener_that_does_not_read_costs_a_bounded_queue_and_can_be_ended() -> None:
    listener = FeedListener()
    for _ in range(10_000):
        listener.put(b"x")
    listener.put(None)
    assert listener._queue.qsize() <= 256


@given(st.text(), st.floats())
def test_every_picture_is_a_document(name: str, age_s: float) -> None:
    read = json.loads(encoded(status(vm_status(name, sampled_age_s=age_s))))
    assert read["vms"][0]["condition"] == "ok"


def test_the_description_has_every_field_of_what_is_sent() -> None:
    schemas = openapi.description()["components"]["schemas"]
    sent = json.loads(encoded(status()))
    described = schemas["DaemonStatus"]
    assert isinstance(described, dict)
    assert set(described["properties"]) == set(sent)
    with pytest.raises(PydanticUserError, match="schema for"):
        openapi.schemas_of({"thing": (io.StringIO, "serialization")})


def test_nothing_that_is_described_may_be_missing_and_nothing_else_may_be_there() -> None:
    schemas = openapi.description()["components"]["schemas"]
    asked = {"ReclaimBody": ["goal_bytes"], "UrgencyBody": ["urgency"]}
    for name, schema in schemas.items():
        if schema["type"] == "object":
            assert schema["additionalProperties"] is False, name
            assert schema["required"] == asked.get(name, list(schema["properties"])), name
    assert schemas["Reclaimed"]["properties"]["reached"] == {"type": "boolean"}
    assert schemas["RecordedAction"]["properties"]["kind"] == {"type": "string"}


def test_what_cannot_be_json_is_an_error() -> None:
    with pytest.raises(PydanticSerializationError, match="unknown type"):
        encoded({"thing": object()})


def test_the_unit_holds_only_paths_that_it_can() -> None:
    text = systemd_unit.unit_text("/usr/local/bin/giveback")
    assert "ExecStart=/usr/local/bin/giveback daemon\n" in text
    assert "IPAddressAllow=localhost\n" in text
    alone = systemd_unit.unit_text("/usr/bin/giveback", loopback=False)
    assert "AF_INET" not in alone
    assert "IPAddressAllow" not in alone
    for bad in ("giveback", "/a b/giveback", "/a%n/giveback", "/x\nExecStartPre=/bin/sh"):
        with pytest.raises(InputError, match="a unit cannot contain this path"):
            systemd_unit.unit_text(bad)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    out = io.StringIO()
    logs.set_up(out, "info")
    yield out
    structlog.reset_defaults()
    root.handlers[:], logging.raiseExceptions = before, raises
    root.setLevel(level)


def test_logs_are_json_lines_with_stable_keys(log: io.StringIO) -> None:
    words = structlog.get_logger().bind(vm="qemu/a\x1b[2J/1")
    words.debug("not shown")
    words.info("asked", goal_bytes=4096, said="x\ny" * 1000, raw=b"\xff", more={"k": ["\r"]})
    logging.getLogger("uvicorn.error").error("bad %s", "thing\n")
    logging.getLogger("uvicorn.error").info("chatter")
    try:
        raise ValueError("a\x1b[0m")
    except ValueError:
        words.exception("failed")
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["asked", "bad thing\\n", "failed"]
    assert list(lines[0])[:4] == ["time", "level", "event", "vm"]
    assert lines[0]["vm"] == "qemu/a\\x1b[2J/1"
    assert lines[0]["goal_bytes"] == 4096
    assert len(lines[0]["said"]) < 1100
    assert lines[0]["more"] == {"k": ["\\r"]}
    assert "ValueError" in lines[2]["exception"]
    assert "\x1b" not in lines[2]["exception"]


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=3), st.text())
def test_no_value_breaks_a_line(values: dict[str, object], text: str) -> None:
    safe = logs.made_safe(None, "info", {"event": text, **{f"k{k}": v for k, v in values.items()}})
    assert "\n" not in str(safe["event"])
    assert len(json.dumps(safe, default=str).splitlines()) == 1
