"""The distribution guest's files (units, links, the container's archive) and when building is refused."""

from __future__ import annotations

import configparser
import io
import tarfile
from pathlib import Path, PurePosixPath

import pytest

from giveback.errors import InputError
from giveback_lab.images import debian_files, debian_guest
from giveback_lab.images.kernels import KernelFiles
from giveback_lab.packages import architecture


def test_paths_stay_in_the_guest_and_links_lead_to_files_that_are_there() -> None:
    for name in (*debian_files.TEXTS, *debian_files.LINKS):
        assert not name.startswith("/")
        assert ".." not in PurePosixPath(name).parts
    for name, target in debian_files.LINKS.items():
        if target != "/dev/null":
            assert target.startswith("../")
            below = PurePosixPath(name).parent.parent / target.removeprefix("../")
            assert str(below) in debian_files.TEXTS


@pytest.mark.parametrize(
    "name", [n for n in debian_files.TEXTS if n.endswith((".service", ".conf"))]
)
def test_units_and_settings_are_well_formed(name: str) -> None:
    unit = configparser.ConfigParser(interpolation=None, strict=True)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(debian_files.TEXTS[name])
    if name.endswith(".service"):
        assert unit["Install"]["WantedBy"] == "multi-user.target"
        assert unit["Service"]["ExecStart"].startswith("/usr/bin/python3 /run/giveback-")


def test_the_machine_id_is_one() -> None:
    text = debian_files.TEXTS["etc/machine-id"]
    assert len(text) == 33
    assert int(text, 16) > 0


def test_the_containers_archive_is_the_same_each_time_and_has_a_shell() -> None:
    data = debian_files.container_archive(b"\x7fELF")
    assert data == debian_files.container_archive(b"\x7fELF")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        program = archive.extractfile("bin/busybox")
        assert program is not None
        assert program.read() == b"\x7fELF"
        assert archive.getmember("bin/busybox").mode == 0o755
        assert archive.getmember("bin/sh").linkname == "busybox"
        assert len(names) == len(set(names))


def test_a_machine_that_this_host_cannot_run_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian_guest, "host_architecture", lambda: architecture.X86_64)
    kernel = KernelFiles(Path("k"), Path("m"), "6.12.1-cloud-arm64", architecture.ARM64)
    with pytest.raises(InputError, match="it has none for aarch64"):
        debian_guest.build_distribution_image(kernel)


def test_a_bootstrap_that_fails_says_mmdebstraps_reason(tmp_path: Path) -> None:
    program = tmp_path / "mmdebstrap"
    program.write_text(
        "#!/bin/sh\necho 'I: running' >&2; echo 'E: no space' >&2; echo x >&2; exit 1\n"
    )
    program.chmod(0o755)
    with pytest.raises(InputError, match="mmdebstrap: E: no space"):
        debian_guest._run([str(program)], {})


def test_files_are_added_over_what_a_package_left(tmp_path: Path) -> None:
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/busybox").write_bytes(b"\x7fELF")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/machine-id").symlink_to("/no/such/file")
    debian_guest._add_files(tmp_path)
    assert (tmp_path / "etc/machine-id").read_text() == debian_files.TEXTS["etc/machine-id"]
    getty = tmp_path / "etc/systemd/system/serial-getty@.service"
    assert str(getty.readlink()) == "/dev/null"
    assert (tmp_path / debian_files.CONTAINER_ARCHIVE.lstrip("/")).stat().st_size > 1024


def test_a_key_in_a_users_cache_is_copied_to_where_apts_user_can_read_it(tmp_path: Path) -> None:
    key = tmp_path / "hidden" / "keys.pgp"
    key.parent.mkdir(mode=0o700)
    key.write_text("a key")
    tools = tmp_path / "tools"
    tools.mkdir()
    line = f"deb [signed-by={key} check-valid-until=no] http://mirror/debian trixie main"
    said = debian_guest._with_readable_key(line, tools)
    (copy,) = tools.iterdir()
    assert said == line.replace(str(key), str(copy))
    assert copy.read_text() == "a key"
    assert copy.suffix == ".pgp"
    without = "deb http://mirror/debian trixie main"
    assert debian_guest._with_readable_key(without, tools) == without
