"""The repositories: signed, the same in two builds, and used by the real apt without a network."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from overlay_root import overlay_root

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or not shutil.which("dpkg-deb") or not shutil.which("gpg"),
    reason="needs git's files, dpkg-deb and gpg",
)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gpg")
    home.chmod(0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    # Made before the commit's time, by which it signs.
    old = "--faked-system-time=20200101T000000"
    generate = [
        *gpg,
        old,
        "--quick-gen-key",
        "giveback test <test@invalid>",
        "ed25519",
        "sign",
        "never",
    ]
    subprocess.run(generate, check=True, timeout=120)
    path = home / "secret.asc"
    done = subprocess.run(
        [*gpg, "--armor", "--export-secret-keys"], capture_output=True, check=True
    )
    path.write_bytes(done.stdout)
    return path


def build(out: Path, key: Path) -> Path:
    words = ("build", str(out), "--only", "packages,repositories", "--gpg-key", str(key))
    subprocess.run(
        [sys.executable, "-m", "release", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")}, check=True, timeout=600, cwd=ROOT,
    )  # fmt: skip
    return out / "repositories"


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Path:
    return build(tmp_path_factory.mktemp("repositories") / "out", key)


def test_two_builds_are_the_same_bytes(repositories: Path, key: Path, tmp_path: Path) -> None:
    again = build(tmp_path / "again", key)
    files = [path.relative_to(repositories) for path in repositories.rglob("*") if path.is_file()]
    assert len(files) > 20
    assert [f for f in files if (again / f).read_bytes() != (repositories / f).read_bytes()] == []


def test_apt_installs_from_it_and_refuses_a_changed_one(repositories: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle.tar"
    with tarfile.open(bundle, "w") as archive:
        archive.add(repositories, "repositories")
    folder = tmp_path / "root"
    folder.mkdir()
    with overlay_root(folder) as root:
        root.put(bundle, "/tmp/bundle.tar")
        line = "deb [signed-by=/tmp/repositories/public-key.asc] file:/tmp/repositories/apt trixie main"
        root.sh(f"cd /tmp && tar xf bundle.tar && chmod 755 /tmp && echo '{line}' > /tmp/own.list")
        only = "-o Dir::Etc::sourcelist=/tmp/own.list -o Dir::Etc::sourceparts=- -o APT::Sandbox::User=root"
        root.sh(f"apt-get {only} update")
        root.sh(f"apt-get {only} install -q -y giveback-agent")
        assert "(commit " in root.sh("giveback-agent --version")
        root.sh("sed -i 's/^Size: .*/Size: 1/' /tmp/repositories/apt/dists/trixie/main/*/Packages")
        root.sh("rm -r /var/lib/apt/lists/* /tmp/repositories/apt/dists/trixie/main/*/Packages.gz")
        said = root.sh(f"apt-get {only} update 2>&1", code=100)
        assert "unexpected size" in said or "Hash Sum mismatch" in said


def test_the_index_for_dnf_names_the_agent_and_is_signed(repositories: Path, key: Path) -> None:
    for python in ("3.11", "3.12", "3.13"):
        data = repositories / f"yum/py{python}/repodata"
        gpg = ["gpg", "--homedir", str(key.parent), "--batch", "--quiet"]
        subprocess.run(
            [*gpg, "--verify", str(data / "repomd.xml.asc"), str(data / "repomd.xml")],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        index = ET.parse(data / "repomd.xml")  # noqa: S314  # made here
        kinds = {one.get("type") for one in index.getroot() if one.get("type")}
        assert {"primary", "filelists", "other"} <= kinds


def test_a_key_that_is_not_there_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    words = (
        "build",
        str(tmp_path / "out"),
        "--only",
        "packages,repositories",
        "--gpg-key",
        "/none",
    )
    done = subprocess.run(
        [sys.executable, "-m", "release", *words], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")}, timeout=600, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "--gpg-key /none: no such file" in done.stderr
    assert not (tmp_path / "out").exists()
