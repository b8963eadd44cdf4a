"""The benchmark's strategies by name, and what each consists of."""

from __future__ import annotations

import asyncio
import inspect
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback.guest import zipapps
from giveback_agent.settings import load
from giveback_lab.bench.strategies import PARTS, STRATEGIES, damon, named
from giveback_lab.bench.strategies.proxmox import free_bytes
from giveback_lab.bench.strategies.running import InGuests
from giveback_lab_guest.strategies import NAMES, strategy
from giveback_lab_guest.strategies.knobs import set_all

DOCS = Path(__file__).parents[5] / "docs"
IOMEM = """00000000-00000fff : Reserved
00001000-0009fbff : System RAM
00100000-bfffffff : System RAM
  01000000-01ffffff : Kernel code
fec00000-fec003ff : IOAPIC 0
100000000-13fffffff : System RAM
"""


def test_none_comes_first_and_every_name_is_fit_for_a_file() -> None:
    assert next(iter(STRATEGIES)) == "none"
    for name, one in STRATEGIES.items():
        assert name == one.name
        assert name.replace("-", "").isalnum()
        assert name.islower()
        assert inspect.iscoroutinefunction(one.start)
    assert {part.name for part in PARTS} < set(STRATEGIES)
    assert not STRATEGIES["none"].reporting
    assert all(one.reporting for name, one in STRATEGIES.items() if name != "none")


def test_the_issues_strategies_are_all_there() -> None:
    wanted = (
        "none,reporting,order-0,wsl-2019,wsl-gen1-dropcache,wsl-gen1-gradual,wsl-gen2-dropcache,"
        "wsl-gen2-gradual,kata-compact,kata-memcg,senpai,damon-reclaim,damon-agentenv,proxmox,"
        "proactive-20,proactive-100,giveback"
    )
    assert [one.name for one in named(wanted)] == wanted.split(",")


def test_who_re_implements_says_so() -> None:
    for name, one in STRATEGIES.items():
        foreign = name.startswith(("wsl", "kata", "senpai", "proxmox"))
        assert ("re-implementation" in one.title) == foreign, name


def test_every_strategy_is_in_the_table_for_users() -> None:
    table = (DOCS / "strategies.md").read_text()
    for name in STRATEGIES:
        assert f"| `{name}` |" in table, name


def test_named_keeps_the_order_and_takes_each_once() -> None:
    assert [one.name for one in named("giveback, none,giveback")] == ["giveback", "none"]


def test_a_family_stands_for_its_members() -> None:
    assert [one.name for one in named("wsl-gen2,senpai")] == [
        "wsl-gen2-dropcache",
        "wsl-gen2-gradual",
        "senpai",
    ]
    assert {one.name for one in named("damon")} == {"damon-reclaim", "damon-agentenv"}
    assert [one.name for one in named("giveback")] == ["giveback"]


@pytest.mark.parametrize("words", ["nosuch", "none,nosuch", "", " , "])
def test_an_unknown_name_is_named_with_the_known_ones(words: str) -> None:
    with pytest.raises(InputError) as caught:
        named(words)
    assert "none, reporting" in str(caught.value)
    if "nosuch" in words:
        assert "'nosuch'" in str(caught.value)


def test_every_setting_of_a_part_is_one_the_agent_takes() -> None:
    from giveback_lab.bench.strategies import giveback

    words = (giveback.NO_CACHE, giveback.NO_COMPACTION, giveback.NO_DEEP_REPORT)
    for one in (*words, *giveback.SLOW_GATE):
        load.load("/nonexistent", [one])


def test_damon_is_known_to_be_missing_in_debians_6_1() -> None:
    for name, one in STRATEGIES.items():
        assert one.unsupported("6.12") is None
        assert (one.unsupported("6.1") is not None) == name.startswith("damon"), name


def test_ram_is_on_both_sides_of_the_hole() -> None:
    pieces = damon.ram_pieces(IOMEM)
    assert max(end for _, end in pieces) == 5 << 30
    assert all(begin < end for begin, end in pieces)
    assert damon.ram_pieces("00000000-00000000 : System RAM\n") == []
    assert damon.ram_pieces("") == []


@given(st.text())
def test_any_iomem_is_read(text: str) -> None:
    damon.ram_pieces(text + "\n")


def test_damon_has_its_modules_constants() -> None:
    files = damon.files_of(damon.DamonReclaim(), 4096, 1 << 30)
    assert files[f"{damon.SCHEME}/access_pattern/age/min"] == "1200"
    assert not any("filters" in path for path in files)
    files = damon.files_of(damon.AGENTENV, 4096, 1 << 30)
    assert files[f"{damon.SCHEME}/access_pattern/age/min"] == "1"
    assert files[f"{damon.SCHEME}/filters/0/type"] == "anon"


@pytest.mark.parametrize(
    ("stats", "expected"),
    [
        ({"stats": {"stat-free-memory": 1000}}, 1000),
        ({"stats": {"stat-free-memory": (1 << 64) - 1}}, None),
        ({"stats": {"stat-free-memory": -1}}, None),
        ({"stats": {}}, None),
        ({"stats": 3}, None),
        ([], None),
    ],
)
def test_a_guests_free_memory_is_believed_within_its_ram(
    stats: object, expected: int | None
) -> None:
    assert free_bytes(stats, 1 << 30) == expected


def test_subpackages_are_packed_for_the_guest() -> None:
    import io
    import zipfile

    packed = zipfile.ZipFile(io.BytesIO(zipapps.lab_guest_zipapp())).namelist()
    for name in ("__init__", "loop", "small", "wsl", "kata_memcg", "giveback_without"):
        assert f"giveback_lab_guest/strategies/{name}.py" in packed


def test_what_was_never_started_is_stopped_twice() -> None:
    async def stop() -> InGuests:
        running = InGuests()
        await running.stop()
        await running.stop()
        return running

    running = asyncio.run(stop())
    assert (running.problems, running.log, running.guest_pids) == ([], "", {})


def test_the_guests_program_names_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert strategy([]) == 2
    assert strategy(["nosuch"]) == 2
    said = capsys.readouterr().err
    assert "'nosuch'" in said
    assert all(name in said for name in NAMES)


def test_set_says_what_was_there_and_stops_at_what_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "knob").write_text("20\n")
    (tmp_path / "other").write_text("Y\n")
    root = str(tmp_path)
    assert set_all(root, ["/knob=00", "/none=1", "/other=N"]) == 1
    first, second = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first == {"path": "/knob", "before": "20", "after": "00"}
    assert "refused" in second
    assert (tmp_path / "other").read_text() == "Y\n"


def test_set_notices_what_did_not_take(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A kernel file that ignores writes: its text is longer, so that the write does not replace all
    # of it.
    (tmp_path / "knob").write_text("9\n9\n9\n")
    assert set_all(str(tmp_path), ["/knob=5"]) == 1
    assert json.loads(capsys.readouterr().out)["after"] != "5"
