"""Detect WSL 2, and find the user's `.wslconfig`. windows_view.py has the rest.

Nothing here has run on a real Windows machine: docs/wsl.md has the source of each fact. Every access to the
Windows side is bounded in time and output. It may fail; then the reason is returned.
"""

from __future__ import annotations

import errno
import os

from giveback_agent.runtime import child
from giveback_agent.wsl import wslconfig
from giveback_kernel import files, mounts
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from giveback_kernel.mounts import Mount

ANSWER_TIMEOUT_S = 5.0
PROFILES_LIMIT = 256
BINFMT = "/proc/sys/fs/binfmt_misc/"
NOT_PROFILES = frozenset(("all users", "default", "default user", "public"))


class Drive(Record):
    """A Windows drive: its upper-case letter, and its mount point in the guest."""

    letter: str
    mount: str


class WslHost(Record):
    """A guest that is WSL 2, with the evidence, and what is needed to reach Windows from it.

    `custom_kernel`: the kernel's release does not name Microsoft.
    """

    release: str
    evidence: tuple[str, ...]
    drives: tuple[Drive, ...] = ()
    path: tuple[str, ...] = ()
    interop_socket: str = ""
    custom_kernel: bool = False


class ConfigFile(Record):
    """The effective `.wslconfig`: its path in the guest, `how` it was found (or why not), its bytes."""

    path: str | None
    how: str
    data: bytes | None = None
    warnings: tuple[str, ...] = ()


def detect(root: str = "/", environ: Mapping[str, str] | None = None) -> WslHost | None:
    """Recognise WSL 2 by its files and environment; None for WSL 1 and everything else.

    It starts no program and reads no Windows drive, so that it is safe when a service starts.
    """
    if environ is None:
        environ = os.environ if root in ("", "/") else {}
    release = _text(root, "/proc/sys/kernel/osrelease").strip()
    socket = _interop_socket(root, environ)
    marks = []
    if socket:
        marks.append(f"interop socket {socket}")
    marks += [
        BINFMT + n for n in ("WSLInterop", "WSLInterop-late") if files.exists(root, BINFMT + n)
    ]
    buses = ("/sys/bus/vmbus", "/sys/module/hv_vmbus", "/sys/module/hv_balloon")
    evidence = recognise(release, marks, [b for b in buses if files.exists(root, b)])
    if not evidence:
        return None
    return WslHost(
        release=release,
        evidence=evidence,
        drives=drives_of(_mounts(root), _automount_root(root)),
        path=tuple(p for p in environ.get("PATH", "").split(":") if p.startswith("/")),
        interop_socket=socket,
        custom_kernel="microsoft-standard" not in release,
    )


def recognise(release: str, marks: Sequence[str], buses: Sequence[str]) -> tuple[str, ...]:
    """Return the evidence for WSL 2 from kernel release, signs of interop and of Hyper-V; else empty.

    WSL 1 also has interop, but translates system calls: its release is `...-Microsoft`, and it has no
    VMBus. An ordinary Hyper-V guest has the VMBus, but no interop. A custom kernel may have any name.
    """
    if "-Microsoft" in release and not buses:
        return ()
    if "microsoft-standard" in release or "WSL2" in release:
        return (f"kernel release {release}", *marks)
    if marks and buses:
        return (*marks, *buses)
    return ()


def drives_of(table: tuple[Mount, ...], automount_root: str = "/mnt/") -> tuple[Drive, ...]:
    r"""Find the Windows drives among the visible mounts, C first; whole drives before parts of one.

    Known forms: `C:\134 /mnt/c 9p ...aname=drvfs;path=C:\;...`, the same with the source `drvfs`, and
    `drvfsC0 /mnt/c virtiofs ...`, which names its drive only in a tag.
    """
    drives: dict[str, Drive] = {}
    seen = mounts.visible(table, ("9p", "virtiofs", "drvfs"))
    for one in sorted(seen, key=lambda mount: mount.root != "/"):
        path = one.options.partition("aname=drvfs;path=")[2]
        letter = ""
        for candidate in (path.split(";")[0], one.source):
            if candidate[1:2] == ":" and candidate[2:] in ("", "\\", "/"):
                letter = candidate[0]
        if not letter and one.source.startswith("drvfs") and one.point.startswith(automount_root):
            letter = one.point[len(automount_root) :]
        letter = letter.upper()
        if len(letter) == 1 and "A" <= letter <= "Z":
            drives.setdefault(letter, Drive(letter, one.point))
    return tuple(sorted(drives.values(), key=lambda d: (d.letter != "C", d.letter)))


def to_guest_path(windows_path: str, drives: Sequence[Drive]) -> str | None:
    r"""Return the guest's path of `C:\Users\me`; None for a share, or a drive that is not mounted."""
    for drive in drives:
        if windows_path[:2].upper() == drive.letter + ":" and windows_path[2:3] in ("\\", "/"):
            parts = [p for p in windows_path[3:].replace("\\", "/").split("/") if p]
            if ".." in parts:
                return None
            return "/".join([drive.mount.rstrip("/"), *parts])
    return None


def find_wslconfig(root: str, host: WslHost, timeout_s: float = ANSWER_TIMEOUT_S) -> ConfigFile:
    """Find and read the `.wslconfig` of the Windows user whose VM this is.

    The best evidence counts: the profile that interop names; the one in PATH; the only one on the mounted
    drives (Windows hides those of other users from an ordinary user). Of several, none is chosen.
    """
    profile = _interop_profile(root, host, timeout_s)
    if profile:
        found = _read_wslconfig(root, profile, "named by Windows through interop", timeout_s)
        if found:
            return found
    profile = _path_profile(host)
    if profile:
        found = _read_wslconfig(root, profile, "of the profile named in PATH", timeout_s)
        if found:
            return found
    scan = child.in_child(lambda: _scan(root, host.drives), timeout_s)
    if scan.reason:
        return ConfigFile(None, f"the Windows drives cannot be searched: {scan.reason}")
    profiles = [p.decode("utf-8", "surrogateescape") for p in scan.output.split(b"\0") if p]
    if len(profiles) == 1:
        found = _read_wslconfig(root, profiles[0], "the only one on the Windows drives", timeout_s)
        if found:
            return found
    if not profiles:
        where = ", ".join(d.mount for d in host.drives) or "no Windows drive is mounted"
        return ConfigFile(None, f"none found ({where})")
    names = ", ".join(wslconfig.quoted_value(p) for p in profiles[:8])
    return ConfigFile(
        None,
        "several users have one",
        warnings=(
            (
                f"Several Windows users have a .wslconfig ({names}), and interop does not say "
                "whose this VM is: none is read. Copy the keys you want to /etc/giveback.conf"
            ),
        ),
    )


def ask(
    root: str, host: WslHost, program: str, arguments: Sequence[str], timeout_s: float
) -> child.Outcome:
    """Run a Windows program of System32 through interop, and return its output.

    `program` is relative to System32; its name alone is also searched for in the PATH of `detect`.
    """
    folders = [f"{d.mount.rstrip('/')}/Windows/System32/{program}" for d in host.drives]
    folders += [f"{p.rstrip('/')}/{program.rpartition('/')[2]}" for p in host.path]
    environ = {"PATH": "/usr/bin:/bin"}
    if host.interop_socket:
        environ["WSL_INTEROP"] = host.interop_socket
    candidates = [files.under(root, f) for f in folders]
    return child.run(candidates, arguments, timeout_s, environ)


def windows_text(data: bytes) -> str:
    """Decode the output of a Windows program: UTF-16 if it has NULs (`cmd /u`), else UTF-8."""
    return data.decode("utf-16-le" if b"\0" in data else "utf-8", "replace").lstrip("\ufeff")


def _interop_profile(root: str, host: WslHost, timeout_s: float) -> str:
    """Return the guest's path of %USERPROFILE%; "" if interop does not answer.

    /u: the console's code page may lack characters of a user's name. /d: no AutoRun commands. A warning
    about a UNC working directory comes before the answer, so the last path counts.
    """
    echo = ("/d", "/u", "/c", "echo", "%USERPROFILE%")
    asked = ask(root, host, "cmd.exe", echo, timeout_s)
    profile = ""
    for line in windows_text(asked.output).splitlines():
        if line[1:3] == ":\\" and line[0].isalpha():
            profile = line.rstrip()
    if not profile:
        return ""
    tools = [files.under(root, p) for p in ("/usr/bin/wslpath", "/bin/wslpath")]
    mapped = child.run(tools, ("-u", profile), timeout_s).output.decode("utf-8", "surrogateescape")
    path = mapped.strip("\n")
    if path.startswith("/") and "\n" not in path:
        return path
    return to_guest_path(profile, host.drives) or ""


def _path_profile(host: WslHost) -> str:
    """Return the user's profile in which PATH entries lie; "" if there is none, or several."""
    found = set()
    for drive in host.drives:
        users = drive.mount.rstrip("/") + "/Users/"
        for entry in host.path:
            name = entry[len(users) :].split("/")[0] if entry.startswith(users) else ""
            if name and name.lower() not in NOT_PROFILES:
                found.add(users + name)
    return found.pop() if len(found) == 1 else ""


def _read_wslconfig(root: str, profile: str, how: str, timeout_s: float) -> ConfigFile | None:
    """Read a profile's `.wslconfig`; None if there is no such profile."""
    path = f"{profile.rstrip('/')}/.wslconfig"
    answer = child.in_child(lambda: _read_answer(root, profile, path), timeout_s)
    state, data = answer.output[:1], answer.output[1:]
    if answer.reason or state == b"!":
        why = answer.reason or data.decode("utf-8", "replace")
        warning = f"Failed to open config file {wslconfig.quoted_value(path)}, {why}"
        return ConfigFile(path, how, warnings=(warning,))
    if state == b"+":
        return ConfigFile(path, how, data)
    return ConfigFile(path, f"{how}; there is no such file") if state == b"-" else None


def _read_answer(root: str, profile: str, path: str) -> bytes:
    """Return, in the child, `+` and the file, `-` without a file, `0` without a profile, or `!` and why."""
    try:
        return b"+" + files.read(root, path, wslconfig.FILE_LIMIT_BYTES)
    except KernelFileError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return b"-" if os.path.isdir(files.under(root, profile)) else b"0"
        reason = os.strerror(error.errno) if error.errno else str(error)[len(error.path) + 2 :]
        return b"!" + reason.encode()


def _scan(root: str, drives: Sequence[Drive]) -> bytes:
    """Return, in the child, the profiles with a readable `.wslconfig`, separated by NUL."""
    found = []
    for drive in drives:
        users = f"{drive.mount.rstrip('/')}/Users"
        try:
            names = sorted(os.listdir(files.under(root, users)))[:PROFILES_LIMIT]
        except OSError:
            continue
        for name in names:
            profile = f"{users}/{name}"
            config = files.under(root, f"{profile}/.wslconfig")
            if name.lower() not in NOT_PROFILES and os.access(config, os.R_OK):
                found.append(os.fsencode(profile))
    return b"\0".join(found)


def _automount_root(root: str) -> str:
    """Return where WSL mounts drives: `root` in [automount] of /etc/wsl.conf, /mnt/ by default."""
    entries, _ = wslconfig.parse(_bytes(root, "/etc/wsl.conf"), "/etc/wsl.conf")
    for entry in entries:
        if entry.name.lower() == "automount.root" and entry.value.startswith("/"):
            return entry.value.rstrip("/") + "/"
    return "/mnt/"


def _interop_socket(root: str, environ: Mapping[str, str]) -> str:
    """Return the socket for interop: that of WSL_INTEROP, else init's (for systemd's services), else any."""
    named = environ.get("WSL_INTEROP", "")
    if named and files.exists(root, named):
        return named
    try:
        names = sorted(os.listdir(files.under(root, "/run/WSL")))
    except OSError:
        return ""
    sockets = [n for n in names if n.endswith("_interop")]
    if not sockets:
        return ""
    return "/run/WSL/" + ("1_interop" if "1_interop" in sockets else sockets[-1])


def _mounts(root: str) -> tuple[Mount, ...]:
    try:
        return mounts.read_mounts(root)
    except KernelFileError:
        return ()


def _bytes(root: str, path: str) -> bytes:
    try:
        return files.read(root, path)
    except KernelFileError:
        return b""


def _text(root: str, path: str) -> str:
    return _bytes(root, path).decode("utf-8", "replace")
