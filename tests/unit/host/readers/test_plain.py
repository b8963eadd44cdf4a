"""Records are converted to plain values and back; any other value is refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.host.readers.plain import decode, encode, pack, unpack
from giveback.vmm.base import (
    Answer,
    Backing,
    Capabilities,
    Channel,
    ChannelKind,
    RamBlock,
    VmDescription,
)

TEXTS = st.text(st.characters(), max_size=20) | st.just("\udcff\x00")
SIZES = st.integers(0, 1 << 57)
VMS = st.builds(
    VmDescription,
    TEXTS,
    TEXTS,
    st.integers(1, 1 << 22),
    SIZES,
    st.lists(
        st.builds(RamBlock, TEXTS, SIZES, st.sampled_from(Backing), TEXTS, shared=st.booleans())
    ).map(tuple),
    st.builds(Capabilities, st.sampled_from(Answer), deflate_on_oom=st.booleans()),
    st.lists(st.builds(Channel, st.sampled_from(ChannelKind), TEXTS, st.integers(0, 9))).map(tuple),
    unread=st.lists(TEXTS).map(tuple),
)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner),
    max_leaves=20,
)


@dataclass(frozen=True)
class Numbers:
    whole: int
    part: float | None
    pairs: tuple[tuple[int, int], ...]


@given(VMS)
def test_a_vm_survives_the_conversion(vm: VmDescription) -> None:
    assert unpack(VmDescription, decode(encode(pack(vm)))) == vm


@given(PLAIN)
def test_values_that_are_not_a_vm_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"not|none|values"):
        unpack(VmDescription, value)


@given(st.binary(max_size=60))
def test_bytes_are_plain_values_or_refused(data: bytes) -> None:
    try:
        decode(data)
    except ValueError:
        return


@pytest.mark.parametrize(
    "value",
    [
        [True, None, []],
        ["1", None, []],
        [1 << 80, None, []],
        [1, "1", []],
        [1, None, [[1, 2, 3]]],
        [1, None, {}],
        [1, None],
        {"whole": 1, "part": None, "pairs": []},
    ],
)
def test_a_field_of_another_type_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match=r"not|none|values|large"):
        unpack(Numbers, value)


def test_a_whole_number_is_accepted_as_a_float() -> None:
    assert unpack(Numbers, [1, 2, [[3, 4]]]) == Numbers(1, 2.0, ((3, 4),))


def test_only_records_and_plain_values_are_packed() -> None:
    with pytest.raises(TypeError, match="object has no plain form"):
        pack((object(),))
    with pytest.raises(ValueError, match="deep"):
        decode(b"[" * 100_000)
