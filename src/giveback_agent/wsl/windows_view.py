"""WSL 2, for commands: the cold discard hint of Hyper-V, and the VM as Windows sees it.

Nothing here has run on a real Windows machine: docs/wsl.md has the source of each fact.
"""

from __future__ import annotations

from giveback_agent.wsl import detect
from giveback_kernel import kmsg
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from giveback_kernel.page_reporting import ReportingState

POWERSHELL_TIMEOUT_S = 20.0
WORKING_SET_LIMIT_BYTES = 1 << 50
PAGE_ORDERS_LIMIT = 64


class ColdDiscard(Record):
    """The state of hv_balloon's cold memory discard hint, from its messages in the kernel log.

    `enabled` None: the messages are gone from the log, or it may not be read (`unread`). `order` is the
    report order in the message; None before Linux 6.2. `failure` is the last message of a failure, or "".
    """

    enabled: bool | None
    order: int | None = None
    failure: str = ""
    unread: str = ""


class WindowsProcess(Record):
    """A process in Windows' list. The working set is not the column that Task Manager shows by default."""

    name: str
    pid: int
    working_set_bytes: int


class WindowsSide(Record):
    """The VM as Windows shows it; `process` is None if that is not known, for this `reason`."""

    process: WindowsProcess | None
    reason: str = ""


def cold_discard(root: str) -> ColdDiscard:
    """Probe the kernel log for the cold discard hint. Never raises."""
    return judge_boot_log(kmsg.search(root, ("hv_balloon",)))


def judge_boot_log(log: kmsg.KernelLog) -> ColdDiscard:
    """Parse hv_balloon's messages about its cold memory discard hint.

    Source: drivers/hv/hv_balloon.c: `Cold memory discard hint enabled`, since 6.2 `... with order N`;
    `Failed to enable cold memory discard: E`; `Cold memory discard hypercall failed with status S` if the
    host refused a report.
    """
    enabled, order, failure = False, None, ""
    for message in log.messages:
        if "Cold memory discard hint enabled" in message:
            named = message.partition("with order ")[2].strip()
            enabled, order = True, _number(named, PAGE_ORDERS_LIMIT)
        elif "old memory discard" in message and "ailed" in message:
            failure = message
    if enabled or log.complete:
        return ColdDiscard(enabled, order, failure)
    unread = log.refused or "the boot messages are gone from the kernel log"
    return ColdDiscard(None, None, failure, unread)


def missing_advice(host: detect.WslHost, state: ReportingState) -> str | None:
    """Return the advice for a kernel that does not report free pages; None if it does."""
    if state.active is not False:
        return None
    whose = "This custom kernel" if host.custom_kernel else "This kernel"
    return (
        f"{whose} ({host.release}) does not report free pages to Windows: WSL's compaction has no effect "
        f"here (microsoft/WSL#5695). Evidence: {state.evidence}. Remove wsl2.kernel from "
        ".wslconfig, or build it with CONFIG_PAGE_REPORTING=y and CONFIG_HYPERV_BALLOON=y"
    )


def windows_side(
    root: str,
    host: detect.WslHost,
    timeout_s: float = detect.ANSWER_TIMEOUT_S,
    powershell_timeout_s: float = POWERSHELL_TIMEOUT_S,
) -> WindowsSide:
    """Ask Windows for the working set of this VM's process: `tasklist.exe`, then PowerShell."""
    listed = detect.ask(root, host, "tasklist.exe", ("/fo", "csv", "/nh"), timeout_s)
    side = choose_process(parse_tasklist(listed.output))
    if side.process or not listed.reason:
        return side
    shell = detect.ask(
        root,
        host,
        "WindowsPowerShell/v1.0/powershell.exe",
        ("-NoProfile", "-NonInteractive", "-Command", _GET_PROCESS),
        powershell_timeout_s,
    )
    if shell.reason:
        return WindowsSide(None, f"tasklist.exe: {listed.reason}; powershell.exe: {shell.reason}")
    return choose_process(parse_get_process(shell.output))


_GET_PROCESS = (
    "Get-Process vmmem* | ForEach-Object { '' + $_.Id + ' ' + $_.WorkingSet64 + ' ' + $_.Name }"
)


def parse_tasklist(data: bytes) -> tuple[WindowsProcess, ...]:
    """Parse the vmmem processes of `tasklist /fo csv /nh`, with any separator of thousands."""
    found = []
    for line in data.decode("latin-1").splitlines():
        fields = line.strip().strip('"').split('","')
        if len(fields) != 5 or not fields[0].lower().startswith("vmmem"):
            continue
        kib_digits = "".join(c for c in fields[4] if c in "0123456789")
        pid, kib = _number(fields[1], 1 << 32), _number(kib_digits, WORKING_SET_LIMIT_BYTES >> 10)
        if pid is not None and kib is not None:
            found.append(WindowsProcess(fields[0], pid, kib << 10))
    return tuple(found)


def parse_get_process(data: bytes) -> tuple[WindowsProcess, ...]:
    """Parse the lines `PID BYTES NAME` of the PowerShell command `_GET_PROCESS`."""
    found = []
    for line in detect.windows_text(data).splitlines():
        fields = line.split()
        if len(fields) != 3 or not fields[2].lower().startswith("vmmem"):
            continue
        pid = _number(fields[0], 1 << 32)
        size_bytes = _number(fields[1], WORKING_SET_LIMIT_BYTES)
        if pid is not None and size_bytes is not None:
            found.append(WindowsProcess(fields[2], pid, size_bytes))
    return tuple(found)


def choose_process(processes: Sequence[WindowsProcess]) -> WindowsSide:
    """Choose WSL's VM: `vmmemWSL`, or the only `vmmem` (older Windows gives every VM that name)."""
    own = [p for p in processes if p.name.lower() == "vmmemwsl"]
    candidates = own or [p for p in processes if p.name.lower() == "vmmem"]
    if len(candidates) == 1:
        return WindowsSide(candidates[0])
    if not candidates:
        return WindowsSide(None, "Windows shows this user no vmmem process")
    names = ", ".join(f"{p.name} (pid {p.pid})" for p in candidates[:4])
    return WindowsSide(
        None, f"Windows runs several VMs, and it is unknown which is this one: {names}"
    )


def _number(text: str, limit: int) -> int | None:
    """Parse an unsigned decimal below `limit` in ASCII digits; None for anything else."""
    if not text.isascii() or not text.isdigit() or len(text) > 20:
        return None
    return int(text) if int(text) < limit else None
