"""A guest's rows of services and containers: bounded, safe to print, at most its total memory."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from observations import GUEST, observation

from giveback.accounting.cgroups import (
    NAME_LIMIT_CHARS,
    ROWS_LIMIT,
    CgroupKind,
    GuestCgroup,
    cold_parts,
    ended_bytes,
    ended_parts,
    parse,
    programs,
)
from giveback.accounting.diagnosis import remedies
from giveback.accounting.usage import GuestSource
from giveback.guest import protocol
from giveback.reporters import cgroup_table, explanation
from giveback_agent.cgroups import rows as agent_rows
from giveback_kernel.memcg_usage import MemcgUsage

MIB = 1 << 20
TOTAL = 1 << 30
amounts = st.integers(0, 1 << 29)


def row(kind: str, name: str, anon: int = 0, cache: int = 0, cold: int = 0) -> GuestCgroup:
    return GuestCgroup(
        CgroupKind(kind), name, f"/{name}", anon * MIB, cache * MIB, cold * MIB, 0, 0
    )


@given(
    st.lists(
        st.builds(
            agent_rows.CgroupRow,
            st.sampled_from([kind.value for kind in CgroupKind]),
            st.text("abc@-. \u00e9", min_size=1, max_size=30),
            st.text("abc/", max_size=30),
            st.builds(MemcgUsage, amounts, amounts, st.just(0), amounts, amounts),
        ),
        max_size=20,
    )
)
def test_the_host_parses_the_rows_that_the_agent_writes(sent: list[agent_rows.CgroupRow]) -> None:
    got = parse(agent_rows.as_lines(sent), 1 << 50)
    assert [(one.kind, one.name, one.path) for one in got] == [
        (o.kind, o.name, o.path) for o in sent
    ]
    for one, other in zip(got, sent, strict=True):
        assert one.held_bytes == other.usage.held_bytes


@given(
    st.lists(
        st.text(max_size=60)
        | st.lists(st.integers(-1, 1 << 70).map(str), min_size=5, max_size=5).map(
            lambda numbers: "\t".join(["ended", *numbers, "a\x1b[2J", "/b"])
        ),
        max_size=60,
    )
    | st.none()
    | st.text()
)
def test_a_guest_that_lies_is_bounded(said: object) -> None:
    got = parse(said, TOTAL)
    assert len(got) <= ROWS_LIMIT
    assert sum(one.held_bytes for one in got) <= TOTAL
    for one in got:
        assert 0 <= one.cold_bytes <= one.cache_bytes
        assert one.name.isprintable()
        assert one.path.isprintable()
    text = cgroup_table.text(got)
    assert all(line.isprintable() and len(line) <= 80 for line in text.splitlines())


def test_a_name_is_cut_and_a_malformed_line_is_left_out() -> None:
    long = "\t".join(["service", *"12121", "x" * 1000, "/x"])
    assert len(parse([long], TOTAL)[0].name) == NAME_LIMIT_CHARS
    for bad in ("", "service", long + "\tmore", long.replace("service", "thing"), "x" * 5000, 7):
        assert parse([bad], TOTAL) == ()
    assert len(parse([long] * 50, TOTAL)) == ROWS_LIMIT


def test_the_agents_rows_come_with_its_memory() -> None:
    line = "\t".join(["container", "1048576", "0", "0", "0", "0", "podman web", "/a"])
    meminfo = "".join(
        f"{name}: {value} kB\n"
        for name, value in [
            ("MemTotal", 1 << 20), ("MemFree", 1 << 19), ("MemAvailable", 1 << 19), ("Buffers", 0),
            ("Cached", 0), ("Active(anon)", 0), ("Inactive(anon)", 0), ("Active(file)", 0),
            ("Inactive(file)", 0), ("SwapTotal", 0), ("SwapFree", 0), ("Dirty", 0), ("Writeback", 0),
            ("AnonPages", 0), ("Mapped", 0), ("Shmem", 0), ("Slab", 0), ("SReclaimable", 0),
            ("SUnreclaim", 0),
        ]
    )  # fmt: skip
    said: dict[str, object] = {"meminfo": meminfo, "cgroups": [line]}
    guest = protocol.from_agent(said, GuestSource.AGENT)
    assert [one.name for one in guest.cgroups] == ["podman web"]
    # A guest whose numbers are refused has no rows either.
    assert protocol.from_agent({**said, "meminfo": ""}, GuestSource.AGENT).cgroups == ()
    assert b'"cgroups":true' in protocol.ask("memory", 1, by_cgroup=True)
    assert b"cgroups" not in protocol.ask("memory", 1)


def test_a_remedy_names_the_container() -> None:
    rows = (
        row("container", "podman web", anon=20, cache=60, cold=50),
        row("ended", "past.service", cache=40),
        row("service", "db.service", anon=300),
        row("slice", "a.slice", cache=12, cold=12),
        row("others", "9 others", cache=30, cold=30),
        row("service", "small.service", cache=7, cold=7),
    )
    assert cold_parts(rows) == (
        ("podman web: cold", 50 * MIB),
        ("a.slice itself: cold", 12 * MIB),
    )
    assert ended_parts(rows) == (("past.service ended and left it behind", 40 * MIB),)
    assert ended_bytes(rows) == 40 * MIB
    assert programs(rows, 100 * MIB) == (("db.service", 300 * MIB),)
    seen = observation(guest=replace(GUEST, cgroups=rows))
    said = {one.what: one for one in remedies(seen)}
    # The bytes are at most the ledger's own 100 MiB of anonymous memory.
    assert said["stop or restart db.service in the guest"].expected_bytes == 100 * MIB
    text = explanation.text(seen)
    assert "      50 MiB: podman web: cold" in text
    assert "      40 MiB: past.service ended and left it behind" in text
    guest = explanation.document(seen)["guest"]
    assert isinstance(guest, dict)
    assert [one["name"] for one in guest["cgroups"]] == [one.name for one in rows]


def test_cache_of_ended_units_is_named_if_the_agent_takes_nothing() -> None:
    """An agent whose mode is disabled says so; the owner of the cache is the same."""
    rows = (row("ended", "past.service", cache=40),)
    guest = replace(GUEST, cgroups=rows, would_take_bytes=0)
    text = explanation.text(observation(guest=guest))
    assert "reclaim the guest's cold page cache" not in text
    assert "      40 MiB: past.service ended and left it behind" in text
