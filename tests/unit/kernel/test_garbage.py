"""Whatever a kernel file contains, a parser returns a record or raises KernelFileError."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import (
    buddyinfo,
    cgroup,
    cpustat,
    kmsg,
    lru_gen,
    meminfo,
    page_reporting,
    pagetypeinfo,
    pressure,
    swaps,
    vmstat,
    zoneinfo,
)
from giveback_kernel.errors import KernelFileError

if TYPE_CHECKING:
    from collections.abc import Callable

PARSERS: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "buddyinfo": (buddyinfo.parse, sample("buddyinfo")),
    "cgroup": (cgroup.parse, sample("mountinfo_hybrid")),
    "cpustat": (cpustat.parse, sample("stat")),
    "kmsg": (kmsg.parse, b"6,312,614501,-;hv_balloon: on\n SUBSYSTEM=vmbus\n"),
    "lru_gen": (lru_gen.parse, sample("lru_gen")),
    "lru_gen.enabled": (lru_gen.parse_enabled, b"0x0007\n"),
    "meminfo": (meminfo.parse, sample("meminfo")),
    "page_reporting": (page_reporting.parse, b"9\n"),
    "pagetypeinfo": (pagetypeinfo.parse, sample("pagetypeinfo")),
    "pressure": (pressure.parse, sample("pressure_io")),
    "swaps": (swaps.parse, sample("swaps")),
    "vmstat": (vmstat.parse, sample("vmstat")),
    "zoneinfo": (zoneinfo.parse, sample("zoneinfo")),
}
NAMES = st.sampled_from(sorted(PARSERS))
STRANGE = [b"-1", b"+1", b"1_0", b"0x1", b"1e9", b"nan", b"", b"\n", b"\0", b" ", b"kB", b"Node 0,"]
STRANGE += [b"9" * digits for digits in (19, 20, 5000)]
STRANGE += [b"18446744073709551615", "\N{ARABIC-INDIC DIGIT ONE}".encode()]
NASTY = st.binary(max_size=12) | st.sampled_from(STRANGE)


def survive(parse: Callable[[bytes], object], data: bytes) -> object | None:
    """Parse, and return None where it is refused; a refusal names the file and is short."""
    try:
        return parse(data)
    except KernelFileError as error:
        refusal = str(error)
    assert refusal.startswith("/")
    assert len(refusal) < 500
    return None


@settings(deadline=None)
@given(NAMES, st.binary(max_size=2000))
def test_any_bytes(name: str, data: bytes) -> None:
    survive(PARSERS[name][0], data)


@settings(deadline=None, max_examples=1000)
@given(NAMES, st.data())
def test_a_real_file_with_a_hole_in_it(name: str, data: st.DataObject) -> None:
    parse, whole = PARSERS[name]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(len(whole), start + 30)))
    survive(parse, whole[:start] + data.draw(NASTY) + whole[end:])


@settings(deadline=None, max_examples=1000)
@given(NAMES, st.data())
def test_a_real_file_with_a_strange_word(name: str, data: st.DataObject) -> None:
    parse, whole = PARSERS[name]
    words = whole.split(b" ")
    at = data.draw(st.integers(0, len(words) - 1))
    survive(parse, b" ".join([*words[:at], data.draw(NASTY), *words[at + 1 :]]))


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_file_cut_at_every_byte(name: str) -> None:
    parse, whole = PARSERS[name]
    assert survive(parse, whole) is not None
    for end in range(len(whole)):
        survive(parse, whole[:end])


@pytest.mark.parametrize("name", ["meminfo", "vmstat", "pressure"])
def test_a_cut_loses_values_but_never_alters_one(name: str) -> None:
    parse, whole = PARSERS[name]
    complete = vars(parse(whole))
    read = 0
    for end in range(len(whole)):
        part = survive(parse, whole[:end])
        if part is not None:
            read += 1
            for field, value in vars(part).items():
                # A sum over zones is smaller for the zones that were cut off.
                if field != "allocstall":
                    assert value in (None, complete[field])
    assert read > 0


@pytest.mark.parametrize("name", sorted(PARSERS))
def test_a_huge_file_of_one_byte(name: str) -> None:
    for byte in (b"0", b" ", b"\n", b"\0", b"\xff"):
        survive(PARSERS[name][0], byte * (1 << 20))
