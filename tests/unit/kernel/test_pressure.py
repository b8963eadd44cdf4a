"""/proc/pressure."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest
from agent_kernel_samples import plant, sample
from hypothesis import given, settings
from hypothesis import strategies as st

from giveback_kernel import files, pressure
from giveback_kernel.errors import KernelFileError
from giveback_kernel.pressure import Pressure, Stall

if TYPE_CHECKING:
    from pathlib import Path

AVERAGES = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)
STALLS = st.builds(Stall, AVERAGES, AVERAGES, AVERAGES, st.integers(0, 1 << 60))


def written(stall: Stall) -> str:
    averages = f"avg10={stall.avg10:.2f} avg60={stall.avg60:.2f} avg300={stall.avg300:.2f}"
    return f"{averages} total={stall.total_us}\n"


@settings(deadline=None)
@given(st.builds(Pressure, STALLS, st.none() | STALLS))
def test_what_is_written_is_read_back(one: Pressure) -> None:
    text = "some " + written(one.some)
    if one.full is not None:
        text += "full " + written(one.full)
    assert pressure.parse(text.encode()) == one


@pytest.mark.parametrize("resource", pressure.RESOURCES)
def test_real_files(resource: str, tmp_path: Path) -> None:
    data = sample(f"pressure_{resource}")
    root = plant(tmp_path, {pressure.path_of(resource): data})
    read = pressure.read_pressure(resource, root)
    assert read == pressure.parse(data)
    assert read is not None
    assert read.full is not None


def test_a_kernel_without_psi(tmp_path: Path) -> None:
    assert pressure.read_pressure("memory", str(tmp_path)) is None


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.EOPNOTSUPP, None), (errno.ENOENT, None), (errno.EIO, "raised")]
)
def test_psi_switched_off(
    number: int, expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only a kernel booted with psi=0 fails so: no plain file does.
    def refuse(root: str, path: str) -> bytes:
        raise KernelFileError(root + path, "refused", number)

    monkeypatch.setattr(files, "read", refuse)
    if expected is None:
        assert pressure.read_pressure("io") is None
    else:
        with pytest.raises(KernelFileError):
            pressure.read_pressure("io")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=-1\n",
        b"some avg10=101.00 avg60=0.00 avg300=0.00 total=1\n",
        b"some avg10=nan avg60=0.00 avg300=0.00 total=1\n",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1",
        b"some avg10=0.00 avg60=0.00 avg300=0.00 total=1\nfull\n",
    ],
)
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(KernelFileError, match="/proc/pressure/cpu"):
        pressure.parse(data, "/proc/pressure/cpu")
