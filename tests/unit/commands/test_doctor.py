"""doctor under WSL 2: each key without an effect is a finding."""

from __future__ import annotations

from pathlib import Path

import pytest

from giveback.commands import doctor
from giveback.commands.doctor import machine_findings

MOUNTS = "C:\\134 /mnt/c 9p rw,noatime,aname=drvfs;path=C:\\;uid=1000,trans=fd 0 0\n"
CONFIG = (
    "[wsl2]\nautoMemoryReclaim=gradual\npageReporting=true\nmemory=4GB\n[experimental]\nfoo=1\n"
)


@pytest.fixture
def wsl(tmp_path: Path) -> Path:
    for path, text in {
        "proc/sys/kernel/osrelease": "5.15.167.4-microsoft-standard-WSL2\n",
        "proc/mounts": MOUNTS,
        "mnt/c/Users/me/.wslconfig": CONFIG,
    }.items():
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


def test_keys_without_an_effect_are_found(wsl: Path) -> None:
    found = machine_findings(str(wsl))
    assert found is not None
    evidence = " | ".join(finding.evidence for finding in found)
    assert "'autoMemoryReclaim' belongs in section [experimental]" in evidence
    assert "wsl2.pageReporting" in evidence
    assert "experimental.foo" in evidence
    assert "memory'" not in evidence


def test_a_machine_without_wsl_has_no_such_findings(tmp_path: Path) -> None:
    assert machine_findings(str(tmp_path)) is None


def test_doctor_shows_them(
    wsl: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = machine_findings(str(wsl))
    monkeypatch.setattr(doctor, "machine_findings", lambda: found)
    monkeypatch.setattr(doctor, "observe_host", lambda **_: [])
    from giveback.cli import main

    assert main(["doctor"]) == 0
    assert "this WSL 2 machine\n  may keep memory" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == 0
    assert '"this WSL 2 machine"' in capsys.readouterr().out
