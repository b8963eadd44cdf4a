"""The scripts of the agent's packages, by the real dpkg and rpm, where no init system runs.

In a booted guest: tests/vm/test_agent_package.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from overlay_root import OverlayRoot, overlay_root
from peers import peer

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[3]
LINK = "/etc/systemd/system/multi-user.target.wants/giveback-agent.service"
CONF = "/etc/giveback.conf"
NOT_RUNNING = "systemd does not run here: the service starts when this system is booted"
PURGED = (
    "find /etc /usr/bin /usr/lib /usr/local /usr/share /var/lib /opt -cnewer /start"
    " \\( -iname '*giveback*' -o -path '*/giveback/*' \\) -not -path '/var/lib/dpkg/*'"
)
pytestmark = pytest.mark.skipif(
    not (ROOT / ".git").exists() or shutil.which("git") is None or shutil.which("dpkg") is None,
    reason="a package is built of a commit, and installed by dpkg",
)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as a release builds them."""
    out = tmp_path_factory.mktemp("packages") / "out"
    subprocess.run(
        [sys.executable, "-m", "release", "build", str(out), "--only", "packages"],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tools")}, check=True, timeout=300, cwd=ROOT,
    )  # fmt: skip
    return out / "packages"


@pytest.fixture
def root(packages: Path, tmp_path: Path) -> Iterator[OverlayRoot]:
    """A system without the agent, with the packages in /tmp."""
    with overlay_root(tmp_path) as made:
        for kind in ("deb", "rpm"):
            (package,) = packages.glob(f"*.{kind}")
            made.put(package, f"/tmp/agent.{kind}")
        made.sh(": > /start")
        yield made


def install(root: OverlayRoot) -> str:
    return root.sh("dpkg -i /tmp/agent.deb")


def test_a_deb_that_was_removed_and_comes_again_is_on_again(root: OverlayRoot) -> None:
    assert NOT_RUNNING in install(root)
    assert root.has(LINK)
    assert "`apt, dnf or apk` removes it" in root.sh("head -3 /usr/bin/giveback-agent")
    root.sh("dpkg -r giveback-agent")
    assert not root.has(LINK)
    assert NOT_RUNNING in install(root)
    assert root.has(LINK)
    root.sh("dpkg -P giveback-agent")
    assert root.sh(PURGED) == ""


def test_a_service_that_was_switched_off_stays_off_through_an_upgrade(root: OverlayRoot) -> None:
    install(root)
    root.sh("systemctl disable giveback-agent.service")
    said = install(root)
    assert not root.has(LINK)
    assert "giveback-agent:" not in said


def test_settings_that_were_there_are_kept_without_a_question(root: OverlayRoot) -> None:
    root.sh(f"printf '[giveback]\\ncacheFloor=96MB\\n' > {CONF}")
    install(root)
    assert "cacheFloor=96MB" in root.sh(f"cat {CONF}")
    install(root)
    assert "cacheFloor=96MB" in root.sh(f"cat {CONF}")
    root.sh("dpkg -P giveback-agent")
    assert root.sh(PURGED) == ""


def test_an_upgrade_that_is_cut_off_ends_as_one_that_is_not(root: OverlayRoot) -> None:
    root.sh(f"printf '[giveback]\\ncacheFloor=96MB\\n' > {CONF}")
    root.sh("dpkg --unpack /tmp/agent.deb")
    assert root.has("/usr/lib/giveback/giveback_agent/__main__.py")
    assert NOT_RUNNING in root.sh("dpkg --configure -a")
    assert "cacheFloor=96MB" in root.sh(f"cat {CONF}")
    assert root.has(LINK)
    assert root.has("/usr/lib/giveback/giveback_agent/__pycache__")


def test_what_another_package_has_in_the_same_folder_stays(root: OverlayRoot) -> None:
    install(root)
    root.sh("mkdir /usr/lib/giveback/other && : > /usr/lib/giveback/other/file")
    root.sh("dpkg -P giveback-agent")
    assert root.has("/usr/lib/giveback/other/file")
    assert not root.has("/usr/lib/giveback/giveback_agent")


def test_install_and_uninstall_beside_the_package_say_how(root: OverlayRoot) -> None:
    install(root)
    said = root.sh("giveback-agent install", code=1)
    assert "a package has installed the agent here: use that one, or remove" in said
    assert "(apt purge, dnf remove or apk del giveback-agent)" in root.sh(
        "giveback-agent uninstall", code=1
    )
    root.sh("giveback-agent install --no-service --prefix /opt/second")
    root.sh("/opt/second/bin/giveback-agent uninstall --prefix /opt/second")


@pytest.mark.parametrize("init", ["/etc/inittab", "/run/openrc", "/etc/runit"])
def test_another_init_system_gets_its_own_words(root: OverlayRoot, init: str) -> None:
    root.sh(f"mkdir -p $(dirname {init}) && touch {init}")
    said = install(root)
    assert {"/etc/inittab": "telinit q", "/run/openrc": "rc-update", "/etc/runit": "/etc/sv/"}[
        init
    ] in said
    assert NOT_RUNNING not in said


def test_the_rpm_is_installed_upgraded_and_erased(root: OverlayRoot) -> None:
    rpm = peer("rpm", "rpm")
    more = dict(rpm.environment)
    if rpm.files is not None:
        more["RPM_CONFIGDIR"] = f"{rpm.files}/usr/lib/rpm"
    command = f"{rpm.path} --dbpath /tmp/rpm --nodeps"
    # Python is dpkg's here.
    assert NOT_RUNNING in root.sh(f"{command} -i /tmp/agent.rpm", environment=more)
    assert root.has(LINK)
    assert "(commit " in root.sh("giveback-agent --version")
    root.sh("systemctl disable giveback-agent.service")
    root.sh(f"{command} -U --replacepkgs /tmp/agent.rpm", environment=more)
    assert not root.has(LINK)
    root.sh("systemctl enable giveback-agent.service")
    root.sh(f"{command} -e giveback-agent", environment=more)
    assert root.sh(PURGED) == ""
