"""Free page reporting: is it active, and from which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import BALLOON_FEATURES, PLAIN_FEATURES, plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import page_reporting
from giveback_kernel.errors import KernelFileError
from giveback_kernel.kmsg import KernelLog
from giveback_kernel.page_reporting import ORDER_PATH, Balloon, judge, probe

if TYPE_CHECKING:
    from pathlib import Path

SILENT = KernelLog((), True)
BOUND = Balloon("virtio0", reporting=True, page_poison=False, bound=True)
UNBOUND = Balloon("virtio1", reporting=True, page_poison=False, bound=False)
PLAIN = Balloon("virtio2", reporting=False, page_poison=False, bound=True)

HYPERV = "hv_balloon: Cold memory discard hint enabled with order 9"
HYPERV_GAVE_UP = (
    "hv_balloon: Multiple failures in cold memory discard hypercall, disabling page reporting"
)


def balloon_files(features: bytes, name: str = "virtio3") -> dict[str, bytes]:
    device = f"/sys/bus/virtio/devices/{name}"
    return {f"{device}/device": b"0x0005\n", f"{device}/features": features}


@settings(deadline=None)
@given(st.integers(-1, 4000))
def test_an_order_is_read_back(order: int) -> None:
    assert page_reporting.parse(b"%d\n" % order) == order


def test_an_unsigned_minus_one_is_unset() -> None:
    assert page_reporting.parse(b"4294967295\n") == page_reporting.UNSET


@pytest.mark.parametrize("data", [b"", b"\n", b"-2\n", b"nine\n", b"9 9\n", b"4294967296\n"])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="page_reporting_order"):
        page_reporting.parse(data)


def test_the_order_is_written_and_read(tmp_path: Path) -> None:
    assert page_reporting.read_order(str(tmp_path)) is None
    root = plant(tmp_path, {ORDER_PATH: b"-1\n"})
    assert page_reporting.read_order(root) == page_reporting.UNSET
    (tmp_path / ORDER_PATH.lstrip("/")).write_bytes(b"")
    page_reporting.write_order(root, 5)
    assert page_reporting.read_order(root) == 5


@pytest.mark.parametrize("order", [-1, 32, 10**9])
def test_no_kernel_is_told_an_order_that_does_not_exist(tmp_path: Path, order: int) -> None:
    root = plant(tmp_path, {ORDER_PATH: b"9\n"})
    with pytest.raises(KernelFileError, match="is not an order"):
        page_reporting.write_order(root, order)
    assert page_reporting.read_order(root) == 9


def test_a_kernel_without_the_parameter_cannot_be_told(tmp_path: Path) -> None:
    with pytest.raises(KernelFileError, match=str(tmp_path)):
        page_reporting.write_order(str(tmp_path), 9)


@pytest.mark.parametrize(
    ("order", "expected"), [(None, 9), (-1, 9), (0, 0), (5, 5), (9, 9), (11, 11)]
)
def test_the_effective_order(order: int | None, expected: int) -> None:
    assert page_reporting.effective_order(order, 9) == expected


@pytest.mark.parametrize(
    ("order", "types", "expected"),
    [
        (5, b"nonsense", 5),
        (0, None, 0),
        (-1, b"Page block order: 13\nPages per block: 8192\n", 13),
        (None, None, 9),
    ],
)
def test_the_page_block_order_is_read_only_where_the_order_is_unset(
    tmp_path: Path, order: int | None, types: bytes | None, expected: int
) -> None:
    planted = {"/proc/meminfo": sample("meminfo")}
    if types is not None:
        planted["/proc/pagetypeinfo"] = types
    assert page_reporting.read_effective_order(plant(tmp_path, planted), order) == expected


def test_an_unset_order_and_an_unknown_page_block_order_are_unknown() -> None:
    assert page_reporting.effective_order(-1, None) is None
    assert page_reporting.effective_order(None, None) is None


def test_the_page_block_order_is_read_where_this_user_may(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/proc/pagetypeinfo": b"Page block order: 13\nPages per block: 8192\n"})
    assert page_reporting.read_pageblock_order(root) == 13


def test_the_page_block_order_is_derived_where_this_user_may_not(tmp_path: Path) -> None:
    root = plant(tmp_path, {"/proc/meminfo": sample("meminfo")})
    assert page_reporting.read_pageblock_order(root) is not None


@pytest.mark.parametrize(
    ("balloons", "messages", "order", "active", "driver", "words"),
    [
        ((BOUND,), (), 9, True, "virtio_balloon", "virtio0: VIRTIO_BALLOON_F_REPORTING agreed"),
        ((UNBOUND, BOUND), (), 9, True, "virtio_balloon", "virtio0"),
        ((UNBOUND,), ("Free page reporting enabled",), 9, None, None, "no driver is bound"),
        ((PLAIN,), (), 9, False, None, "init_on_free"),
        ((PLAIN,), ("Free page reporting enabled",), 9, True, None, "kernel log"),
        ((), (HYPERV,), 9, True, "hv_balloon", "with order 9"),
        ((), ("Free page reporting enabled", HYPERV), 9, True, "hv_balloon", "with order 9"),
        ((), (HYPERV, HYPERV_GAVE_UP), 9, False, "hv_balloon", "Multiple failures"),
        ((), ("Free page reporting enabled",), 9, True, None, "Free page reporting enabled"),
        ((), ("Free page reporting enabled",), -1, False, None, "no driver registered"),
        ((), (), 9, False, None, "does not say"),
        ((), (), None, False, None, "does not say"),
    ],
)
def test_the_verdict(
    balloons: tuple[Balloon, ...],
    messages: tuple[str, ...],
    order: int | None,
    active: bool | None,
    driver: str | None,
    words: str,
) -> None:
    verdict = judge(balloons, KernelLog(messages, True), order)
    assert verdict[0] is active
    assert verdict[2] == driver
    assert words in verdict[1]


@pytest.mark.parametrize(
    ("log", "words"),
    [
        (KernelLog((), False, "/dev/kmsg: Operation not permitted"), "refused"),
        (KernelLog((), False), "lost its oldest"),
    ],
)
def test_without_evidence_it_cannot_be_told(log: KernelLog, words: str) -> None:
    active, evidence, driver = judge((), log, 9)
    assert active is None
    assert words in evidence
    assert driver is None


def test_probing_a_guest_with_a_reporting_balloon(tmp_path: Path) -> None:
    root = plant(tmp_path, {**balloon_files(BALLOON_FEATURES), ORDER_PATH: b"9\n"})
    (tmp_path / "sys/bus/virtio/devices/virtio3/driver").symlink_to("../../drivers/virtio_balloon")
    state = probe(root)
    assert (state.active, state.order, state.order_settable) == (True, 9, True)
    assert state.evidence.startswith("virtio3")


def test_probing_wsl(tmp_path: Path) -> None:
    state = probe(plant(tmp_path, {"/dev/kmsg": sample("kmsg_hyperv"), ORDER_PATH: b"9\n"}))
    assert (state.active, state.driver) == (True, "hv_balloon")


def test_probing_a_guest_whose_host_offers_no_reporting(tmp_path: Path) -> None:
    state = probe(plant(tmp_path, balloon_files(PLAIN_FEATURES)))
    assert (state.active, state.order, state.order_settable) == (False, None, False)


def test_probing_nothing_at_all(tmp_path: Path) -> None:
    state = probe(str(tmp_path))
    assert state.active is None
    assert "refused" in state.evidence


@pytest.mark.parametrize("features", [b"", b"01", b"\xff" * 200, b"11111x\n"])
def test_strange_features_are_no_reporting(tmp_path: Path, features: bytes) -> None:
    root = plant(tmp_path, {**balloon_files(features), ORDER_PATH: b"what\n"})
    assert probe(root).active is False
    assert probe(root).order is None


def test_other_devices_are_not_balloons(tmp_path: Path) -> None:
    network = {
        "/sys/bus/virtio/devices/virtio0/device": b"0x0001\n",
        "/sys/bus/virtio/devices/virtio0/features": BALLOON_FEATURES,
    }
    root = plant(tmp_path, {**network, **balloon_files(PLAIN_FEATURES)})
    (tmp_path / "sys/bus/virtio/devices/virtio9").mkdir()
    assert [balloon.name for balloon in page_reporting.read_balloons(root)] == ["virtio3"]


def test_this_machine() -> None:
    assert isinstance(probe().evidence, str)


@pytest.mark.parametrize(
    ("driver", "said", "order", "expected"),
    [
        ("virtio_balloon", "", 9, True),
        ("hv_balloon", "Cold memory discard hint enabled", 9, False),
        ("hv_balloon", "Cold memory discard hint enabled", 5, False),
        ("hv_balloon", "Cold memory discard hint enabled with order 9", 9, False),
        ("hv_balloon", "Cold memory discard hint enabled with order 9", 5, True),
        ("hv_balloon", "Cold memory discard hint enabled with order 5", 5, True),
        (None, "Free page reporting enabled", 9, False),
    ],
)
def test_the_order_is_lowered_only_where_the_driver_takes_small_blocks(
    driver: str | None, said: str, order: int, expected: bool
) -> None:
    log = KernelLog((said,), True)
    assert page_reporting.takes_smaller_blocks(driver, log, order) is expected
