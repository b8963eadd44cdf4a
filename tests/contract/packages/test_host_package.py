"""The deb of the host's part: two builds alike, installed by the real dpkg where no systemd runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from overlay_root import overlay_root

ROOT = Path(__file__).parents[3]
MACHINE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, "")
PYTHONS = [name for name in ("3.11", "3.12", "3.13") if Path(f"/usr/bin/python{name}").exists()]
LINK = "/etc/systemd/system/multi-user.target.wants/giveback-daemon.service"
LEFT = (
    "find /etc /usr/bin /usr/lib /usr/local /usr/share /var/lib -cnewer /start"
    " -iname '*giveback*' -not -path '/var/lib/dpkg/*'"
)
pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("dpkg") is None or not PYTHONS or not MACHINE,
    reason="needs git's files, dpkg, and a Python that the package is built for",
)


def build(out: Path) -> Path:
    steps = f"pages,host-{PYTHONS[-1]}-{MACHINE}"
    subprocess.run(
        [sys.executable, "-m", "release", "build", str(out), "--only", steps],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")}, check=True, timeout=600, cwd=ROOT,
    )  # fmt: skip
    (deb,) = out.glob("packages/*.deb")
    return deb


def test_it_is_installed_runs_and_leaves_nothing(tmp_path: Path) -> None:
    deb = build(tmp_path / "one")
    assert deb.read_bytes() == build(tmp_path / "two").read_bytes()
    folder = tmp_path / "root"
    folder.mkdir()
    with overlay_root(folder) as root:
        root.put(deb, "/tmp/host.deb")
        root.sh(": > /start; groupdel giveback 2>/dev/null || true")
        said = root.sh("dpkg -i /tmp/host.deb")
        assert "the daemon starts when this system is booted" in said
        assert root.has(LINK)
        assert "giveback:x:" in root.sh("getent group giveback")
        assert "(commit " in root.sh("giveback --version")
        # What it requires is its own, whatever Python modules the system has.
        where = "import pydantic, numpy, giveback; print(pydantic.__file__, numpy.__file__)"
        program = f"sys.path.insert(0, '/usr/lib/giveback-host'); {where}"
        paths = root.sh(f'/usr/bin/python{PYTHONS[-1]} -I -c "import sys; {program}"').split()
        assert all(path.startswith("/usr/lib/giveback-host/") for path in paths)
        root.sh("giveback daemon --check")
        for words in ("ps", "doctor", "ps --json", "top --once", "usage --help"):
            root.sh(f"giveback {words}")
        root.sh("giveback zipapp /tmp/agent.pyz && python3 /tmp/agent.pyz --version")
        root.sh("systemctl disable giveback-daemon.service && dpkg -i /tmp/host.deb")
        assert not root.has(LINK)
        root.sh("dpkg -r giveback")
        assert set(root.sh(LEFT).split()) == {"/etc/giveback", "/etc/giveback/giveback.toml"}
        root.sh("dpkg -P giveback")
        assert root.sh(LEFT) == ""
        assert root.sh("getent group giveback", code=2) == ""
