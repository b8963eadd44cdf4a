"""The benchmark's plan: every cell once a round, in an order that favours no strategy; resumable."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from giveback_lab.bench.model import Cell
from giveback_lab.bench.run.plan import DECISIVE, Wish, differences, plan, remaining_s, rotated

NAMES = st.lists(st.sampled_from("abcdefghij"), min_size=1, max_size=8, unique=True).map(tuple)
WISHES = st.builds(
    Wish,
    kernels=st.sampled_from([("6.12",), ("6.1", "6.12")]),
    mem_bytes=st.sampled_from([(1 << 30,), (1 << 29, 1 << 31)]),
    works=NAMES,
    strategies=NAMES,
    runs=st.integers(1, 9),
)
VERSIONS = {**dict.fromkeys(DECISIVE, "1"), "agent": "1", "python": "3.11"}


@given(WISHES)
def test_every_combination_is_measured_once_in_each_round(wish: Wish) -> None:
    cells = plan(wish)
    combinations = len(wish.kernels) * len(wish.mem_bytes) * len(wish.works) * len(wish.strategies)
    assert len({cell.key for cell in cells}) == len(cells) == combinations * wish.runs
    assert [cell.round for cell in cells] == sorted(cell.round for cell in cells)
    for number in range(1, wish.runs + 1):
        assert sum(cell.round == number for cell in cells) == combinations


@given(WISHES)
def test_within_a_round_and_a_work_the_strategies_take_turns(wish: Wish) -> None:
    count = len(wish.strategies)
    cells = plan(wish)
    for start in range(0, len(cells), count):
        block = cells[start : start + count]
        assert len({(c.kernel, c.mem_bytes, c.work, c.round) for c in block}) == 1
        assert {cell.strategy for cell in block} == set(wish.strategies)


@given(NAMES, st.integers(1, 12))
def test_as_many_strategies_begin_a_round_as_can(names: tuple[str, ...], runs: int) -> None:
    firsts = [rotated(names, number, runs)[0] for number in range(1, runs + 1)]
    assert len(set(firsts)) == min(runs, len(names))
    assert max(map(firsts.count, firsts)) - min(map(firsts.count, names)) <= 1


@given(WISHES)
def test_more_rounds_leave_the_cells_of_fewer_as_they_were(wish: Wish) -> None:
    more = Wish(
        kernels=wish.kernels, mem_bytes=wish.mem_bytes, works=wish.works,
        strategies=wish.strategies, runs=wish.runs + 1,
    )  # fmt: skip
    assert set(plan(wish)) <= set(plan(more))


def cell_of(strategy: str) -> Cell:
    return Cell("6.12", 1 << 30, "files", strategy, 1)


def test_a_result_counts_only_for_what_it_was_measured_with() -> None:
    assert differences(cell_of("none"), VERSIONS, VERSIONS) == []
    for name in DECISIVE:
        (said,) = differences(cell_of("none"), {**VERSIONS, name: "0"}, VERSIONS)
        assert said == f"{name} was 0 and is 1"
    assert differences(cell_of("none"), {**VERSIONS, "python": "3.10"}, VERSIONS) == []


def test_another_agent_decides_only_where_it_is_at_work() -> None:
    older = {**VERSIONS, "agent": "0"}
    for name in ("giveback", "giveback-no-cache"):
        assert differences(cell_of(name), older, VERSIONS) == ["agent was 0 and is 1"]
    for name in ("none", "wsl-gen2-gradual", "givebacks"):
        assert differences(cell_of(name), older, VERSIONS) == []


def test_a_result_without_a_version_is_measured_again() -> None:
    assert len(differences(cell_of("giveback"), {}, VERSIONS)) == len(DECISIVE) + 1


def test_the_time_left_is_what_cells_of_the_same_work_took() -> None:
    took = {"files": [100.0, 120.0], "hogs": [50.0], "build": []}
    assert remaining_s(took, ["files", "files", "hogs"], 1.0) == 270.0
    assert remaining_s(took, ["build"], 1.0) == 80.0
    assert remaining_s({}, ["build", "hogs"], 240.0) == 480.0
