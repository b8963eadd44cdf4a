"""/proc/zoneinfo: watermarks and per-CPU lists."""

from __future__ import annotations

import pytest
from agent_kernel_samples import sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import zoneinfo
from giveback_kernel.errors import KernelFileError
from giveback_kernel.zoneinfo import Zone, ZoneInfo

PAGES = st.integers(0, 1 << 40)
ZONES = st.builds(
    Zone,
    st.integers(0, 7),
    st.sampled_from(["DMA", "DMA32", "Normal", "Movable", "Device"]),
    *[PAGES] * 4,
)


def written(zones: list[Zone], cpus: int = 2) -> bytes:
    """Print zoneinfo as Linux 6.1 does; the per-CPU pages all lie on the last CPU."""
    text = ""
    for zone in zones:
        text += f"Node {zone.node}, zone {zone.zone:>8}\n  per-node stats\n      nr_dirty     17\n"
        text += f"  pages free     {zone.free_pages}\n        boost    0\n"
        text += f"        min      6458\n        low      {zone.low_pages}\n"
        text += "        high     9686\n        spanned  4095\n"
        text += f"        present  3998\n        managed  {zone.managed_pages}\n"
        text += "        cma      0\n        protection: (0, 3019, 3659)\n      nr_free_pages 5\n"
        text += "  pagesets\n"
        for cpu in range(cpus):
            count = zone.pcp_pages if cpu == cpus - 1 else 0
            text += f"    cpu: {cpu}\n              count: {count}\n              high:  378\n"
            text += "              batch: 63\n  vm stats threshold: 24\n"
        text += "  node_unreclaimable:  0\n  start_pfn:           4096\n"
    return text.encode()


@settings(deadline=None)
@given(st.lists(ZONES, min_size=1, max_size=5))
def test_what_is_written_is_read_back(zones: list[Zone]) -> None:
    info = zoneinfo.parse(written(zones))
    assert info == ZoneInfo(tuple(zones))
    assert zoneinfo.pcp_pages(info) == sum(zone.pcp_pages for zone in zones)


def test_a_real_file() -> None:
    info = zoneinfo.parse(sample("zoneinfo"))
    assert [zone.zone for zone in info.zones] == ["DMA", "DMA32", "Normal", "Movable", "Device"]
    dma32 = info.zones[1]
    assert dma32.low_pages == 8072
    assert info.zones[2].pcp_pages > 0
    assert info.zones[3].managed_pages == 0
    assert not zoneinfo.below_low_watermark(info)


def test_this_machine() -> None:
    assert any(zone.managed_pages for zone in zoneinfo.read_zoneinfo().zones)


def zone(name: str, free: int, low: int, managed: int) -> Zone:
    return Zone(0, name, free, low, managed, 0)


@pytest.mark.parametrize(
    ("zones", "expected"),
    [
        ((zone("Normal", 99, 100, 10_000),), True),
        ((zone("Normal", 100, 100, 10_000),), False),
        ((zone("DMA", 1, 100, 400), zone("Normal", 500, 100, 10_000)), False),
        ((zone("Movable", 0, 32, 0), zone("Normal", 500, 100, 10_000)), False),
        ((zone("DMA32", 5000, 100, 9_000), zone("Normal", 9, 100, 10_000)), True),
        ((), False),
    ],
)
def test_below_the_low_watermark(zones: tuple[Zone, ...], expected: bool) -> None:
    assert zoneinfo.below_low_watermark(ZoneInfo(zones)) is expected


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"        low      40\n", b""),
        (b"        low      40\n", b"        low      -40\n"),
        (b"        managed  3840\n", b"        managed  99999999999999999999\n"),
        (b"              count:    0\n", b"              count:    none\n"),
        (b"Node 0, zone      DMA\n", b"Node zero, zone      DMA\n"),
        (b"Node 0, zone      DMA\n", b"Zone\n"),
        (b"  pages free     3840\n", b""),
    ],
)
def test_nonsense_is_refused(old: bytes, new: bytes) -> None:
    data = sample("zoneinfo")
    assert old in data
    with pytest.raises(KernelFileError, match="/proc/zoneinfo"):
        zoneinfo.parse(data.replace(old, new, 1))
