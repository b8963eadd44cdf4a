"""Where packages come from: the host's own sources, other suites of its mirror, Debian's archive."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from giveback.errors import InputError
from giveback_lab.images import distribution
from giveback_lab.packages import architecture, container_host, sources
from giveback_lab.packages.architecture import ARM64, X86_64, host_architecture
from giveback_lab.packages.sources import AptSource, suite_sources

KEYRING = Path("/cache/keyring.gpg")
DEBIAN = AptSource("http://mirror/debian", "bookworm", "main contrib", "/keys.gpg")
SECURITY = AptSource("http://mirror/debian-security", "bookworm-security", "main", "/keys.gpg")
UBUNTU = AptSource("http://mirror/ubuntu", "noble", "main universe", "/ubuntu.gpg", "Ubuntu")


def host(monkeypatch: pytest.MonkeyPatch, *own: AptSource) -> None:
    monkeypatch.setattr(sources, "host_sources", lambda: own)


def test_another_suite_is_of_the_hosts_own_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, SECURITY, DEBIAN)
    assert [s.line() for s in suite_sources("sid", None)] == [
        "deb [signed-by=/keys.gpg] http://mirror/debian sid main contrib",
        "deb [signed-by=/keys.gpg check-valid-until=no] http://debian-archive.invalid/debian sid main",
    ]


def test_ubuntu_takes_debians_suites_from_debian_with_debians_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    host(monkeypatch, UBUNTU)
    assert not sources.is_debian()
    first, _ = suite_sources("trixie", KEYRING)
    assert (
        first.line() == f"deb [signed-by={KEYRING}] http://debian-mirror.invalid/debian trixie main"
    )
    (own,) = suite_sources("jammy", KEYRING)
    assert own.line() == "deb [signed-by=/ubuntu.gpg] http://mirror/ubuntu jammy main universe"


@pytest.mark.parametrize(
    ("said", "found"),
    [("x86_64", X86_64), ("amd64", X86_64), ("aarch64", ARM64), ("arm64", ARM64)],
)
def test_the_hosts_machine(
    monkeypatch: pytest.MonkeyPatch, said: str, found: architecture.Architecture
) -> None:
    monkeypatch.setattr("platform.machine", lambda: said)
    assert host_architecture() == found


def test_a_machine_without_guests_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with pytest.raises(InputError, match=r"riscv64.*x86_64, aarch64"):
        host_architecture()


def test_page_sizes_that_a_machine_has_not_are_named() -> None:
    assert ARM64.flavour(16) == "arm64-16k"
    with pytest.raises(InputError, match="x86_64: no kernel with 16 KiB pages, only 4 KiB"):
        X86_64.flavour(16)


def test_the_container_command_does_what_was_asked_here(monkeypatch: pytest.MonkeyPatch) -> None:
    # As from a checkout, wherever the tested package is installed.
    source = Path(__file__).parents[4] / "src/giveback_lab/packages/container_host.py"
    monkeypatch.setattr(container_host, "__file__", str(source))
    words = shlex.split(container_host.container_command(("bench", "--work", "files, hogs")))
    assert words[1:4] == ["run", "--rm", "-it"]
    assert words[0] in ("podman", "docker")
    checkout = words[words.index("-v") + 1].removesuffix(":/giveback:ro")
    assert (Path(checkout) / "run").is_file()
    script = words[-1]
    assert words[-3:-1] == ["sh", "-c"]
    # The container's shell gets it as one word.
    assert shlex.split(script)[-4:] == [
        "/lab/.venv/bin/giveback", "bench", "--work", "files, hogs",
    ]  # fmt: skip
    assert f"{Path.cwd()}:/out" in words


def test_the_container_command_without_a_checkout_says_where_it_belongs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(container_host, "__file__", str(tmp_path / "a/b/c/d.py"))
    command = container_host.container_command(())
    assert "PATH-OF-A-GIVEBACK-CHECKOUT:/giveback:ro" in command
    assert command.endswith("/lab/.venv/bin/giveback demo'")


def test_an_address_that_nobody_has_set_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, UBUNTU)
    monkeypatch.setattr(sources, "DEBIAN_MIRROR", sources.UNSET_MIRROR)
    monkeypatch.setattr(sources, "DEBIAN_ARCHIVE", sources.UNSET_ARCHIVE)
    mirror, archive = (sources.unset(source) for source in suite_sources("trixie", KEYRING))
    assert mirror is not None
    assert "is known here: set GIVEBACK_DEBIAN_MIRROR to one, such as http://HOST/debian" in mirror
    assert archive is not None
    assert "set GIVEBACK_DEBIAN_ARCHIVE" in archive
    assert sources.unset(DEBIAN) is None


def test_a_suite_without_an_address_asks_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    host(monkeypatch, UBUNTU)
    monkeypatch.setattr(sources, "DEBIAN_MIRROR", sources.UNSET_MIRROR)
    monkeypatch.setattr(sources, "DEBIAN_ARCHIVE", sources.UNSET_ARCHIVE)
    monkeypatch.setattr(distribution, "_debian_keyring", lambda: KEYRING)
    monkeypatch.setattr("subprocess.run", None)
    with pytest.raises(InputError, match=r"GIVEBACK_DEBIAN_MIRROR.*; .*GIVEBACK_DEBIAN_ARCHIVE"):
        distribution.suite_apt("trixie", X86_64)
