"""Runs in a distribution guest, as its root: installs giveback's daemon, and plays strangers against it.

Each attack says what came of it in one line of JSON. Strangers are real processes of other uids; the API is
asked by a user who has no rights but to read. Standard library only, and the contract tests' strangers.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parent))
import stuck_fuse
from named_python import ENVIRONMENT, python_named
from strangers import MALLORY, VICTIM, Stranger, stranger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
GIVEBACK = "/opt/giveback/bin/giveback"
UNIT = "giveback-daemon.service"
RUN = "/run/giveback-daemon"
READER = 1000
"""The distribution guest's user `lab`, whom the settings let read."""
SETTINGS = """
[daemon]
socket_group = "lab"
metrics_listen = "127.0.0.1:9835"
[access]
read = ["lab"]
"""
QEMU = "/opt/qemu-system-x86_64"
PORT = ["-device", "virtserialport,chardev=c,name=org.giveback.agent.0"]
DEADLINE_S = 300.0
POLL_S = 0.3
MALLORYS = f"@uid{MALLORY}"
MANY_MAPPINGS = """
import ctypes, signal, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
for number in range(60_000):
    # Private, anonymous, not reserved; of two kinds in turn, so that they do not become one.
    libc.mmap(None, ctypes.c_size_t(4096), [1, 3][number % 2], 0x4022, -1, ctypes.c_long(0))
"""
READY = "\nprint('ready', flush=True)\nimport signal\nsignal.pause()\n"
LOCKS = """
import fcntl, os, sys
held = []
for top in sys.argv[1:]:
    for folder, _, names in os.walk(top):
        for path in (folder, *(os.path.join(folder, name) for name in names)):
            try:
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            held.append(path)
print(len(held), flush=True)
sys.stdin.read()
"""


def sh(*words: str, code: int = 0) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == code, f"{words}: {done.returncode} {done.stdout} {done.stderr}"
    return done.stdout


def until(holds: Callable[[], object], what: str) -> Any:  # noqa: ANN401
    deadline_s = time.monotonic() + DEADLINE_S
    while not (found := holds()):
        if time.monotonic() > deadline_s:
            raise AssertionError(f"not within {DEADLINE_S:.0f} s: {what}: {json.dumps(status())}")
        time.sleep(POLL_S)
    return found


def as_user(uid: int) -> dict[str, Any]:
    """Popen's arguments for a process of this user, without any group but its own."""
    return {"user": uid, "group": uid, "extra_groups": []}


# What the daemon says, to a user who may only read.


def ask(method: str, resource: str, body: object = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("daemon", timeout=DEADLINE_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(DEADLINE_S)
    with contextlib.closing(connection):
        connection.sock.connect(f"{RUN}/api.sock")
        text = None if body is None else json.dumps(body)
        connection.request(method, resource, text, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def asked(method: str, resource: str, body: object = None, uid: int = READER) -> tuple[int, Any]:
    """The same from a process of this user. (0, the error) where it may not even connect."""
    incoming, outgoing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            try:
                found: object = ask(method, resource, body)
            except OSError as error:
                found = (0, str(error))
            with os.fdopen(outgoing, "w") as file:
                json.dump(found, file)
        finally:
            os._exit(0)
    os.close(outgoing)
    with os.fdopen(incoming) as file:
        text = file.read()
    os.waitpid(child, 0)
    status, answer = json.loads(text or '[0, "it died"]')
    return status, answer


def status() -> dict[str, Any]:
    """The daemon's status; {} where it gives none."""
    code, answer = asked("GET", "/v1/status")
    return answer if code == 200 else {}


def vm(name: str) -> dict[str, Any]:
    return next((one for one in status().get("vms", ()) if one["name"] == name), {})


def main_pid() -> int:
    return int(sh("systemctl", "show", "-P", "MainPID", UNIT))


def restarts() -> int:
    return int(sh("systemctl", "show", "-P", "NRestarts", UNIT))


# Processes.


@contextlib.contextmanager
def process(name: str, words: list[str], *, uid: int, program: str) -> Iterator[int]:
    """A process that says it is a QEMU with these words, and runs `program`, which says `ready`."""
    command = [QEMU, "-S", "-c", program, *words, "-name", name]
    with subprocess.Popen(
        command, executable=python_named(QEMU), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        env=ENVIRONMENT, umask=0o177, **as_user(uid),
    ) as child:  # fmt: skip
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n", name
            yield child.pid
        finally:
            child.kill()


@contextlib.contextmanager
def guest(folder: Path, name: str, uid: int) -> Iterator[Path]:
    """A VM of this user with an agent, 48 of its 64 MiB resident. Yields the urgencies it was told."""
    log, port = folder / f"{name}.log", folder / f"{name}.port"
    log.touch()
    log.chmod(0o666)
    spec = {"ram_mib": 64, "held_mib": 48, "cache_mib": 16, "kind": "good", "log": str(log)}
    words = [json.dumps({**spec, "port": str(port)}), "-m", "64M"]
    words += ["-device", "virtio-balloon-pci,free-page-reporting=on"]
    words += ["-chardev", f"socket,id=c,path={port},server=on,wait=off", *PORT]
    program = (HERE / "guest_process.py").read_text()
    with process(name, words, uid=uid, program=program):
        yield log


def qemu(name: str, monitor: str, agent: str = "") -> list[str]:
    words = [QEMU, "-m", "64M", "-name", name, "-qmp", f"{monitor},server=on,wait=off"]
    if agent:
        words += ["-chardev", f"socket,id=c,path={agent},server=on,wait=off", *PORT]
    return words


# The attacks, in the order in which they are played.


def installed(folder: Path) -> dict[str, Any]:
    """As docs/daemon.md says; another user's VM is seen, counted and told; who may read is answered."""
    Path("/etc/giveback").mkdir()
    Path("/etc/giveback/giveback.toml").write_text(SETTINGS)
    unit = sh(GIVEBACK, "daemon", "--print-unit")
    Path(f"/etc/systemd/system/{UNIT}").write_text(unit)
    sh("systemctl", "daemon-reload")
    sh("systemctl", "enable", "--now", UNIT)
    until(lambda: vm("web").get("condition") == "ok", "the VM's agent")
    until((folder / "web.log").read_text, "an urgency for the VM")
    with socket.create_connection(("127.0.0.1", 9835), DEADLINE_S) as metrics:
        metrics.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        first = metrics.makefile("rb").readline().decode()
    shown = sh("systemctl", "show", "-p", "Type,WatchdogUSec,NRestarts,ActiveState", UNIT)
    proc = Path(f"/proc/{main_pid()}/status").read_text().splitlines()
    kept = ("CapEff", "NoNewPrivs", "Seccomp:", "State")
    return {
        "unit": shown.split(), "condition": vm("web")["condition"], "metrics": first.strip(),
        "process": [line for line in proc if line.startswith(kept)],
    }  # fmt: skip


def api(_: Path) -> dict[str, Any]:
    """Who may read changes nothing; another user does not even connect."""
    ask_mib = {"bytes": 1 << 20}
    read, answer = asked("POST", "/v1/reclaim", ask_mib)
    other = asked("GET", "/v1/status", uid=MALLORY)
    proxy = []
    for uid in (READER, MALLORY):
        done = subprocess.run(
            [sys.executable, "-c", f"import socket; socket.socket(1).connect('{RUN}/guests.sock')"],
            stderr=subprocess.PIPE, text=True, check=False, **as_user(uid),
        )  # fmt: skip
        proxy.append(done.stderr.strip().splitlines()[-1])
    return {"reclaim": read, "said": answer, "other": other, "proxy": proxy}


def sockets(folder: Path) -> dict[str, Any]:
    """Another user's monitor, agent's port, abstract socket and root's TCP, by every VMM's command line."""
    theirs, agent = f"{folder}/q", f"{folder}/a"
    listen = (theirs, agent, "@giveback-victim")
    with (
        stranger(folder / "victim.log", ["database"], uid=VICTIM, listen=listen) as victim,
        stranger(folder / "root.log", ["monitor"], uid=0, listen=("tcp",)) as of_root,
        contextlib.ExitStack() as stack,
    ):
        (folder / "link").symlink_to(theirs)
        os.link(theirs, folder / "hard")
        os.mkfifo(folder / "fifo", 0o666)
        fakes = {
            "qmp": qemu("qmp", f"unix:{theirs}", agent),
            "link": qemu("link", f"unix:{folder}/link"),
            "hard": qemu("hard", f"unix:{folder}/hard"),
            "fifo": qemu("fifo", f"unix:{folder}/fifo", f"{folder}/fifo"),
            "tcp": qemu("tcp", f"tcp:127.0.0.1:{of_root.port}"),
            "abstract": qemu("abstract", "unix:giveback-victim,abstract=on"),
            "fc": ["firecracker", "--id", "fc", f"--api-sock={theirs}"],
            "ch": ["cloud-hypervisor", "--memory", "size=64M", "--api-socket", theirs],
        }
        for name, words in fakes.items():
            # One of its own beside: having a socket proves nothing of others.
            beside = (f"{folder}/own-{name}", "tcp")
            log = folder / f"{name}.log"
            stack.enter_context(stranger(log, words, uid=MALLORY, listen=beside))
        words = qemu("own", f"unix:{folder}/own")
        of_own = stack.enter_context(
            stranger(folder / "own.log", words, uid=MALLORY, listen=(f"{folder}/own",))
        )
        until(lambda: "query-status" in said(of_own), "a question at a VM's own monitor")
        until(lambda: len(fakes_seen()) > len(fakes), "every fake in the status")
        seen = fakes_seen()
        shown = sh(GIVEBACK, "ps", "--json")
        listed = sorted(one["name"] for one in json.loads(shown))
        return {
            "heard": said(victim) + said(of_root), "fakes": sorted(fakes), "seen": seen,
            "ps": listed,
        }  # fmt: skip


def fakes_seen() -> dict[str, str]:
    """What is said of each VM of MALLORY's, by its name without its owner's."""
    return {
        one["name"].removesuffix(MALLORYS): one["condition_text"]
        for one in status().get("vms", ())
        if one["uid"] == MALLORY
    }


def said(one: Stranger) -> str:
    return one.log.read_text()


def floods(folder: Path) -> dict[str, Any]:
    """Command lines of 214 KiB, and 60,000 mappings: others are counted, and the API answers."""
    devices = [w for n in range(4000) for w in ("-device", f"virtserialport,id=a{n}")]
    longest_s = 0.0
    with contextlib.ExitStack() as stack:
        for number in range(8):
            name = f"long-{number}"
            stack.enter_context(process(name, devices, uid=MALLORY, program=READY))
        stack.enter_context(
            process("maps", ["-m", "64M"], uid=MALLORY, program=MANY_MAPPINGS + READY)
        )
        stack.enter_context(guest(folder, "later", VICTIM))

        def counted() -> bool:
            nonlocal longest_s
            begun_s = time.monotonic()
            found = {one["name"]: one for one in status().get("vms", ())}
            longest_s = max(longest_s, time.monotonic() - begun_s)
            long_ones = [name for name in found if name.startswith("long-")]
            return (
                len(long_ones) == 8
                and bool(found.get("later", {}).get("rows"))
                and "maps" + MALLORYS in found
            )

        until(counted, "the floods, and a VM that came after them")
    return {"longest_s": round(longest_s, 1), "state": state()}


def state() -> list[str]:
    rows = Path(f"/proc/{main_pid()}/status").read_text().splitlines()
    return [row for row in rows if row.startswith(("State", "VmHWM", "Threads"))]


def locks(_: Path) -> dict[str, Any]:
    """Another user locks all it can open; the daemon is killed, and starts again."""
    before = main_pid()
    with subprocess.Popen(
        [sys.executable, "-c", LOCKS, RUN, "/var/lib/giveback-daemon", "/etc/giveback"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **as_user(MALLORY),
    ) as child:  # fmt: skip
        assert child.stdout is not None
        held = int(child.stdout.readline())
        sh("systemctl", "kill", "-s", "KILL", "--kill-whom=main", UNIT)
        until(lambda: vm("web").get("rows") and main_pid() not in (0, before), "another daemon")
        child.kill()
    return {"held": held, "restarts": restarts()}


def stuck(folder: Path) -> dict[str, Any]:
    """A reader hangs where no signal reaches it, and the loop stands still: systemd starts another."""
    dropin = Path(f"/etc/systemd/system/{UNIT}.d/soon.conf")
    dropin.parent.mkdir()
    dropin.write_text("[Service]\nWatchdogSec=10\n")
    sh("systemctl", "daemon-reload")
    sh("systemctl", "restart", UNIT)
    sh("modprobe", "fuse")
    with stuck_fuse.mounted(folder / "stuck") as mount:
        words = ["-readconfig", f"{mount}/hang"]
        with process("stuck", words, uid=MALLORY, program=READY):
            until(lambda: "made its reader hang" in str(status().get("problems")), "a hung reader")
            before = main_pid()
            os.kill(before, signal.SIGSTOP)
            until(lambda: vm("web").get("rows") and main_pid() not in (0, before), "another daemon")
            journal = sh("journalctl", "-b", "-u", UNIT, "--no-pager")
    return {
        "watchdog": "Watchdog timeout" in journal,
        "waited": [line for line in journal.splitlines() if "timed out" in line],
        "restarts": restarts(),
    }


ATTACKS = (installed, api, sockets, floods, locks, stuck)


def main() -> int:
    with tempfile.TemporaryDirectory(
        prefix="giveback-attacks-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        folder.chmod(0o777)
        with guest(folder, "web", VICTIM):
            for attack in ATTACKS:
                begun_s = time.monotonic()
                found = attack(folder)
                took_s = round(time.monotonic() - begun_s, 1)
                print(
                    json.dumps({"attack": attack.__name__, "took_s": took_s, **found}), flush=True
                )
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BaseException:
        with contextlib.suppress(Exception):
            print(
                subprocess.run(
                    ["journalctl", "-b", "-u", UNIT, "--no-pager", "-n", "60"],
                    capture_output=True,
                    text=True,
                    check=False,
                ).stdout,
                flush=True,
            )
        raise
