"""`./run release build`: every artefact of a commit, the same bytes each time, signed, and complete."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import minisign
import pytest

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None,
    reason="a release is built of a commit",
)
SECRET = b"never printed"
STEPS = "python,pages,packages,sbom"
"""All but the packages of the host, which test_host_package.py builds one of."""


def call(*words: str, code: int = 0, folder: Path = ROOT) -> str:
    done = subprocess.run(
        words, capture_output=True, text=True, check=False, timeout=600, cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def release(*words: str, code: int = 0) -> str:
    return call(sys.executable, "-m", "release", *words, code=code)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    pair = minisign.KeyPair.generate()
    (folder / "secret").write_bytes(bytes(pair.secret_key))
    (folder / "public").write_bytes(bytes(pair.public_key))
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Path:
    out = tmp_path_factory.mktemp("release") / "out"
    release("build", str(out), "--only", STEPS, "--key", str(keys / "secret"))
    return out


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_two_builds_of_a_commit_are_the_same_bytes(built: Path, keys: Path, tmp_path: Path) -> None:
    release("build", str(tmp_path / "again"), "--only", STEPS, "--key", str(keys / "secret"))
    first, second = files_of(built), files_of(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_key_that_cannot_sign_is_refused_before_anything_is_built(
    keys: Path, tmp_path: Path
) -> None:
    locked = minisign.SecretKey.from_file(keys / "secret")
    locked.encrypt("secret words")
    (tmp_path / "locked").write_bytes(bytes(locked))
    (tmp_path / "damaged").write_bytes(b"no key\n\xff")
    for name, words in (("locked", "has a password"), ("damaged", ""), ("none", "No such file")):
        said = release("build", str(tmp_path / "out"), "--key", str(tmp_path / name), code=1)
        assert f"--key {tmp_path / name}: {words}" in said
        assert "minisign -" in said
        assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


def test_the_sums_are_right_and_signed(built: Path, keys: Path) -> None:
    call("sha256sum", "--check", "--strict", "SHA256SUMS", folder=built)
    named = {line.split("  ")[1] for line in (built / "SHA256SUMS").read_text().splitlines()}
    assert named == files_of(built).keys() - {"SHA256SUMS", "SHA256SUMS.minisig"}
    public = minisign.PublicKey.from_file(keys / "public")
    signature = minisign.Signature.from_file(built / "SHA256SUMS.minisig")
    public.verify((built / "SHA256SUMS").read_bytes(), signature)
    with pytest.raises(minisign.VerifyError):
        public.verify(b"other bytes", signature)


def test_every_artefact_says_its_version_and_commit(built: Path, tmp_path: Path) -> None:
    commit = call("git", "-c", "safe.directory=*", "rev-parse", "HEAD").strip()
    (zipapp,) = built.glob("python/*.pyz")
    said = call(sys.executable, "-I", str(zipapp), "--version").strip()
    assert said.startswith("giveback-agent ")
    assert said.endswith(f"(commit {commit[:12]})")
    (wheel,) = built.glob("python/giveback_agent-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert commit in archive.read("giveback_kernel/built_from.py").decode()
    (package,) = built.glob("packages/*.deb")
    call("dpkg-deb", "-x", str(package), str(tmp_path))
    program = (
        f"import sys; sys.path.insert(0, '{tmp_path}/usr/lib/giveback')\n"
        "from giveback_kernel.version import version_text; print(version_text('x'))"
    )
    version = call(sys.executable, "-IBS", "-c", program)
    assert version.strip().removeprefix("x ") == said.removeprefix("giveback-agent ")


def test_every_wheel_and_source_archive_has_the_licence(built: Path) -> None:
    licence = (ROOT / "LICENSE").read_bytes()
    wheels = sorted(built.glob("python/*.whl"))
    archives = sorted(built.glob("python/*.tar.gz"))
    assert len(wheels) == len(archives) == 3
    for path in wheels:
        with zipfile.ZipFile(path) as archive:
            (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/licenses/LICENSE"))
            assert archive.read(name) == licence
    for path in archives:
        with tarfile.open(path) as archive:
            (one,) = (m for m in archive if m.name.count("/") == 1 and m.name.endswith("/LICENSE"))
            file = archive.extractfile(one)
            assert file is not None
            assert file.read() == licence


def test_the_packages_have_the_same_files(built: Path, tmp_path: Path) -> None:
    (deb,) = built.glob("packages/*.deb")
    call("dpkg-deb", "-x", str(deb), str(tmp_path))
    of_deb = {f"/{name}" for name in files_of(tmp_path)}
    (apk,) = built.glob("packages/*.apk")
    with tarfile.open(apk) as archive:
        of_apk = {f"/{one.name}" for one in archive if one.isfile() and one.name[0] != "."}
    assert of_apk == of_deb
    assert {
        "/etc/giveback.conf",
        "/usr/bin/giveback-agent",
        "/usr/lib/systemd/system/giveback-agent.service",
        "/usr/share/man/man1/giveback-agent.1.gz",
        "/usr/share/man/man5/giveback.conf.5.gz",
        "/usr/share/bash-completion/completions/giveback-agent",
    } < of_deb
    assert (tmp_path / "usr/bin/giveback-agent").stat().st_mode & 0o777 == 0o755
    assert call("dpkg-deb", "-f", str(deb), "Depends").strip() == "python3 (>= 3.9)"
    (rpm,) = built.glob("packages/*.rpm")
    assert rpm.read_bytes()[:4] == b"\xed\xab\xee\xdb"


def test_the_bill_of_materials_names_what_is_installed(built: Path) -> None:
    (path,) = built.glob("sbom/*.json")
    bill = json.loads(path.read_text())
    parts = {part["name"]: part for part in bill["components"]}
    assert {"pydantic", "pydantic-core", "numpy", "starlette", "h11"} <= parts.keys()
    assert parts["numpy"]["externalReferences"][0]["hashes"]
    assert not {"pytest", "mypy", "giveback"} & parts.keys()


@pytest.mark.parametrize("program", ["giveback", "giveback-agent"])
def test_the_pages_and_completions_know_every_command(built: Path, program: str) -> None:
    place = built / "pages" / program
    page = gzip.decompress((place / f"usr/share/man/man1/{program}.1.gz").read_bytes()).decode()
    helped = call(sys.executable, "-m", program.replace("-", "_"), "--help")
    for text in (helped, page):
        assert "status" in text
        assert "doctor" in text
    completion = place / "usr/share/bash-completion/completions" / program
    script = f"source {completion}; COMP_WORDS=({program} doc); COMP_CWORD=1; "
    name = call("bash", "-c", f"source {completion}; complete -p {program}").split()
    function = name[name.index("-F") + 1]
    said = call("bash", "-c", f"{script} {function}; echo ${{COMPREPLY[@]}}")
    assert "doctor" in said.split()
    for shell in ("zsh/vendor-completions", "fish/vendor_completions.d"):
        (found,) = (place / "usr/share" / shell).iterdir()
        assert "doctor" in found.read_text()


def test_the_settings_have_their_pages(built: Path) -> None:
    for program, page, key in (
        ("giveback-agent", "giveback.conf", "cacheFloor"), ("giveback", "giveback.toml", "on_calm"),
    ):  # fmt: skip
        place = built / f"pages/{program}/usr/share/man/man5/{page}.5.gz"
        text = gzip.decompress(place.read_bytes()).decode()
        assert text.startswith(".TH ")
        assert key in text
        assert "](" not in text


def test_a_wrong_step_a_used_folder_and_a_wrong_key_are_refused(
    built: Path, tmp_path: Path
) -> None:
    assert "is not empty" in release("build", str(built), code=1)
    assert "the steps are" in release(
        "build", str(tmp_path / "a"), "--only", "python,nothing", code=1
    )
    assert "git" in release("build", str(tmp_path / "b"), "--revision", "no-such", code=1)
    (tmp_path / "key").write_bytes(SECRET)
    said = release(
        "build", str(tmp_path / "c"), "--only", "pages", "--key", str(tmp_path / "key"), code=1
    )
    assert "minisign -G -W" in said
    assert SECRET.decode() not in said


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with its own tools and a version that no release has, whatever is tagged here."""
    place = tmp_path / "clone"
    call("git", "-c", "safe.directory=*", "clone", "--quiet", "--no-tags", str(ROOT), str(place))
    for key, value in (("user.name", "a test"), ("user.email", "test@invalid")):
        call("git", "config", key, value, folder=place)
    path = place / "src/giveback_kernel/__init__.py"
    path.write_text(re.sub(r"(?m)^__version__ = .*$", '__version__ = "99.0.0"', path.read_text()))
    (place / "changelog.d/+test.added.md").write_text("A sentence for a user.\n")
    call("git", "add", "--all", folder=place)
    call("git", "commit", "--quiet", "--message", "A version to be released", folder=place)
    return place


def of_clone(place: Path, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "release", *words], capture_output=True, text=True, check=False,
        timeout=600, cwd=place, env={**os.environ, "PYTHONPATH": str(place / "tools")},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_a_release_is_made_up_to_its_tag(clone: Path) -> None:
    assert "nothing stands in the way" in of_clone(clone, "check")
    notes = of_clone(clone, "notes")
    assert "A sentence for a user." in notes
    before = call("git", "rev-parse", "HEAD", folder=clone)
    assert "--yes does it" in of_clone(clone, "tag")
    assert call("git", "rev-parse", "HEAD", folder=clone) == before
    of_clone(clone, "tag", "--yes")
    version = call("git", "describe", "--exact-match", folder=clone).strip()
    assert version == "v99.0.0"
    out = clone.with_name("built")
    of_clone(clone, "build", str(out), "--revision", version, "--only", "python")
    (zipapp,) = out.glob("python/*.pyz")
    tagged = call("git", "rev-parse", f"{version}^{{commit}}", folder=clone).strip()
    assert f"99.0.0 (commit {tagged[:12]})" in call(sys.executable, "-I", str(zipapp), "--version")
    assert call("git", "status", "--porcelain", folder=clone) == ""
    assert [path.name for path in (clone / "changelog.d").iterdir()] == ["README.md"]
    assert f"{version} is a tag already" in of_clone(clone, "tag", "--yes", code=1)


def test_what_stands_in_the_way_is_said_with_what_to_do(clone: Path) -> None:
    (clone / "changelog.d/+bad name.md").write_text("x")
    (clone / "changelog.d/+empty.fixed.md").write_text("\n")
    said = of_clone(clone, "check", code=1)
    assert "not committed: commit them" in said
    assert "changelog.d/+bad name.md: not a fragment's name" in said
    assert "changelog.d/+empty.fixed.md: empty: write" in said
    assert "not released:" in of_clone(clone, "tag", "--yes", code=1)
