"""Leases on disk: one file for each VM and device, written before the device is set.

A file is complete or does not exist: it is written under another name, synced and renamed, and its folder is
synced. Its name and its content have the process id and the start time; its content has the boot as well.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import asdict
from pathlib import Path

from giveback.manager.model import ActionKind, Lease
from giveback.vmm.base import amount
from giveback_kernel.errors import GivebackError
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.files import under

VERSION = 1
SUFFIX = ".lease"
_ASIDE = ".new"
_FILE_LIMIT_BYTES = 64 << 10
_DEVICES = (ActionKind.BALLOON, ActionKind.VIRTIO_MEM)
_BOOT_ID = "/proc/sys/kernel/random/boot_id"


class LeaseError(GivebackError):
    """A lease cannot be written to disk, so that no memory may be taken."""


class LeaseStore:
    """The folder of leases. Every method may wait for the disk; call it from a thread."""

    def __init__(self, folder: Path, root: str = "/") -> None:
        self._folder = folder
        self._boot = _read_boot(root)

    def load(self) -> tuple[tuple[Lease, ...], tuple[str, ...]]:
        """Return all leases of this boot, and the problems of files that cannot be read.

        Files of an earlier boot, whose VMs have ended, and half-written ones are removed.
        """
        leases, problems = [], []
        try:
            names = sorted(os.listdir(self._folder))  # noqa: PTH208  # names only
        except FileNotFoundError:
            return (), ()
        except OSError as error:
            return (), (f"{self._folder}: {error.strerror}: earlier leases are unknown",)
        for name in names:
            path = self._folder / name
            if name.endswith(_ASIDE):
                with contextlib.suppress(OSError):
                    path.unlink()
            elif name.endswith(SUFFIX):
                try:
                    boot, lease = _parse(_read(path))
                except (OSError, ValueError, RecursionError) as error:
                    problems.append(
                        f"{path}: cannot be read ({escape_for_terminal(str(error))}): "
                        "its name begins with a VM's process id; if that VM runs, return its memory "
                        "manually, then remove the file"
                    )
                    continue
                if boot == self._boot:
                    leases.append(lease)
                    self._renamed(path, lease)
                else:
                    with contextlib.suppress(OSError):
                        path.unlink()
        return tuple(leases), tuple(problems)

    def put(self, lease: Lease) -> None:
        """Write a new or changed lease. On return it is on the disk. Raises LeaseError."""
        text = json.dumps({"version": VERSION, "boot": self._boot, **asdict(lease)}).encode()
        path = self._folder / file_name(lease)
        aside = path.with_name(path.name + _ASIDE)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = os.open(
                aside,
                os.O_WRONLY
                | os.O_CREAT
                | os.O_TRUNC
                | os.O_NOFOLLOW
                | os.O_CLOEXEC
                | os.O_NONBLOCK,
                0o600,
            )
            try:
                _write(fd, text)
                os.fsync(fd)
            finally:
                os.close(fd)
            aside.rename(path)
            self._sync_folder()
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            raise LeaseError(
                f"{path}: {error.strerror}: no memory is taken from "
                f"{escape_for_terminal(lease.vm)} without a "
                "lease on disk"
            ) from error

    def drop(self, lease: Lease) -> None:
        """Delete a lease that was released; a missing one is not an error. Raises LeaseError."""
        path = self._folder / file_name(lease)
        try:
            path.unlink(missing_ok=True)
            self._sync_folder()
        except OSError as error:
            raise LeaseError(f"{path}: {error.strerror}: the lease stays on disk") from error

    def _renamed(self, path: Path, lease: Lease) -> None:
        """Rename a file of version 0.1, whose name has no device, to the name that `drop` expects."""
        if path.name != file_name(lease):
            with contextlib.suppress(OSError):
                path.rename(self._folder / file_name(lease))

    def _sync_folder(self) -> None:
        if not self._folder.exists():
            return
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def file_name(lease: Lease) -> str:
    """Return the file name of a lease, one for each device of a VM.

    It contains no text from outside: neither a VM's name nor a device's.
    """
    kind = lease.device.value
    if lease.device_id:
        kind += (
            "-" + hashlib.sha256(lease.device_id.encode(errors="backslashreplace")).hexdigest()[:12]
        )
    return f"{lease.pid}-{lease.start_ticks}-{kind}{SUFFIX}"


def _write(fd: int, text: bytes) -> None:
    while text:
        text = text[os.write(fd, text) :]


def _read(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ValueError("not a regular file")
        text = file.read(_FILE_LIMIT_BYTES + 1)
    if len(text) > _FILE_LIMIT_BYTES:
        raise ValueError("too long")
    return text


def _read_boot(root: str) -> str:
    try:
        return Path(under(root, _BOOT_ID)).read_text().strip()
    except OSError:
        return ""


def _parse(text: bytes) -> tuple[str, Lease]:
    """Return the boot and the lease of a file. Raises ValueError."""
    said = json.loads(text)
    if not isinstance(said, dict) or said.get("version") != VERSION:
        raise ValueError("not a lease of a known version")

    def whole(name: str) -> int:
        value = amount(said.get(name))
        if value is None:
            raise ValueError(f"{name} is not an amount")
        return value

    def text_of(name: str) -> str:
        value = said.get(name)
        if not isinstance(value, str):
            raise ValueError(f"{name} is not text")  # one error for a bad file
        return value

    device = ActionKind(text_of("device"))
    wall_s = said.get("wall_s")
    if device not in _DEVICES or isinstance(wall_s, bool) or not isinstance(wall_s, (int, float)):
        raise ValueError("device or wall_s is missing")
    lease = Lease(
        vm=text_of("vm"),
        pid=whole("pid"),
        start_ticks=whole("start_ticks"),
        device=device,
        control=text_of("control"),
        before_bytes=whole("before_bytes"),
        target_bytes=whole("target_bytes"),
        wall_s=float(wall_s),
        device_id=text_of("device_id"),
        most_bytes=whole("most_bytes") if "most_bytes" in said else 0,
    )
    return text_of("boot"), lease
