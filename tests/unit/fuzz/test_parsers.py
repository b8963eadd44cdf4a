"""Every parser of foreign bytes, over its corpus and mutations of it; tools/fuzz.py runs for longer."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[3] / "tools"))

from fuzz import harnesses
from fuzzing.harness import GROWTH_LIMIT, INPUT_LIMIT_BYTES, FoundError, Harness, weight
from fuzzing.mutate import NASTY, mutated

HARNESSES = sorted(harnesses().values(), key=lambda one: one.name)
QUICK = [one for one in HARNESSES if not one.is_slow]
INPUTS, SLOW_INPUTS = 12_000, 150


@pytest.mark.parametrize("harness", HARNESSES, ids=lambda one: one.name)
def test_a_parser_raises_its_own_error_and_makes_little_of_little(harness: Harness) -> None:
    corpus = harness.corpus()
    for data in (b"", *corpus, *(one * 20 for one in NASTY)):
        harness.try_one(data[:INPUT_LIMIT_BYTES], weigh=True)
    chance = random.Random(harness.name)  # the same inputs at every run
    for number in range(SLOW_INPUTS if harness.is_slow else INPUTS):
        data = mutated(chance, corpus, harness.tokens, 4096)
        harness.try_one(data, weigh=number % 16 == 0)


@pytest.mark.parametrize("harness", QUICK, ids=lambda one: one.name)
def test_four_times_the_input_takes_four_times_the_work(harness: Harness) -> None:
    for part in (*harness.seeds, *harness.tokens):
        assert harness.growth(part[:1000] + b"\n", 6) < GROWTH_LIMIT, part


def test_what_breaks_a_promise_is_found() -> None:
    def fails(data: bytes) -> object:
        if data == b"large":
            return [b"x"] * 10_000_000
        return [0, 1][int(data)]

    harness = Harness("broken", fails, ())
    harness.try_one(b"1")
    for data, words in ((b"2", "IndexError"), (b"x", "ValueError")):
        with pytest.raises(FoundError, match=words):
            harness.try_one(data)
    with pytest.raises(FoundError, match="became more than"):
        harness.try_one(b"large", weigh=True)
    assert weight({"a": ["bcd", (1, 2)]}, 100) == 1 + 2 + 1 + 4 + 1 + 2


def test_every_kind_of_foreign_bytes_has_a_harness() -> None:
    names = {one.name for one in HARNESSES}
    assert names >= {
        "wire-from-guest", "wire-from-host", "qmp", "http-answer", "command-line-qemu", "readconfig",
        "domain-xml", "wslconfig", "settings-toml", "meminfo", "zoneinfo", "buddyinfo", "smaps",
        "lru-gen", "cpustat", "pagetypeinfo", "lease", "history",
    }  # fmt: skip
