"""Recognise a VMM by the name of its program: by /proc/PID/exe, because argv[0] may be any text. Pure.

Vendors add suffixes to the names (qemu-system-x86_64-spice, cloud-hypervisor-v50-static), and distributions
prefixes of wrappers (.qemu-system-x86_64-wrapped). Helpers have similar names (firecracker-containerd,
cloud-hypervisor-remote): a name with an unknown suffix counts only together with the VMM's own options.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from giveback.host.procs import Process

_QEMU = re.compile(
    r"\.*(?:qemu(?:-\w+)*-system-\w+(?:[-.~_+][\w.+~-]*)?"
    r"|qemu-kvm(?:[-.~_+][\w.+~-]*)?|kvm(?:-spice|-qemu)?(?:\.\w+)*|qemu-\w+-softmmu)",
    re.ASCII,
)
_HELPER = re.compile(
    r"[-_.](?:remote|ctl|cli|client|containerd|ctr|shim|exporter|runtime|driver|jailer)\b"
)
_SUFFIXES = re.compile(
    r"(?:[-._~+](?:v?\d[^\W_]*|static|musl|glibc|gnu|x86[-_]64|amd64|aarch64|arm64|riscv64|debug"
    r"|release|wrapped|real|orig|distrib|tdx|sev|snp|mshv|kvm|upstream|bin))*_?",
    re.ASCII,
)
_CUT = "cloud-hypervisor"[:15]
"""The name as /proc/PID/comm cuts it."""
_NAME_LIMIT = 255
"""NAME_MAX: no file has a longer name. A pattern may need time quadratic in the length of argv[0]."""
_LOADERS = ("ld-linux", "ld-musl", "ld.so", "ld64.so")
_LOADER_WORDS = 8
"""The words that are searched for the program: the loader's options (--library-path, --argv0) precede it."""
_OPTIONS = {
    "cloud-hypervisor": ("--api-socket", "--kernel", "--firmware", "--memory", "--restore"),
    "firecracker": ("--api-sock", "--no-api", "--config-file"),
}
"""For each VMM, options that it has and its helpers do not have."""


def vmm_of(process: Process) -> str:
    """Return `qemu`, `cloud-hypervisor`, `firecracker`, or '' if the process is not a VMM.

    The executable file decides; argv[0] may be any text, and counts only if the file is not known. A
    dynamic loader that was started by name runs the first file among its arguments.
    """
    found = _kind(process.executable or process.program, process.argv)
    if found or not process.executable.startswith(_LOADERS):
        return found
    files = (word for word in process.argv[1:_LOADER_WORDS] if "/" in word and word[:1] != "-")
    return next(filter(None, (_kind(file.rsplit("/", 1)[-1], process.argv) for file in files)), "")


def _kind(name: str, argv: tuple[str, ...]) -> str:
    if len(name) > _NAME_LIMIT:
        return ""
    if name == _CUT:
        return "cloud-hypervisor"
    if _QEMU.fullmatch(name):
        return "qemu"
    plain = name.lstrip(".")
    for vmm, options in _OPTIONS.items():
        if not plain.startswith(vmm) or _HELPER.search(plain):
            continue
        suffix = plain.removeprefix(vmm)
        known = _SUFFIXES.fullmatch(suffix)
        if known or (suffix[:1] in "-._~+" and _has_any(argv, options)):
            return vmm
    return ""


def _has_any(argv: tuple[str, ...], options: tuple[str, ...]) -> bool:
    return any(word.partition("=")[0] in options for word in argv)


def given_name(process: Process) -> str:
    """Return the VM's name in an argv[0] such as `microvm@web`, which is not a program's name; else ''."""
    unit, at, name = process.program.rpartition("@")
    return name if at and unit and name and not _kind(process.program, process.argv) else ""
