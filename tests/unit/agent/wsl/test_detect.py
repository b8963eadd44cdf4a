"""WSL 2, against fakes of the outside: mounted drives, interop's programs, a boot log."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.runtime import child
from giveback_agent.settings import load, table
from giveback_agent.wsl import detect as wsl_detect
from giveback_agent.wsl.detect import (
    Drive,
    WslHost,
    detect,
    drives_of,
    find_wslconfig,
    to_guest_path,
)
from giveback_agent.wsl.windows_view import (
    WindowsProcess,
    choose_process,
    cold_discard,
    judge_boot_log,
    missing_advice,
    parse_get_process,
    parse_tasklist,
    windows_side,
)
from giveback_kernel import page_reporting
from giveback_kernel.kmsg import KernelLog
from giveback_kernel.mounts import parse_table

WSL2 = "5.15.167.4-microsoft-standard-WSL2"
WSL1 = "4.4.0-19041-Microsoft"
MOUNTS = (
    "/dev/sdc / ext4 rw,relatime 0 0\n"
    "drivers /usr/lib/wsl/drivers 9p ro,aname=drivers;fmask=222,trans=fd 0 0\n"
    "D:\\134 /mnt/d 9p rw,noatime,aname=drvfs;path=D:\\;uid=1000,trans=fd,rfd=8,wfd=8 0 0\n"
    "C:\\134 /mnt/c 9p rw,noatime,aname=drvfs;path=C:\\;uid=1000;symlinkroot=/mnt/,trans=fd 0 0\n"
)
SYSTEM32 = "mnt/c/Windows/System32"
CONFIG = "[experimental]\nautoMemoryReclaim=gradual\n"


class FakeWindows:
    """A guest's root folder as WSL 2 lays it out, with shell scripts for Windows programs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.put("proc/sys/kernel/osrelease", WSL2 + "\n")
        self.put("proc/mounts", MOUNTS)
        (root / "mnt/c/Users").mkdir(parents=True)

    def put(self, path: str, content: str | bytes) -> Path:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def program(self, path: str, script: str) -> None:
        self.put(path, f"#!/bin/sh\n{script}\n").chmod(0o755)

    def answer(self, path: str, output: bytes, status: int = 0) -> None:
        """Add a program that prints `output` for any arguments."""
        said = self.put(f"{path}.says", output)
        self.program(path, f"cat '{said}'; exit {status}")

    def profile(self, name: str, config: str | None = CONFIG) -> None:
        (self.root / "mnt/c/Users" / name).mkdir(parents=True)
        if config is not None:
            self.put(f"mnt/c/Users/{name}/.wslconfig", config)

    def host(self, **environ: str) -> WslHost:
        host = detect(str(self.root), environ)
        assert host is not None
        return host

    def find(self, timeout_s: float = 10.0, **environ: str) -> wsl_detect.ConfigFile:
        return find_wslconfig(str(self.root), self.host(**environ), timeout_s)


@pytest.fixture
def windows(tmp_path: Path) -> FakeWindows:
    return FakeWindows(tmp_path)


# Detection


def test_wsl2_is_told_by_its_kernel(windows: FakeWindows) -> None:
    host = windows.host()
    assert host.release == WSL2
    assert not host.custom_kernel
    assert [d.mount for d in host.drives] == ["/mnt/c", "/mnt/d"]


@pytest.mark.parametrize("mark", ["WSLInterop", "WSLInterop-late"])
def test_wsl2_with_a_custom_kernel_is_told_by_interop_and_vmbus(
    windows: FakeWindows, mark: str
) -> None:
    windows.put("proc/sys/kernel/osrelease", "6.12.1-mine\n")
    assert detect(str(windows.root), {}) is None
    windows.put(f"proc/sys/fs/binfmt_misc/{mark}", "enabled\ninterpreter /init\n")
    assert detect(str(windows.root), {}) is None
    (windows.root / "sys/bus/vmbus").mkdir(parents=True)
    assert windows.host().custom_kernel


def test_wsl1_is_not_wsl2_for_all_its_interop(windows: FakeWindows) -> None:
    windows.put("proc/sys/kernel/osrelease", WSL1 + "\n")
    windows.put("proc/sys/fs/binfmt_misc/WSLInterop", "enabled\n")
    windows.put("run/WSL/8_interop", "")
    assert detect(str(windows.root), {"WSL_INTEROP": "/run/WSL/8_interop"}) is None


def test_a_hyperv_guest_and_a_bare_machine_are_not_wsl2(tmp_path: Path) -> None:
    assert detect(str(tmp_path), {}) is None
    (tmp_path / "sys/bus/vmbus").mkdir(parents=True)
    assert detect(str(tmp_path), {"WSL_INTEROP": "/run/WSL/gone"}) is None


@pytest.mark.parametrize("release", [WSL2, WSL1, "6.12.1-mine", "6.1.0-custom-WSL2+"])
@pytest.mark.parametrize("mark", ["", "run/WSL/1_interop", "proc/sys/fs/binfmt_misc/WSLInterop"])
@pytest.mark.parametrize("bus", ["", "sys/bus/vmbus/x"])
def test_the_cheap_hint_misses_nothing(
    windows: FakeWindows, release: str, mark: str, bus: str
) -> None:
    windows.put("proc/sys/kernel/osrelease", release)
    for path in filter(None, (mark, bus)):
        windows.put(path, "")
    assert load.detect_wsl(str(windows.root)) == detect(str(windows.root))


@given(st.text(max_size=30), st.lists(st.text(max_size=5)), st.lists(st.text(max_size=5)))
def test_recognition_rests_on_evidence(release: str, marks: list[str], buses: list[str]) -> None:
    evidence = wsl_detect.recognise(release, marks, buses)
    named = "microsoft-standard" in release or "WSL2" in release
    assert bool(evidence) is (named or bool(marks and buses))


def test_the_interop_socket_is_the_named_one_or_inits(windows: FakeWindows) -> None:
    assert windows.host().interop_socket == ""
    windows.put("run/WSL/412_interop", "")
    assert windows.host().interop_socket == "/run/WSL/412_interop"
    windows.put("run/WSL/1_interop", "")
    assert windows.host(WSL_INTEROP="/run/WSL/99_interop").interop_socket == "/run/WSL/1_interop"
    named = windows.host(WSL_INTEROP="/run/WSL/412_interop")
    assert named.interop_socket == "/run/WSL/412_interop"


# Drives and paths


@pytest.mark.parametrize(
    ("line", "drive"),
    [
        ("drvfs /mnt/c 9p rw,aname=drvfs;path=C:\\;uid=0 0 0", Drive("C", "/mnt/c")),
        ("C: /mnt/c drvfs rw,noatime,uid=1000 0 0", Drive("C", "/mnt/c")),
        ("drvfsC0 /mnt/c virtiofs rw,noatime 0 0", Drive("C", "/mnt/c")),
        ("C:\\134 /win\\040drives/c 9p rw,aname=drvfs;path=C:\\ 0 0", Drive("C", "/win drives/c")),
        ("C:\\134Users\\134me /mnt/m 9p rw,aname=drvfs;path=C:\\Users\\me;uid=0 0 0", None),
        ("\\134\\134server\\134share /mnt/s 9p rw,aname=drvfs;path=UNC\\server\\share 0 0", None),
        ("hostshare /mnt/c 9p rw,trans=virtio 0 0", None),
        ("mount0 /mnt/c virtiofs rw 0 0", None),
    ],
)
def test_which_mounts_are_windows_drives(line: str, drive: Drive | None) -> None:
    assert drives_of(parse_table(line.encode())) == ((drive,) if drive else ())


def test_virtiofs_drives_below_another_automount_root(windows: FakeWindows) -> None:
    windows.put("etc/wsl.conf", "[automount]\nroot = /\n")
    windows.put("proc/mounts", "drvfsC0 /c virtiofs rw 0 0\n")
    assert windows.host().drives == (Drive("C", "/c"),)


def test_a_drive_that_another_mount_hides_is_not_there(windows: FakeWindows) -> None:
    windows.put("proc/mounts", MOUNTS + "none /mnt/d tmpfs rw 0 0\n")
    assert [d.letter for d in windows.host().drives] == ["C"]


def test_a_folder_of_a_drive_is_not_the_drive(windows: FakeWindows) -> None:
    c = "0:55 {} {} rw - 9p C:\\134 rw,aname=drvfs;path=C:\\;uid=1000\n"
    table = "60 1 8:32 / / rw - ext4 /dev/sdc rw\n"
    table += "70 60 " + c.format("/Users/me", "/home/me/win") + "71 60 " + c.format("/", "/mnt/c")
    windows.put("proc/self/mountinfo", table)
    assert windows.host().drives == (Drive("C", "/mnt/c"),)
    windows.put("proc/self/mountinfo", table + "72 60 0:60 / /mnt rw - tmpfs none rw\n")
    assert windows.host().drives == (Drive("C", "/home/me/win"),)


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(MOUNTS.split(" ")), max_size=20).map(
        lambda parts: " ".join(parts).encode()
    )
)
def test_any_mount_table_gives_distinct_drives(data: bytes) -> None:
    drives = drives_of(parse_table(data))
    assert len({d.letter for d in drives}) == len(drives)
    assert all("A" <= d.letter <= "Z" for d in drives)


@given(st.text(max_size=30))
def test_a_windows_path_never_leads_out_of_its_drive(path: str) -> None:
    drives = (Drive("C", "/mnt/c"),)
    for tried in (path, "C:\\" + path, "c:/" + path):
        guest = to_guest_path(tried, drives)
        assert guest is None or os.path.normpath(guest).startswith("/mnt/c")
    assert to_guest_path("D:\\x", drives) is None
    assert to_guest_path("\\\\server\\home", drives) is None
    assert to_guest_path("c:\\Users\\me", drives) == "/mnt/c/Users/me"


# Whose .wslconfig


def test_the_profile_that_interop_names(windows: FakeWindows) -> None:
    windows.profile("someone")
    windows.profile("Jörg W", "[wsl2]\nidleThreshold=0\n")
    unc_complaint = "'\\\\wsl$\\Debian\\root'\r\nUNC paths are not supported.\r\n"
    said = f"{unc_complaint}C:\\Users\\Jörg W\r\n".encode("utf-16-le")
    windows.answer(f"{SYSTEM32}/cmd.exe", said)
    found = windows.find()
    assert found.path == "/mnt/c/Users/Jörg W/.wslconfig"
    assert found.data == b"[wsl2]\nidleThreshold=0\n"
    assert "interop" in found.how
    loaded = load.load(str(windows.root), [], windows.host())
    assert loaded.sources["idle_threshold"] == "/mnt/c/Users/Jörg W/.wslconfig:2"


def test_wslpath_has_the_word_on_where_a_drive_is(windows: FakeWindows) -> None:
    windows.answer(f"{SYSTEM32}/cmd.exe", b"E:\\me\r\n")
    windows.program("usr/bin/wslpath", '[ "$1 $2" = "-u E:\\me" ] && echo /elsewhere/me')
    windows.put("elsewhere/me/.wslconfig", CONFIG)
    assert windows.find().path == "/elsewhere/me/.wslconfig"


def test_interop_is_given_its_socket_and_programs_are_found_in_path(windows: FakeWindows) -> None:
    windows.profile("me")
    windows.put("run/WSL/1_interop", "")
    script = '[ "$WSL_INTEROP" = /run/WSL/1_interop ] && [ "$4 $5" = "echo %USERPROFILE%" ] &&'
    windows.program("opt/win/cmd.exe", script + " printf 'C:\\\\Users\\\\me\\r\\n'")
    found = windows.find(PATH="/opt/win:relative")
    assert (found.path, found.data) == ("/mnt/c/Users/me/.wslconfig", CONFIG.encode())
    assert "interop" in found.how


def test_a_profile_without_the_file_is_no_warning(windows: FakeWindows) -> None:
    windows.profile("me", None)
    windows.profile("other")
    windows.answer(f"{SYSTEM32}/cmd.exe", b"C:\\Users\\me\r\n")
    found = windows.find()
    assert found.data is None
    assert "there is no such file" in found.how
    assert found.warnings == ()


@pytest.mark.parametrize(
    "output", [b"", b"%USERPROFILE%\r\n", b"\xff\xfe\x00", b"C:\\Users\\gone\r\n", b"C:\\..\\etc\n"]
)
def test_a_useless_answer_falls_back_to_the_drives(windows: FakeWindows, output: bytes) -> None:
    windows.profile("me")
    (windows.root / "mnt/c/Users/Public").mkdir()
    windows.put("mnt/c/Users/Public/.wslconfig", CONFIG)
    windows.answer(f"{SYSTEM32}/cmd.exe", output, status=1)
    found = windows.find()
    assert found.path == "/mnt/c/Users/me/.wslconfig"
    assert found.how == "the only one on the Windows drives"


def test_of_several_users_none_is_guessed_but_path_decides(windows: FakeWindows) -> None:
    windows.profile("me")
    windows.profile("you")
    found = windows.find()
    assert found.data is None
    assert len(found.warnings) == 1
    assert "/mnt/c/Users/me, /mnt/c/Users/you" in found.warnings[0]
    apps = "/mnt/c/Users/you/AppData/Local/Microsoft/WindowsApps"
    assert windows.find(PATH=f"/usr/bin:{apps}").path == "/mnt/c/Users/you/.wslconfig"
    assert windows.find(PATH=f"{apps}:/mnt/c/Users/me/bin").data is None


def test_no_windows_drive_is_said(windows: FakeWindows) -> None:
    windows.put("proc/mounts", "")
    assert windows.find().how == "none found (no Windows drive is mounted)"


@pytest.mark.parametrize("kind", ["folder", "huge"])
def test_a_file_that_cannot_be_read_is_a_warning(windows: FakeWindows, kind: str) -> None:
    windows.profile("me", None if kind == "folder" else "#" * (1 << 20))
    if kind == "folder":
        (windows.root / "mnt/c/Users/me/.wslconfig").mkdir()
    loaded = load.load(str(windows.root), [], windows.host())
    assert loaded.settings == table.AgentSettings()
    assert len(loaded.warnings) == 1
    assert "Failed to open config file /mnt/c/Users/me/.wslconfig" in loaded.warnings[0]


def test_a_pipe_in_its_place_is_told_at_once(windows: FakeWindows) -> None:
    windows.profile("me", None)
    os.mkfifo(windows.root / "mnt/c/Users/me/.wslconfig")  # no process will ever write to it
    found = windows.find()
    assert found.data is None
    assert "not a regular file" in found.warnings[0]


def test_a_dead_windows_side_does_not_hang_the_agent(
    windows: FakeWindows, monkeypatch: pytest.MonkeyPatch
) -> None:
    windows.profile("me", "")
    monkeypatch.setattr(wsl_detect, "_read_answer", lambda *_: time.sleep(60))  # 9p waits like that
    windows.program(f"{SYSTEM32}/cmd.exe", "exec cat /dev/zero")
    found = windows.find(timeout_s=1.5)
    assert found.data is None
    assert "no answer within 1.5 s" in found.warnings[0]


# The bounded child


def test_what_the_child_returns_or_writes_comes_back() -> None:
    assert child.in_child(lambda: b"x" * 200_000, 30) == child.Outcome(b"x" * 200_000)
    assert child.run(["/nonexistent", "/bin/echo"], ["hi"], 30).output == b"hi\n"


def test_a_failing_child_is_said() -> None:
    assert child.in_child(lambda: bytes(1 // 0), 30).reason == "exit status 1"
    assert child.run(["/nonexistent"], [], 30).reason == "not found, or not executable here"
    assert child.run(["/bin/sh"], ["-c", "kill -9 $$"], 30).reason == "exit status -9"


def test_too_much_output_is_not_kept() -> None:
    endless = child.run(["/bin/cat"], ["/dev/zero"], 30)
    assert endless.output == b""
    assert "bytes of output" in endless.reason


def test_a_child_that_hangs_is_killed_and_reaped() -> None:
    def hang() -> bytes:
        os.write(1, b"%d" % os.getpid())
        signal.pause()
        return b""

    outcome = child.in_child(hang, 1.5)
    assert outcome.reason == "no answer within 1.5 s"
    with pytest.raises(ProcessLookupError):
        os.kill(int(outcome.output), 0)


def test_a_child_that_is_left_behind_holds_no_lock_of_ours(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as held:
        number = held.fileno()
        closed = child.in_child(lambda: b"%d" % Path(f"/proc/self/fd/{number}").exists(), 30)
    assert closed.output == b"0"


def test_what_a_killed_program_started_goes_with_it(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"sleep 3600 & echo $! > {pid_file}.new; mv {pid_file}.new {pid_file}; wait"
    assert child.run(["/bin/sh"], ["-c", script], 1.5, {"PATH": "/usr/bin:/bin"}).reason
    deadline_s = time.monotonic() + 30
    while is_running(int(pid_file.read_text())):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Tell whether a process exists and is not a zombie that waits for init to reap it."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


# The VM as Windows shows it

TASKLIST = (
    '"System Idle Process","0","Services","0","8 K"\r\n'
    '"vmmem","5120","Services","0","812,004 K"\r\n'
    '"vmmemWSL","9448","Services","0","3.937.576 K"\r\n'
)


def test_the_working_set_from_tasklist(windows: FakeWindows) -> None:
    windows.answer(f"{SYSTEM32}/tasklist.exe", TASKLIST.encode())
    side = windows_side(str(windows.root), windows.host())
    assert side.process == WindowsProcess("vmmemWSL", 9448, 3937576 << 10)
    assert side.reason == ""


def test_powershell_where_tasklist_is_not(windows: FakeWindows) -> None:
    windows.answer(
        f"{SYSTEM32}/WindowsPowerShell/v1.0/powershell.exe", b"9448 4032077824 vmmemWSL\r\n"
    )
    side = windows_side(str(windows.root), windows.host())
    assert side.process == WindowsProcess("vmmemWSL", 9448, 4032077824)


def test_without_interop_the_reason_is_given(windows: FakeWindows) -> None:
    side = windows_side(str(windows.root), windows.host())
    assert side.process is None
    assert "tasklist.exe: not found" in side.reason
    assert "powershell.exe: not found" in side.reason


def test_the_only_vmmem_is_this_vm_and_of_several_none_is_chosen() -> None:
    one, two = WindowsProcess("vmmem", 1, 10), WindowsProcess("Vmmem", 2, 20)
    assert choose_process([one]).process == one
    several = choose_process([one, two])
    assert several.process is None
    assert "pid 1" in several.reason
    assert "vmmem" in choose_process([]).reason


@given(st.integers(0, 1 << 38), st.sampled_from(["", ",", ".", " ", "\u00a0", "'"]))
def test_any_locales_thousands_are_read(kib: int, separator: str) -> None:
    grouped = f"{kib:,}".replace(",", separator)
    line = f'"vmmemWSL","77","Services","0","{grouped} K"\r\n'.encode("latin-1")
    assert parse_tasklist(line) == (WindowsProcess("vmmemWSL", 77, kib << 10),)


@given(
    st.binary(max_size=200)
    | st.lists(st.sampled_from(TASKLIST.split(",")), max_size=20).map(
        lambda parts: ",".join(parts).encode()
    )
)
def test_no_output_of_windows_can_make_it_fail(data: bytes) -> None:
    for process in (*parse_tasklist(data), *parse_get_process(data)):
        assert process.name.lower().startswith("vmmem")
        assert 0 <= process.working_set_bytes <= 1 << 50


# The kernel's side of it

BOOT = (
    "6,0,0,-;Linux version 6.6.87.2-microsoft-standard-WSL2\n"
    "6,300,156128,-;hv_vmbus: registering driver hv_balloon\n"
    "6,301,156856,-;hv_balloon: Using Dynamic Memory protocol version 2.0\n"
)
ENABLED = "6,302,157478,-;Free page reporting enabled\n"
HINT = "6,303,157594,-;hv_balloon: Cold memory discard hint enabled"


@pytest.mark.parametrize(("suffix", "order"), [("", None), (" with order 9", 9)])
def test_the_cold_discard_hint_and_its_order(
    windows: FakeWindows, suffix: str, order: int | None
) -> None:
    windows.put("dev/kmsg", f"{BOOT}{ENABLED}{HINT}{suffix}\n")
    probed = cold_discard(str(windows.root))
    assert (probed.enabled, probed.order, probed.failure) == (True, order, "")
    state = page_reporting.probe(str(windows.root))
    assert missing_advice(windows.host(), state) is None


def test_the_advice_for_a_custom_kernel_without_reporting_names_the_missing_options(
    windows: FakeWindows,
) -> None:
    windows.put("proc/sys/kernel/osrelease", "5.7.11-WSL2-custom\n")
    windows.put("dev/kmsg", BOOT)
    assert cold_discard(str(windows.root)).enabled is False
    advice = missing_advice(windows.host(), page_reporting.probe(str(windows.root)))
    assert advice is not None
    assert advice.startswith("This custom kernel (5.7.11-WSL2-custom) does not report free pages")
    assert "WSL's compaction has no effect" in advice


def test_a_log_that_lost_its_beginning_proves_nothing(windows: FakeWindows) -> None:
    windows.put("dev/kmsg", "6,900,99,-;hv_balloon: Max. dynamic memory size: 8118 MB\n")
    probed = cold_discard(str(windows.root))
    assert probed.enabled is None
    assert "gone" in probed.unread
    assert missing_advice(windows.host(), page_reporting.probe(str(windows.root))) is None


def test_a_log_that_may_not_be_read_is_said(windows: FakeWindows) -> None:
    probed = cold_discard(str(windows.root))
    assert probed.enabled is None
    assert "/dev/kmsg" in probed.unread


def test_a_refused_report_is_kept() -> None:
    failed = "hv_balloon: Cold memory discard hypercall failed with status 5"
    judged = judge_boot_log(KernelLog((HINT.split(";")[1] + " with order 2", failed), True))
    assert (judged.enabled, judged.order, judged.failure) == (True, 2, failed)
    refused = "hv_balloon: Failed to enable cold memory discard: -16"
    assert judge_boot_log(KernelLog((refused,), True)).failure == refused


@given(st.lists(st.text(max_size=30)), st.booleans())
def test_any_log_can_be_judged(messages: list[str], complete: bool) -> None:
    judged = judge_boot_log(KernelLog(tuple(messages), complete))
    assert judged.order is None or 0 <= judged.order < 64
    assert (judged.enabled is None) is (judged.unread != "")
