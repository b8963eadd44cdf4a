"""Bad input to `giveback demo`: exit code 2 and one clear line, before anything is started."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

APT_WORKS = """#!/bin/sh
case "$*" in
*indextargets*) echo 'Packages|http://127.0.0.1:9/debian|bookworm|bookworm|main||Debian';;
*) echo 'E: Unable to fetch some archives' >&2; exit 100;;
esac
"""
APT_KNOWS_NOTHING = "#!/bin/sh\nexit 0\n"
APT_OTHER_DISTRIBUTION = APT_WORKS.replace("bookworm", "slackware")
QEMU_SAYS = "#!/bin/sh\necho 'QEMU emulator version {version} (Debian 1:{version})'\n"


@dataclass
class Machine:
    """A machine with only the programs that a test gives it, and empty folders."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("bin", "cache", "tmp", "here"):
            (self.root / name).mkdir()
        for program in ("sh", "echo", "mke2fs", "cat"):
            found = shutil.which(program, path="/usr/sbin:/sbin:/usr/bin:/bin")
            if found:
                (self.root / "bin" / program).symlink_to(found)
        self.environment = {
            **os.environ,
            "PATH": str(self.root / "bin"),
            "XDG_CACHE_HOME": str(self.root / "cache"),
            "TMPDIR": str(self.root / "tmp"),
        }

    def add_program(self, name: str, text: str) -> Path:
        path = self.root / "bin" / name
        path.write_text(text)
        path.chmod(0o755)
        return path

    def refused(self, *words: str) -> str:
        """Run the demo, which must refuse; return its one line of output."""
        done = subprocess.run(
            [sys.executable, "-m", "giveback", "demo", *words],
            cwd=self.root / "here", env=self.environment, capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 2, done.stdout + done.stderr
        lines = done.stderr.splitlines()
        assert len(lines) == 1, done.stderr
        assert lines[0].startswith("giveback: ")
        assert list((self.root / "tmp").iterdir()) == []
        return lines[0]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def kernel_image(path: Path, release: str) -> Path:
    """Write the least that the demo accepts as a kernel: a setup header that names a release."""
    image = bytearray(0x800)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x100).to_bytes(2, "little")
    text = f"{release} (builder@host) #1".encode()
    image[0x300 : 0x300 + len(text)] = text
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(image)
    (path.parent.parent / "lib" / "modules" / release).mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mem", "many"], "--mem 'many': not a size"),
        (["--mem", ""], "--mem '': not a size"),
        (["--mem=-2G"], "--mem '-2G': not a size"),
        (["--mem", "0"], "at least 512M"),
        (["--mem", "511M"], "at least 512M"),
        (["--mem", "500T"], "the host has"),
        (["--mem", "999999999999999T"], "the host has"),
        (["--cpus", "0"], "--cpus 0: must be 1 to 64"),
        (["--cpus", "65"], "--cpus 65: must be 1 to 64"),
        (["--watch", "-1"], "--watch -1: must be"),
        (["--watch", "nan"], "--watch nan: must be"),
        (["--scale", "inf"], "--scale inf: must be"),
    ],
)
def test_bad_numbers(machine: Machine, words: list[str], said: str) -> None:
    assert said in machine.refused(*words)
    assert list((machine.root / "here").iterdir()) == []
    assert list((machine.root / "cache").iterdir()) == []


@pytest.mark.parametrize("option", ["--out", "--json"])
def test_output_that_cannot_be_written_is_named(machine: Machine, option: str) -> None:
    (machine.root / "file").touch()
    target = str(machine.root / "file" / "below")
    line = machine.refused(option, target)
    assert f"{option} {target}: " in line
    assert "can be written" in line


def test_a_read_only_folder_is_named(machine: Machine) -> None:
    # Root ignores permissions; only a read-only file system stops it.
    line = machine.refused("--out", "/proc/giveback")
    assert "--out /proc/giveback: " in line


def test_a_json_file_that_is_a_folder_is_named(machine: Machine) -> None:
    assert "--json " in machine.refused("--json", str(machine.root))


def test_a_json_file_is_not_left_empty_nor_changed(machine: Machine) -> None:
    new, old = machine.root / "new.json", machine.root / "old.json"
    old.write_text("{}")
    for path in (new, old):
        machine.refused("--json", str(path), "--kernel", "/no/such/kernel")
    assert not new.exists()
    assert old.read_text() == "{}"


def test_a_kernel_that_is_missing(machine: Machine) -> None:
    line = machine.refused("--kernel", "/no/such/kernel")
    assert line == "giveback: /no/such/kernel: No such file or directory"


def test_a_kernel_that_is_a_folder(machine: Machine) -> None:
    assert "Is a directory" in machine.refused("--kernel", str(machine.root))


def test_a_kernel_that_may_not_be_read(machine: Machine) -> None:
    # A file that even root cannot read, on any Linux: the memory of a process that does not exist.
    unreadable = "/proc/self/mem"
    line = machine.refused("--kernel", unreadable)
    assert unreadable in line


@pytest.mark.parametrize("content", [b"", b"\x7fELF" * 1000, b"\0" * 4096, b"HdrS"])
def test_a_kernel_that_is_none(machine: Machine, content: bytes) -> None:
    path = machine.root / "vmlinuz"
    path.write_bytes(content)
    assert f"{path}: not an x86 Linux kernel image" in machine.refused("--kernel", str(path))


def test_a_kernel_without_its_modules(machine: Machine) -> None:
    path = kernel_image(machine.root / "boot" / "vmlinuz", "9.9.9-none")
    shutil.rmtree(machine.root / "lib")
    line = machine.refused("--kernel", str(path))
    assert "9.9.9-none" in line
    assert "/lib/modules/9.9.9-none is missing" in line


def test_a_series_that_the_distribution_has_not(machine: Machine) -> None:
    machine.add_program("apt-get", APT_WORKS)
    line = machine.refused("--kernel", "2.4")
    assert "kernel 2.4: has no free page reporting" in line
    assert "5.10, 6.1, 6.12, 7.2, 7.3" in line


def test_a_series_that_cannot_be_fetched_names_every_suite_that_was_tried(machine: Machine) -> None:
    machine.add_program("apt-get", APT_WORKS)
    line = machine.refused("--kernel", "6.6")
    assert "kernel 6.6: no linux-image-cloud-amd64" in line
    for suite in ("bookworm", "bookworm-backports", "trixie", "sid", "bullseye"):
        # Suites with the same fault are listed together: "trixie, sid: ...".
        assert f"{suite}: " in line or f"{suite}, " in line


def test_a_name_that_can_be_no_kernel(machine: Machine) -> None:
    assert "kernel 6: neither a series" in machine.refused("--kernel", "6")


def test_no_apt(machine: Machine) -> None:
    line = machine.refused()
    assert "apt-get: not found" in line
    assert " run --rm -it " in line
    assert "/lab/.venv/bin/giveback demo" in line


def test_apt_that_knows_no_distribution(machine: Machine) -> None:
    machine.add_program("apt-get", APT_KNOWS_NOTHING)
    assert "sudo apt-get update" in machine.refused()


def test_an_unknown_distribution(machine: Machine) -> None:
    machine.add_program("apt-get", APT_OTHER_DISTRIBUTION)
    line = machine.refused()
    assert "slackware" in line
    assert "bookworm" in line


def test_a_kernel_that_cannot_be_fetched_is_named_by_its_package(machine: Machine) -> None:
    machine.add_program("apt-get", APT_WORKS)
    line = machine.refused()
    assert "linux-image-cloud-amd64" in line
    assert "Unable to fetch some archives" in line


def test_qemu_that_is_missing_and_cannot_be_fetched_is_named_by_its_package(
    machine: Machine,
) -> None:
    machine.add_program("apt-get", APT_WORKS)
    kernel = kernel_image(machine.root / "boot" / "vmlinuz", "6.12.9-test")
    line = machine.refused("--kernel", str(kernel))
    assert "QEMU is missing: install the package qemu-system-x86" in line


@pytest.mark.parametrize("given", [True, False])
def test_a_qemu_that_corrupts_this_kernel_is_named_by_its_version(
    machine: Machine, given: bool
) -> None:
    machine.add_program("apt-get", APT_WORKS)
    name = "my-qemu" if given else "qemu-system-x86_64"
    qemu = machine.add_program(name, QEMU_SAYS.format(version="7.2.17"))
    kernel = kernel_image(machine.root / "boot" / "vmlinuz", "6.12.9-test")
    words = ["--kernel", str(kernel), *(["--qemu", str(qemu)] if given else [])]
    line = machine.refused(*words)
    assert f"{qemu}: QEMU 7.2.17 corrupts the memory of Linux 6.12.9-test" in line
    assert "QEMU 10" in line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("#!/bin/sh\necho hello\n", "not a QEMU: its output is 'hello"),
        ("#!/bin/sh\nexit 3\n", "does not run"),
        ("#!/no/such/shell\n", "does not run"),
        ("", "does not run"),
    ],
)
def test_a_qemu_that_is_none(machine: Machine, text: str, said: str) -> None:
    machine.add_program("apt-get", APT_WORKS)
    qemu = machine.add_program("odd", text)
    kernel = kernel_image(machine.root / "boot" / "vmlinuz", "6.12.9-test")
    line = machine.refused("--kernel", str(kernel), "--qemu", str(qemu))
    assert f"{qemu}: " in line
    assert said in line


def test_a_cache_that_cannot_be_made(machine: Machine) -> None:
    machine.add_program("apt-get", APT_WORKS)
    (machine.root / "file").touch()
    machine.environment["XDG_CACHE_HOME"] = str(machine.root / "file")
    assert "XDG_CACHE_HOME" in machine.refused()
