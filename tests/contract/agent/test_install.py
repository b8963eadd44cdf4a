"""`install` and `uninstall` on real files, with every Python on PATH that the agent promises."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from peers import systemd_analyze

from giveback.guest.zipapps import agent_zipapp
from giveback_agent.__main__ import main
from giveback_agent.errors import AgentError, UsageError
from giveback_agent.install import files as install_files
from giveback_agent.install import systemd_unit
from giveback_agent.install.files import Manifest
from giveback_agent.runtime import run_dir

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14")
PREFIX = install_files.layout("/usr/local")


def python_of(version: str) -> str | None:
    """A Python of this version that really starts: a shim may stand on PATH for none."""
    for candidate in (shutil.which(f"python{version}"), "/usr/bin/python3"):
        if candidate is None:
            continue
        code = "import sys; print('%d.%d' % sys.version_info[:2], sys.executable)"
        # pyenv's shims start the version that this names.
        environ = {**os.environ, "PYENV_VERSION": version}
        done = subprocess.run(
            [candidate, "-c", code], capture_output=True, check=False, text=True, env=environ
        )
        said, _, path = done.stdout.strip().partition(" ")
        if done.returncode == 0 and said == version:
            return path
    return None


def tree(root: Path) -> dict[str, bytes | str]:
    """Everything below a folder: a file's bytes, a link's target, `folder`."""
    found: dict[str, bytes | str] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = str(path.readlink())
        else:
            found[name] = "folder" if path.is_dir() else path.read_bytes()
    return found


def image(root: Path) -> Path:
    """A guest's file system, not running, with systemd in it."""
    for folder in ("usr/local/bin", "usr/local/lib", "etc/systemd/system", "usr/lib/systemd"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/systemd/systemd").touch()
    (root / "usr/local/bin/other").write_text("not ours")
    return root


@pytest.fixture(autouse=True)
def system_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a service may use; the tests' own Python may be in a home folder."""
    monkeypatch.setattr(sys, "_base_executable", "/usr/bin/python3", raising=False)


def install(root: Path, *options: str) -> int:
    return main(["--root", str(root), "install", *options])


def uninstall(root: Path, *options: str) -> int:
    return main(["--root", str(root), "uninstall", *options])


@pytest.mark.parametrize("version", VERSIONS)
def test_the_zipapp_installs_itself_for_this_python(version: str, tmp_path: Path) -> None:
    python = python_of(version)
    if python is None:
        pytest.skip(f"no Python {version} on PATH")
    archive = tmp_path / "giveback-agent.pyz"
    archive.write_bytes(agent_zipapp())
    prefix = tmp_path / "prefix"
    options = ["--prefix", str(prefix), "--no-service"]
    subprocess.run([python, archive, "install", *options], check=True, capture_output=True)
    launcher = prefix / "bin/giveback-agent"
    before = tree(prefix)
    done = subprocess.run(
        [launcher, "doctor", "--json"], check=False, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode in (0, 1), done.stderr
    assert '"checks"' in done.stdout
    tag = f"cpython-{version.replace('.', '')}"
    loaded = subprocess.run(
        [python, "-I", "-S", "-B", "-v", launcher, "--version"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert f"__main__.{tag}.pyc" in loaded.stderr
    sources = [line for line in loaded.stderr.splitlines() if line.endswith(".py'")]
    assert [line for line in sources if f"code object from '{prefix}/lib" in line] == []
    assert tree(prefix) == before
    subprocess.run(
        [launcher, "uninstall", "--prefix", str(prefix)], check=True, capture_output=True
    )
    assert not prefix.exists()


def test_uninstall_leaves_exactly_what_was_there(tmp_path: Path) -> None:
    root = image(tmp_path)
    before = tree(root)
    assert install(root) == 0
    assert (root / systemd_unit.WANTS_PATH[1:]).resolve() == root / systemd_unit.UNIT_PATH[1:]
    assert (root / "usr/local/bin/giveback-agent").stat().st_mode & 0o777 == 0o755
    (root / "var/lib/giveback").mkdir(parents=True)
    (root / "var/lib/giveback/learned").write_text("1")
    assert uninstall(root) == 0
    after = tree(root)
    for folder in ("var", "var/lib"):
        assert after.pop(folder) == "folder"
    assert after == before


def test_the_same_install_twice_changes_nothing(tmp_path: Path) -> None:
    root = image(tmp_path)
    install(root)
    once = tree(root)
    assert install(root) == 0
    assert tree(root) == once


@pytest.mark.parametrize("path", systemd_unit.PACKAGE_PATHS)
def test_beside_a_packages_agent_nothing_is_installed(
    tmp_path: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image(tmp_path)
    (root / path[1:]).parent.mkdir(parents=True, exist_ok=True)
    (root / path[1:]).write_text("[Unit]\n")
    before = tree(root)
    assert install(root) == 1
    assert tree(root) == before
    assert f"{path}: a package has installed the agent here" in capsys.readouterr().err
    # The command alone, for trying, does not touch the service.
    assert install(root, "--no-service") == 0


def test_dry_run_shows_every_file_and_writes_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image(tmp_path)
    before = tree(root)
    assert install(root, "--dry-run") == 0
    assert tree(root) == before
    shown = capsys.readouterr().out
    assert install(root) == 0
    for name in set(tree(root)) - set(before):
        if (root / name).is_file():
            assert f"/{name}" in shown
    assert "ExecStart=/usr/local/bin/giveback-agent run" in shown
    assert uninstall(root, "--dry-run") == 0
    assert (root / "usr/local/bin/giveback-agent").exists()


@pytest.mark.parametrize(
    "path",
    [
        "usr/local/bin/giveback-agent",
        systemd_unit.UNIT_PATH[1:],
        systemd_unit.WANTS_PATH[1:],
        "usr/local/lib/giveback/notes",
    ],
)
@pytest.mark.parametrize("kind", ["file", "link", "folder"])
def test_a_foreign_file_is_never_overwritten(tmp_path: Path, path: str, kind: str) -> None:
    root = image(tmp_path)
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to("/nowhere")
    else:
        target.mkdir()
    before = tree(root)
    assert install(root) == 1
    assert tree(root) == before


def test_what_was_changed_since_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = image(tmp_path)
    install(root)
    (root / systemd_unit.UNIT_PATH[1:]).write_text("[Service]\n# mine now\n")
    (root / "etc/giveback.conf").write_text("[giveback]\n")
    assert install(root) == 1
    assert uninstall(root) == 0
    assert "# mine now" in (root / systemd_unit.UNIT_PATH[1:]).read_text()
    assert (root / "etc/giveback.conf").exists()
    assert not (root / "usr/local/lib/giveback").exists()
    assert f"kept: {systemd_unit.UNIT_PATH}" in capsys.readouterr().out


def test_a_new_version_takes_the_files_of_the_old_away(tmp_path: Path) -> None:
    root = image(tmp_path)
    old = install_files.Item("/usr/local/lib/giveback/giveback_agent/gone.py", b"x = 1\n")
    install_files.write_all(str(root), PREFIX, [old])
    assert install(root) == 0
    assert not (root / old.path[1:]).exists()
    assert old.path not in (root / PREFIX.manifest[1:]).read_text()


@pytest.mark.parametrize("writes", [1, 2, 3, 20])
def test_an_interrupted_install_can_be_repeated_and_removed(
    tmp_path: Path, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = image(tmp_path)
    before = tree(root)
    real, left = os.replace, writes

    def replace(source: str, target: str) -> None:
        nonlocal left
        if left == 0:
            raise OSError(28, os.strerror(28), target)
        left -= 1
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert install(root) == 1
    monkeypatch.setattr(os, "replace", real)
    for scratch in root.rglob("*.giveback-new"):
        scratch.unlink()
    assert uninstall(root) == 0
    assert tree(root) == before
    left = writes
    monkeypatch.setattr(os, "replace", replace)
    assert install(root) == 1
    monkeypatch.setattr(os, "replace", real)
    assert install(root) == 0
    assert uninstall(root) == 0
    assert tree(root) == before


def test_uninstall_restores_the_report_order(tmp_path: Path) -> None:
    from giveback_agent.release import report_order
    from giveback_kernel.page_reporting import ORDER_PATH

    root = image(tmp_path)
    install(root)
    order = root / ORDER_PATH[1:]
    order.parent.mkdir(parents=True)
    order.write_text("9\n")
    run_dir.make_folder(str(root))
    report_order.lower(str(root), 0)
    assert order.read_text() == "0\n"
    assert uninstall(root) == 0
    assert order.read_text() == "9\n"
    assert not (root / run_dir.FOLDER[1:]).exists()


def test_uninstall_leaves_an_agent_alone_that_it_did_not_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image(tmp_path)
    install(root)
    lock = run_dir.hold_lock(str(root))
    try:
        assert uninstall(root) == 0
    finally:
        os.close(lock)
    assert f"pid {os.getpid()}" in capsys.readouterr().out
    assert (root / run_dir.PID_PATH[1:]).exists()


def test_uninstall_without_install_says_so(tmp_path: Path) -> None:
    assert uninstall(image(tmp_path)) == 1


@pytest.mark.parametrize(
    ("sign", "words"),
    [
        ("run/openrc", "rc-update add giveback-agent default"),
        ("etc/runit", "/etc/sv/giveback-agent/run"),
        ("etc/inittab", "respawn:/usr/local/bin/giveback-agent run"),
        ("proc/sys/fs/binfmt_misc/WSLInterop sys/bus/vmbus", "systemd=true"),
        ("etc", "No init system is recognised"),
    ],
)
def test_other_inits_get_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], sign: str, words: str
) -> None:
    for one in sign.split():
        (tmp_path / one).mkdir(parents=True)
    assert install(tmp_path) == 0
    assert words in capsys.readouterr().out
    assert not (tmp_path / systemd_unit.UNIT_PATH[1:]).exists()


@pytest.mark.parametrize("systemd", [True, False])
def test_under_wsl_install_ends_with_what_to_put_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], systemd: bool
) -> None:
    for mark in ("proc/sys/fs/binfmt_misc/WSLInterop", "sys/bus/vmbus"):
        (tmp_path / mark).mkdir(parents=True)
    if systemd:
        image(tmp_path)
    assert install(tmp_path) == 0
    shown = capsys.readouterr().out
    assert ("/etc/wsl.conf" in shown) is not systemd
    assert ("command=/usr/local/bin/giveback-agent run" in shown) is not systemd
    _, _, last = shown.partition("%UserProfile%\\.wslconfig in Windows:\n")
    assert "[experimental]\nautoMemoryReclaim=disabled\n" in last
    assert "[giveback]\nmode=adaptive\n" in last
    assert install(tmp_path, "--no-service") == 0
    assert "autoMemoryReclaim" not in capsys.readouterr().out


@pytest.mark.parametrize("prefix", ["usr", "/a b", "/a\n", "/x/../y", "/%n", "/ü"])
def test_a_prefix_no_unit_can_hold_is_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        install_files.layout(prefix)
    assert install(tmp_path, "--prefix", prefix) == 2


def test_a_python_the_service_cannot_see_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_base_executable", "/home/me/bin/python3", raising=False)
    with pytest.raises(AgentError, match="--no-service"):
        install_files.interpreter(service=True)
    assert install_files.interpreter(service=False) == "/home/me/bin/python3"


def test_a_manifest_survives_writing_and_garbage() -> None:
    manifest = Manifest((("file abc", "/a b"), ("link ../x", "/c")), ("/d",))
    assert install_files.parse_manifest(install_files.format_manifest(manifest)) == manifest
    garbage = b"file abc relative\nfile abc /x/../etc/passwd\nfolder\n\xff\xfe\n\nwhat - /x\n"
    assert install_files.parse_manifest(garbage) == Manifest()


def test_the_service_may_reclaim_from_a_users_own_cgroups() -> None:
    """Root without this capability may not write what belongs to another user (inode_permission())."""
    line = next(
        row for row in systemd_unit.unit("x").splitlines() if row.startswith("CapabilityBounding")
    )
    assert set(line.partition("=")[2].split()) == {"CAP_SYSLOG", "CAP_DAC_OVERRIDE"}


def test_systemd_understands_the_unit_and_finds_it_hardened(tmp_path: Path) -> None:
    path = tmp_path / systemd_unit.NAME
    path.write_text(systemd_unit.unit("/bin/true"))
    verify = systemd_analyze("verify", str(path))
    complaints = [line for line in verify.stderr.splitlines() if systemd_unit.NAME in line]
    assert not complaints
    done = systemd_analyze("security", "--offline=true", "--threshold=35", str(path))
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze cannot judge a unit that is not loaded")
    assert done.returncode == 0, done.stdout[-400:]
