"""The three wheels: each installs from dist/ into an empty environment, and works there."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
UV = next((str(p) for p in (ROOT / ".tools/bin/uv",) if p.exists()), None) or shutil.which("uv")
pytestmark = pytest.mark.skipif(UV is None, reason="uv is not there: `./run` installs it")
# Import every installed module: none may need a module of another distribution.
IMPORT_ALL = """
import importlib, pkgutil, sys
for top in sys.argv[1:]:
    for found in pkgutil.walk_packages(importlib.import_module(top).__path__, top + "."):
        if not found.name.endswith("__main__"):
            importlib.import_module(found.name)
"""


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels built from the source archives, as an installer without a wheel would build them."""
    folder = tmp_path_factory.mktemp("dist")
    for package in ("agent", "host", "lab"):
        call(str(UV), "build", "-q", str(ROOT / "packages" / package), "--out-dir", str(folder))
    return folder


def call(*command: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == code, done.stdout + done.stderr
    return done


def environment(folder: Path, dist: Path, name: str, *options: str) -> Path:
    """An empty environment with one distribution and its requirements."""
    call(str(UV), "venv", "-q", "--python", sys.executable, str(folder))
    install = ("pip", "install", "-q", "--python", str(folder), "--find-links", str(dist))
    call(str(UV), *install, *options, name)
    return folder / "bin"


def test_the_agent_installs_alone_and_runs(dist: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "agent", dist, "giveback-agent", "--no-index")
    listed = call(str(UV), "pip", "freeze", "--python", str(tmp_path / "agent")).stdout
    assert [line.partition("==")[0] for line in listed.splitlines()] == ["giveback-agent"]
    agent = str(programs / "giveback-agent")
    assert call(agent, "--version").stdout.startswith("giveback-agent ")
    assert "{" in call(agent, "picture").stdout
    call(agent, "config")
    python = str(programs / "python")
    call(python, "-I", "-c", IMPORT_ALL, "giveback_agent", "giveback_kernel")


def test_a_host_without_the_lab_has_all_commands_except_the_labs(
    dist: Path, tmp_path: Path
) -> None:
    programs = environment(tmp_path / "host", dist, "giveback")
    giveback, python = str(programs / "giveback"), str(programs / "python")
    call(python, "-I", "-c", IMPORT_ALL, "giveback")
    call(python, "-I", "-c", "import giveback_lab", code=1)
    call(giveback, "ps", "--json")
    told = call(giveback, "status", "--socket", str(tmp_path / "none.sock"), code=3).stderr
    assert told.count("\n") == 1
    assert "daemon" in told
    for lab in ("demo", "bench"):
        told = call(giveback, lab, code=2).stderr
        assert told.count("\n") == 1
        assert "pip install giveback-lab" in told
    written = tmp_path / "giveback-agent.pyz"
    call(giveback, "zipapp", str(written))
    assert call(python, "-I", str(written), "--version").stdout.startswith("giveback-agent ")


def test_the_hosts_wheel_has_the_page_and_the_licence_of_what_it_brings(dist: Path) -> None:
    (wheel,) = dist.glob("giveback-*.whl")
    folder = "giveback/manager/http/web/static/"
    with zipfile.ZipFile(wheel) as archive:
        there = {
            name.removeprefix(folder) for name in archive.namelist() if name.startswith(folder)
        }
    page = ROOT / "src" / folder
    assert there == {str(path.relative_to(page)) for path in page.rglob("*") if path.is_file()}
    assert {"index.html", "app/main.js", "vendor/uPlot.esm.js", "vendor/LICENSE"} <= there


def test_the_lab_brings_its_commands(dist: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "lab", dist, "giveback-lab")
    giveback, python = str(programs / "giveback"), str(programs / "python")
    call(python, "-I", "-c", IMPORT_ALL, "giveback_lab", "giveback_lab_guest")
    assert "bench" in call(giveback, "--help").stdout
    assert "--no-compare" in call(giveback, "demo", "--help").stdout


def test_the_three_require_each_other_at_one_version(dist: Path) -> None:
    versions = {path.name.split("-")[1] for path in dist.glob("*.whl")}
    assert len(versions) == 1
    (version,) = versions
    for name, required in {"giveback": 1, "giveback_lab": 2}.items():
        (wheel,) = dist.glob(f"{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (path,) = (path for path in archive.namelist() if path.endswith("/METADATA"))
            metadata = archive.read(path).decode()
        assert metadata.count(f"Requires-Dist: giveback-agent=={version}\n") == 1
        assert metadata.count(f"=={version}\n") == required
