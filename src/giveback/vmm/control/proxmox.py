"""Proxmox VE: its VMs have a balloon that reports free pages, unless `balloon: 0` is configured.

Source: qemu-server, PVE/QemuServer.pm and PVE/QemuServer/Memory.pm (balloon, `free-page-reporting=on` since
machine version 6.2); pve-docs, qm.conf(5); pvesh(1).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.vmm.control.managed import Change, output, parse_object
from giveback_kernel.files import under

if TYPE_CHECKING:
    from collections.abc import Mapping

    from giveback.host.procs import Process

_VMID = re.compile(r"[1-9][0-9]{2,8}")
_PINNED = re.compile(r"-(\d{1,3})\.(\d{1,3})")
_REPORTS_SINCE = (6, 2)
_PID_FILE = "/run/qemu-server/{vmid}.pid"


def vmid_of(process: Process) -> str:
    """Return the VMID on the command line of Proxmox's QEMU process; '' for others. Pure."""
    options = dict(zip(process.argv, process.argv[1:], strict=False))
    vmid = options.get("-id", "")
    pid_file = options.get("-pidfile", "").removeprefix("/var")
    is_one = _VMID.fullmatch(vmid) and pid_file == _PID_FILE.format(vmid=vmid)
    return vmid if is_one else ""


def is_run_by(root: str, vmid: str, pid: int) -> bool:
    """Tell whether Proxmox's own record, which root writes, says that this process runs the VM."""
    try:
        with open(under(root, _PID_FILE.format(vmid=vmid)), "rb") as file:  # noqa: PTH123
            return file.read(32).strip() == str(pid).encode()
    except OSError:
        return False


def read(vmid: str) -> dict[str, object]:
    """Return a VM's configuration with its pending changes. Raises VmError, InputError."""
    if not _VMID.fullmatch(vmid):
        raise InputError(f"Proxmox's VMs have numbers from 100 on (`qm list`): {vmid!r} is not one")
    command = ("pvesh", "get", _path(vmid), "--output-format", "json")
    return parse_object(output(command), "pvesh get")


def change(vmid: str, config: Mapping[str, object], *, reporting: bool) -> Change:
    """Return how reporting is turned on, or off again. Raises InputError if it was not giveback's. Pure."""
    balloon = str(config.get("balloon", ""))
    name = f"Proxmox's VM {vmid}"
    pinned = _PINNED.search(str(config.get("machine", "")))
    if reporting and pinned and (int(pinned[1]), int(pinned[2])) < _REPORTS_SINCE:
        raise InputError(
            f"{name}: its machine version is pinned below 6.2, which cannot report: "
            f"choose a later one (qm set {vmid} --machine …)"
        )
    if reporting == (balloon != "0"):
        return Change(name)
    if not reporting and balloon:
        raise InputError(
            f"{name}: its balloon has a size of its own ({balloon[:12]!r}), which giveback has not set: "
            f"qm set {vmid} --balloon 0 turns balloon and reporting off"
        )
    setting = ("--delete", "balloon") if reporting else ("--balloon", "0")
    digest = str(config.get("digest", ""))
    return Change(
        name,
        before="balloon: 0\n" if reporting else "",
        after="" if reporting else "balloon: 0\n",
        command=("pvesh", "set", _path(vmid), *setting, *(("--digest", digest) if digest else ())),
        then=f"its next start uses it: qm shutdown {vmid} && qm start {vmid}",
    )


def _path(vmid: str) -> str:
    return f"/nodes/localhost/qemu/{vmid}/config"
