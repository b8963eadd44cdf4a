"""Which kernel a name stands for: searched for in suites, unpacked from either layout of Debian's."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback.errors import InputError
from giveback_lab.images import distribution, kernels
from giveback_lab.packages import apt, sources
from giveback_lab.packages.architecture import ARM64, X86_64
from giveback_lab.packages.sources import AptSource

# A mirror with a few suites and the releases of their kernels. Bullseye has moved to the archive.
SUITES = {
    "mirror/debian bookworm": "6.1.0-9-cloud-amd64 6.1.0-50-cloud-amd64",
    "mirror/debian trixie": "6.12.90+deb13-cloud-amd64",
    "mirror/debian trixie-backports": "7.2.12+deb13-cloud-amd64 7.3.4+deb13-cloud-amd64",
    "mirror/debian sid": "7.2.13+deb14-cloud-amd64 7.2.13+deb14-arm64-16k",
    "debian-archive.test/debian bullseye": "5.10.0-32-cloud-amd64",
    "mirror/ubuntu noble": "6.8.0-9-generic 6.8.0-31-generic",
    "debian-mirror.test/debian trixie": "6.12.90+deb13-cloud-amd64",
}
# Both programs: their answers follow from the private state's list of sources.
APT = """#!/bin/sh
for word in "$@"; do case $word in
Dir::Etc::sourcelist=*) list=$(sed 's/.*http:..//; s/ main$//' "${word#*=}");;
esac; done
releases=
case $list in
%s
*) known=no;;
esac
case "$*" in
*update*) [ -z "$known" ] || { echo "E: $list has no Release file." >&2; exit 100; };;
*search*) for last; do :; done
    for r in $releases; do for part in %s; do
        echo "$part-$r - a package" | grep -E "${last%%$} "'|'"${last%%$}$"
    done; done;;
*show*) echo "Version: 1-1"; echo "Architecture: all";;
*download*) for last; do :; done; cp "%s/$last.deb" "${last}_1-1_all.deb";;
esac
exit 0
"""


class Mirror:
    """Make the packages, and the programs that serve them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "bin").mkdir()
        (root / "debs").mkdir()
        cases = "\n".join(f'"{where}") releases="{r}";;' for where, r in SUITES.items())
        text = APT % (cases, "linux-image linux-modules linux-binary", root / "debs")
        for name in ("apt-get", "apt-cache"):
            (root / "bin" / name).write_text(text)
            (root / "bin" / name).chmod(0o755)

    def be_host(self, monkeypatch: pytest.MonkeyPatch, own: AptSource) -> None:
        for module in (sources, apt):
            monkeypatch.setattr(module, "host_sources", lambda: (own,))
        monkeypatch.setattr(sources, "DEBIAN_MIRROR", "http://debian-mirror.test/debian")
        monkeypatch.setattr(sources, "DEBIAN_ARCHIVE", "http://debian-archive.test/debian")
        distribution._debian_keyring.cache_clear()

    def add(self, name: str, *paths: str) -> None:
        tree = self.root / name
        for path in paths:
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(path)
        (tree / "DEBIAN").mkdir(parents=True)
        fields = (
            f"Package: {name}\nVersion: 1-1\nArchitecture: all\nMaintainer: a\nDescription: b\n"
        )
        (tree / "DEBIAN" / "control").write_text(fields)
        target = str(self.root / "debs" / f"{name}.deb")
        subprocess.run(["dpkg-deb", "-b", str(tree), target], check=True, capture_output=True)

    def add_kernel(self, release: str, new_layout: bool) -> None:
        modules = f"usr/lib/modules/{release}"
        if new_layout:
            self.add(f"linux-binary-{release}", f"{modules}/vmlinuz")
            self.add(f"linux-modules-{release}", f"{modules}/modules.builtin")
            self.add(f"linux-image-{release}", "usr/share/doc/empty")
        else:
            self.add(f"linux-image-{release}", f"boot/vmlinuz-{release}", f"{modules}/kernel/a.ko")
            self.add(f"linux-binary-{release}")
            self.add(f"linux-modules-{release}")


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    found = Mirror(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    found.be_host(monkeypatch, AptSource("http://mirror/debian", "bookworm", "main", ""))
    for module in (kernels, distribution):
        monkeypatch.setattr(module, "host_architecture", lambda: X86_64)
    return found


@pytest.mark.parametrize(
    ("name", "release", "new_layout"),
    [
        ("6.1", "6.1.0-50-cloud-amd64", False),
        (None, "6.12.90+deb13-cloud-amd64", False),
        ("5.10", "5.10.0-32-cloud-amd64", False),
        ("7.2", "7.2.13+deb14-cloud-amd64", True),
        ("trixie-backports", "7.3.4+deb13-cloud-amd64", True),
    ],
)
def test_the_newest_of_a_series_or_suite(
    mirror: Mirror, name: str | None, release: str, new_layout: bool
) -> None:
    mirror.add_kernel(release, new_layout)
    found = kernels.kernel_from_packages(name)
    assert found.release == release
    assert found.image.read_text().endswith(f"vmlinuz{'' if new_layout else f'-{release}'}")
    assert found.modules_dir.is_dir()
    assert found.architecture == X86_64


def test_ubuntu_has_its_own_kernels_and_debians_whose_keys_it_has_signed(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.be_host(monkeypatch, AptSource("http://mirror/ubuntu", "noble", "main", "", "Ubuntu"))
    mirror.add_kernel("6.8.0-31-generic", new_layout=False)
    assert kernels.kernel_from_packages("6.8").release == "6.8.0-31-generic"
    mirror.add("debian-archive-keyring", "usr/share/keyrings/debian-archive-keyring.gpg")
    mirror.add_kernel("6.12.90+deb13-cloud-amd64", new_layout=False)
    assert kernels.kernel_from_packages("6.12").release == "6.12.90+deb13-cloud-amd64"
    distribution._debian_keyring.cache_clear()


def test_another_machine_and_page_size(mirror: Mirror) -> None:
    mirror.add_kernel("7.2.13+deb14-arm64-16k", new_layout=True)
    found = kernels.kernel_from_packages("7.2", ARM64, 16)
    assert (found.release, found.architecture) == ("7.2.13+deb14-arm64-16k", ARM64)


def test_a_series_that_no_suite_has_is_refused_with_what_each_has(mirror: Mirror) -> None:
    with pytest.raises(InputError) as refused:
        kernels.kernel_from_packages("6.6")
    line = str(refused.value)
    assert "\n" not in line
    assert "kernel 6.6: no linux-image-cloud-amd64" in line
    assert "bookworm has 6.1;" in line
    assert "trixie-backports has 7.2, 7.3;" in line
    assert "bookworm-backports: apt-get update: " in line


def test_addresses_that_are_not_set_are_said_once_for_all_suites(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.be_host(monkeypatch, AptSource("http://mirror/ubuntu", "noble", "main", "", "Ubuntu"))
    mirror.add("debian-archive-keyring", "usr/share/keyrings/debian-archive-keyring.gpg")
    monkeypatch.setattr(sources, "DEBIAN_MIRROR", sources.UNSET_MIRROR)
    monkeypatch.setattr(sources, "DEBIAN_ARCHIVE", sources.UNSET_ARCHIVE)
    with pytest.raises(InputError) as refused:
        kernels.kernel_from_packages("6.12")
    line = str(refused.value)
    assert line.count("set GIVEBACK_DEBIAN_MIRROR to one") == 1
    assert "trixie, sid, trixie-backports" in line
    distribution._debian_keyring.cache_clear()


def test_a_kernel_package_without_an_image_is_named(mirror: Mirror) -> None:
    for part in ("image", "binary", "modules"):
        mirror.add(f"linux-{part}-7.3.4+deb13-cloud-amd64")
    with pytest.raises(InputError, match="no vmlinuz"):
        kernels.kernel_from_packages("7.3")


@pytest.mark.parametrize("name", ["", "6", "6.12.1", "Sid", "../x", "6.12\n", "4.19", "5.6", "2.4"])
def test_names_that_can_be_no_guests_kernel(name: str) -> None:
    with pytest.raises(InputError, match="--kernel PATH"):
        kernels.check_kernel_name(name)


@given(st.lists(st.integers(0, 999), min_size=1, max_size=5), st.integers(0, 9))
def test_releases_are_sorted_by_their_numbers(numbers: list[int], more: int) -> None:
    release = ".".join(map(str, numbers)) + "+deb13-cloud-amd64"
    assert kernels.version_key(f"{release}.{more}") > kernels.version_key(release)
    newer = ".".join(map(str, [numbers[0] + 1, *numbers[1:]])) + "+deb13-cloud-amd64"
    assert kernels.version_key(newer) > kernels.version_key(release)
