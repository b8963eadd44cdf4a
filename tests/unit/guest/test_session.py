"""Events of a guest are parsed, bounded and rate-limited, whatever it sends."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from giveback.guest import protocol
from giveback.guest.protocol import LineSplitter
from giveback.guest.rate_limits import Backoff, Bucket, Pace

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
NAMES = st.sampled_from(["event", "id", "urgency", "lease_s", "text", "retry_s", "agent", "v"])
SAID = st.dictionaries(
    NAMES, JSON | st.sampled_from(["hello", "step", "memory", "urgency", "error"]), max_size=8
)


@given(st.binary(max_size=200) | SAID.map(lambda said: json.dumps(said).encode()))
def test_no_line_does_harm(line: bytes) -> None:
    event = protocol.parse(line)
    if isinstance(event, protocol.Hello | protocol.StepEvent):
        text = event.agent if isinstance(event, protocol.Hello) else event.text
        assert len(text) < 2000
        assert text.isprintable()
    elif isinstance(event, protocol.Taken):
        assert 0 <= event.lease_s <= 86_400
    elif isinstance(event, protocol.AskRefused):
        assert event.retry_s is None or 0 <= event.retry_s <= 60


def test_each_event_is_parsed() -> None:
    def of(**said: object) -> protocol.Event | None:
        return protocol.parse(json.dumps({"v": 1, **said}).encode())

    assert of(event="hello", agent="0.1") == protocol.Hello("0.1")
    assert of(event="step", step="idle", text="waits\n") == protocol.StepEvent("waits\\n", "idle")
    assert of(event="urgency", id=7, urgency=2, lease_s=60.0) == protocol.Taken(7, 2, 60.0)
    assert of(event="error", id=7, ask="memory", text="no", retry_s=0.2) == protocol.AskRefused(
        7, "no", 0.2
    )
    memory = of(event="memory", id=7, meminfo="x")
    assert isinstance(memory, protocol.MemoryReport)
    assert memory.id == 7
    # Parsed objects need much more memory than the line: the line is kept.
    assert json.loads(memory.line) == memory.said
    for wrong in ({"id": True}, {"id": -1}, {"id": 10**18}, {"id": "7"}, {}):
        assert of(event="memory", **wrong) is None
    assert of(event="urgency", id=7, urgency=2, lease_s=10**400) is None
    assert protocol.parse(b'{"event":"hello","agent":"' + b"x" * 40_000 + b'"}') is None
    assert protocol.parse(b"[" * 30_000) is None


@given(st.lists(st.binary(max_size=30), max_size=30), st.integers(1, 20))
def test_lines_are_split_alike_however_they_arrive(parts: list[bytes], limit: int) -> None:
    lines = LineSplitter(limit)
    got: list[bytes] = []
    for part in parts:
        whole = lines.feed(part)
        if whole is None:
            assert any(len(line) > limit for line in b"".join(parts).split(b"\n"))
            return
        got += whole
    assert got == b"".join(parts).split(b"\n")[:-1]


def test_an_endless_line_does_not_fill_memory() -> None:
    lines = LineSplitter(1000)
    assert lines.feed(b"x" * 1000) == []
    assert lines.feed(b"x") is None
    assert lines.feed(b"") == []


@given(st.lists(st.tuples(st.floats(0, 50), st.floats(0, 10)), max_size=60))
def test_a_bucket_gives_no_more_than_its_rate_and_burst(steps: list[tuple[float, float]]) -> None:
    bucket, now_s, taken = Bucket(5.0, 20.0), 0.0, 0.0
    for amount, pause_s in steps:
        now_s += pause_s
        if bucket.take(amount, now_s):
            taken += amount
    assert taken <= 20.0 + 5.0 * now_s + 1e-6


def test_the_guests_of_one_owner_share_a_rate() -> None:
    pace = Pace(10, 1000, burst_s=2.0)
    assert all(pace.take(1, 10, 0.0) for _ in range(20))
    assert not pace.take(1, 10, 0.0)
    assert pace.take(1, 10, 0.2)
    # Bytes count even if the lines are few; after a while the whole burst is available again.
    assert pace.take(1, 1500, 100.0)
    assert not pace.take(1, 1500, 100.0)
    assert pace.take(20, 500, 200.0)


def test_a_clock_that_goes_backwards_gives_no_tokens() -> None:
    bucket = Bucket(1.0, 1.0)
    assert bucket.take(1, 100.0)
    assert not bucket.take(1, 50.0)
    assert bucket.take(1, 51.0)


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=40))
def test_waits_grow_to_their_limit_and_start_again(chances: list[float]) -> None:
    backoff = Backoff(1.0, 30.0)
    for number, chance in enumerate(chances):
        middle_s = min(30.0, 2.0**number)
        assert 0.5 * middle_s <= backoff.wait_s(chance) <= 1.5 * middle_s
    backoff.reset()
    assert backoff.wait_s(0.5) == 1.0
