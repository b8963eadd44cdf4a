"""`doctor`: facts from a tree of real files, and their output."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.__main__ import main
from giveback_agent.commands import doctor
from giveback_agent.doctor import checks, facts, other_reclaimers
from giveback_agent.doctor.checks import Check
from giveback_agent.wsl.detect import WslHost
from giveback_kernel.page_reporting import ORDER_PATH


def write(root: Path, path: str, text: str) -> Path:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    return target


def guest(root: Path) -> Path:
    """A guest with cgroup v2, a balloon that reports, and a quiet kernel log."""
    write(root, "/proc/sys/kernel/osrelease", "6.12.9\n")
    write(root, "/proc/self/mountinfo", "30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    write(root, "/sys/fs/cgroup/memory.reclaim", "")
    write(root, ORDER_PATH, "9\n")
    write(root, "/sys/bus/virtio/devices/virtio0/device", "0x0005\n")
    write(root, "/sys/bus/virtio/devices/virtio0/features", "0" * 5 + "1" + "0" * 58 + "\n")
    write(root, "/sys/bus/virtio/devices/virtio0/driver", "")
    write(root, "/proc/cmdline", "quiet\n")
    write(root, "/dev/kmsg", "6,0,0,-;Linux version 6.12.9\n")
    write(root, "/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n")
    write(root, "/proc/sys/vm/compact_memory", "")
    write(root, "/proc/sys/vm/drop_caches", "")
    write(root, "/proc/sys/vm/extfrag_threshold", "500\n")
    write(root, f"{facts.THP_PATH}/enabled", "always [madvise] never\n")
    write(root, f"{facts.THP_PATH}/khugepaged/max_ptes_none", "511\n")
    return root


def test_facts_of_a_guest(tmp_path: Path) -> None:
    found = facts.gather(str(guest(tmp_path)), [])
    assert found.reporting.active
    assert found.release == "6.12.9"
    assert found.order_access.ok
    assert found.reclaim == facts.Access("/sys/fs/cgroup/memory.reclaim", 0)
    assert found.swappiness is not None
    assert found.swappiness.ok
    assert found.thp == facts.Thp("madvise", None, 511)
    assert found.sysctls == {"extfrag_threshold": 500}
    assert found.psi.absent
    assert found.other_reclaimers == ()


def test_only_a_request_for_nothing_is_written(tmp_path: Path) -> None:
    root = guest(tmp_path)
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    facts.gather(str(root), [])
    after = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    reclaim = root / "sys/fs/cgroup/memory.reclaim"
    assert after.pop(reclaim) == b"0 swappiness=0"
    assert before.pop(reclaim) == b""
    assert after == before


def test_an_empty_root_gives_verdicts_and_no_error(tmp_path: Path) -> None:
    assert main(["--root", str(tmp_path), "doctor"]) == 0


def test_exit_code_says_whether_anything_is_bad(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = guest(tmp_path)
    assert main(["--root", str(root), "doctor"]) == 0
    assert "Free memory goes back" in capsys.readouterr().out
    write(root, ORDER_PATH, "-1\n")
    (root / "sys/bus/virtio/devices/virtio0/device").write_text("0x0001\n")
    assert main(["--root", str(root), "doctor"]) == 1
    assert "Memory cannot go back to the host because of: page reporting" in capsys.readouterr().out


def test_json_names_every_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--root", str(guest(tmp_path)), "doctor", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["kernel"] == "6.12.9"
    assert sum(said["summary"].values()) == len(said["checks"])
    assert set(said["checks"][0]) == {"name", "verdict", "evidence", "remedy", "more"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can drop its rights to be somebody else")
def test_without_rights_it_says_which_are_missing(tmp_path: Path) -> None:
    root = guest(tmp_path)
    (root / "proc/sys/vm/compact_memory").chmod(0o200)
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(folder.stat().st_mode | 0o055)
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
        found = {c.name: c for c in checks.judge(facts.gather(str(root), []))}
        os.write(writer, f"{found['compaction'].verdict} {found['rights'].verdict}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == "unknown warn"
    os.waitpid(pid, 0)


@given(st.text(), st.integers(20, 200))
def test_nothing_foreign_reaches_a_terminal_raw(text: str, width: int) -> None:
    found = facts.gather("/nonexistent", [])
    verdict = Check("name", checks.WARN, text, text)
    shown = doctor.to_text(found, [verdict], width, colour=False)
    assert all(c.isprintable() or c == "\n" for c in shown)


def test_colour_only_where_asked() -> None:
    found = facts.gather("/nonexistent", [])
    verdicts = checks.judge(found)
    plain = doctor.to_text(found, verdicts, 100, colour=False)
    coloured = doctor.to_text(found, verdicts, 100, colour=True)
    assert "\x1b" not in plain
    assert "\x1b[36munknown" in coloured
    for code in (*doctor.COLOURS.values(), "0"):
        coloured = coloured.replace(f"\x1b[{code}m", "")
    assert coloured == plain


def test_lines_fit_the_terminal() -> None:
    found = facts.gather("/nonexistent", [])
    for width in (60, 80, 110):
        text = doctor.to_text(found, checks.judge(found), width, colour=False)
        *rows, _, _ = text.splitlines()
        long = [line for line in rows if len(line) > width and " " in line.strip()]
        assert [line for line in long if len(line.split()[-1]) < width // 2] == []


@pytest.mark.parametrize(
    ("path", "text", "found"),
    [
        ("/etc/cron.d/wsl", "* * * * * root echo 3 > /proc/sys/vm/drop_caches\n", "drop_caches"),
        ("/etc/crontab", "# echo 3 > /proc/sys/vm/drop_caches\n", ""),
        ("/etc/systemd/system/free.service", "ExecStart=sysctl vm.compact_memory=1\n", "compact"),
        ("/etc/systemd/system/giveback-agent.service", "# drop_caches\nx drop_caches\n", ""),
        ("/sys/module/damon_reclaim/parameters/enabled", "Y\n", "damon_reclaim"),
        ("/sys/module/damon_reclaim/parameters/enabled", "N\n", ""),
        ("/proc/77/comm", "senpai\n", "senpai runs (pid 77)"),
    ],
)
def test_other_reclaimers(tmp_path: Path, path: str, text: str, found: str) -> None:
    write(tmp_path, path, text)
    said = other_reclaimers.find(str(tmp_path), None)
    assert len(said) == bool(found)
    assert found in "".join(said)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "its default is DropCache"),
        ("[experimental]\nautoMemoryReclaim=gradual\n", "says Gradual"),
        ("[experimental]\nautoMemoryReclaim=disabled\n", ""),
        ("[experimental]\nautoMemoryReclaim=true\n", "its default is DropCache"),
    ],
)
def test_wsls_own_reclaim_is_found(tmp_path: Path, text: str | None, expected: str) -> None:
    write(tmp_path, "/proc/mounts", "C:\\134 /mnt/c 9p rw,aname=drvfs;path=C:\\ 0 0\n")
    (tmp_path / "mnt/c/Users/me").mkdir(parents=True)
    if text is not None:
        write(tmp_path, "/mnt/c/Users/me/.wslconfig", text)
    from giveback_agent.wsl.detect import drives_of
    from giveback_kernel.mounts import read_mounts

    drives = drives_of(read_mounts(str(tmp_path)))
    host = WslHost("5.15.0-microsoft-standard-WSL2", ("release",), drives)
    said = other_reclaimers.find(str(tmp_path), host)
    assert len(said) == bool(expected)
    assert expected in "".join(said)


def test_a_distribution_of_wsl_in_its_namespace_is_warned(tmp_path: Path) -> None:
    # microsoft/WSL#41512: with isolateDistroCgroup doctor once found nothing wrong.
    top = "/sys/fs/cgroup"
    write(tmp_path, "/proc/self/mountinfo", f"30 1 0:26 / {top} rw - cgroup2 cgroup2 rw\n")
    write(tmp_path, f"{top}/cgroup.type", "domain\n")
    stat = f"inactive_file {64 << 20}\nactive_file 0\n"
    for path in ("", "/docker.service"):
        write(tmp_path, f"{top}{path}/memory.stat", stat)
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    lru = f"memcg 9 /wsl-user/distro-27/docker.service\n node 0\n 1 9 0 {pages}\n"
    write(tmp_path, "/sys/kernel/debug/lru_gen", lru)
    found = facts.gather(str(tmp_path), [])
    assert found.cgroup_place == "/wsl-user/distro-27"
    said = next(check for check in checks.judge(found) if check.name == "cgroup")
    assert said.verdict == checks.WARN
    assert "root is /wsl-user/distro-27" in said.evidence
    write(tmp_path, "/sys/kernel/debug/lru_gen", "")
    said = next(c for c in checks.judge(facts.gather(str(tmp_path), [])) if c.name == "cgroup")
    assert "not yet recognised" in said.evidence
