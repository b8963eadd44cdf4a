"""Rows of services and containers: they do not overlap, and never add up to more than the total."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.cgroups import names
from giveback_agent.cgroups.rows import (
    ENDED,
    LINES_LIMIT_CHARS,
    OTHERS,
    CgroupRow,
    EndedPages,
    InnerCgroup,
    as_lines,
    joined,
    largest,
    unit_row,
)
from giveback_agent.host_link.json_lines import encode
from giveback_kernel.memcg_usage import MemcgUsage, add

MIB = 1 << 20
ID = "0123456789ab" + "c" * 52
SCOPE = f"/machine.slice/libpod-{ID}.scope"

amounts = st.integers(0, 1 << 40)
usages = st.builds(MemcgUsage, amounts, amounts, amounts, amounts, amounts)
paths = st.lists(st.sampled_from(["a.slice", "b.slice", "x.service", "y", ID]), max_size=4).map(
    lambda parts: "/" + "/".join(parts)
)


def total_of(rows: list[CgroupRow] | tuple[CgroupRow, ...]) -> MemcgUsage:
    total = MemcgUsage()
    for row in rows:
        total = add(total, row.usage)
    return total


def cache(bytes_: int) -> MemcgUsage:
    return MemcgUsage(cache_bytes=bytes_, cold_bytes=bytes_)


def test_what_ended_is_taken_out_of_the_slice_that_it_was_in() -> None:
    live = [unit_row("/machine.slice/x.service", cache(10))]
    inner = {"/": InnerCgroup(cache(5)), "/machine.slice": InnerCgroup(cache(100))}
    rows = joined(live, inner, [EndedPages(f"{SCOPE}/container", 0, 80), EndedPages(SCOPE, 0, 15)])
    by_kind = {(row.kind, row.name): row.usage.cache_bytes for row in rows}
    assert by_kind == {
        ("service", "x.service"): 10,
        ("ended", "podman 0123456789ab"): 95,
        ("slice", "the root cgroup"): 5,
        ("slice", "machine.slice"): 5,
    }


def test_a_service_that_was_started_again_keeps_what_is_its_own() -> None:
    live = [unit_row("/a.slice/x.service", cache(10))]
    inner = {"/": InnerCgroup(MemcgUsage()), "/a.slice": InnerCgroup(cache(7))}
    rows = joined(live, inner, [EndedPages("/a.slice/x.service", 0, 50)])
    assert [(row.kind, row.usage.cache_bytes) for row in rows if row.usage.held_bytes] == [
        ("service", 10),
        ("ended", 7),
    ]


def test_the_anonymous_list_of_an_ended_cgroup_holds_its_shared_memory_too() -> None:
    inner = {"/": InnerCgroup(MemcgUsage(anon_bytes=3, shared_bytes=40))}
    rows = joined([], inner, [EndedPages("/gone.service", 30, 0)])
    assert rows[0].usage == MemcgUsage(anon_bytes=3, shared_bytes=27)


def test_without_the_kernels_list_what_a_slice_has_beyond_its_children_is_of_ended_ones() -> None:
    rest = MemcgUsage(1, 50, 50, 2, 4)
    inner = {
        "/": InnerCgroup(rest, 3),
        "/a.slice": InnerCgroup(rest, 2),
        "/b.slice": InnerCgroup(rest, 0),
        "/c.slice": InnerCgroup(rest, 2, is_whole=False),
    }
    rows = joined([], inner, None)
    assert [(row.kind, row.name) for row in rows if row.kind == ENDED] == [(ENDED, "2 in a.slice")]
    assert total_of(rows) == MemcgUsage(4, 200, 200, 8, 16)


@given(
    st.dictionaries(paths, usages, max_size=6),
    st.dictionaries(paths, usages, max_size=4),
    st.none() | st.lists(st.builds(EndedPages, paths, amounts, amounts), max_size=6),
    usages,
    st.integers(3, 8),
)
def test_rows_are_never_more_than_the_guest_has_nor_below_zero(
    live: dict[str, MemcgUsage],
    inner: dict[str, MemcgUsage],
    ended: list[EndedPages] | None,
    total: MemcgUsage,
    limit: int,
) -> None:
    split = {path: InnerCgroup(usage, 1) for path, usage in inner.items()}
    units = [unit_row(path, usage) for path, usage in live.items() if path not in split]
    whole = add(total_of(units), total_of([unit_row(p, u) for p, u in inner.items()]))
    rows = joined(units, split, ended)
    for name in ("anon_bytes", "cache_bytes", "shared_bytes", "kernel_bytes"):
        assert getattr(total_of(rows), name) == getattr(whole, name)
    shown = largest(rows, total, limit)
    assert len(shown) <= limit
    for name in ("anon_bytes", "cache_bytes", "shared_bytes", "kernel_bytes"):
        assert getattr(total_of(shown), name) <= getattr(total, name)
    for row in shown:
        assert 0 <= row.usage.cold_bytes <= row.usage.cache_bytes
        assert min(getattr(row.usage, name) for name in MemcgUsage._fields) >= 0


def test_the_smallest_are_summed_up_and_what_ended_apart() -> None:
    rows = [CgroupRow(names.SERVICE, f"{n}.service", f"/{n}", cache(n + 1)) for n in range(30)]
    rows.append(CgroupRow(ENDED, "gone", "/gone", cache(1)))
    shown = largest(rows, cache(1 << 40), 20)
    assert len(shown) == 20
    assert [(row.kind, row.name) for row in shown[-2:]] == [
        (OTHERS, "12 others"),
        (ENDED, "1 others"),
    ]
    assert total_of(shown) == total_of(rows)


@given(st.lists(st.text(max_size=300), max_size=20))
def test_strange_names_are_cut_and_escaped_and_fit_the_line(strange: list[str]) -> None:
    rows = [CgroupRow(names.SERVICE, text, text, cache(1)) for text in strange]
    lines = as_lines(rows)
    assert all(
        (len(line.split("\t")) == 8 and line.isprintable()) or "\t" in line for line in lines
    )
    assert all(part.isprintable() for line in lines for part in line.split("\t"))
    assert len(encode(lines)) <= LINES_LIMIT_CHARS + 3 * len(lines) + 2
    assert len(lines) == len(rows) or len(encode(lines)) > LINES_LIMIT_CHARS // 2
