"""Stop the service, restore the kernel's settings, and remove the files that `install` wrote.

The settings in /etc/giveback.conf are kept, and so are installed files that were changed since.
"""

from __future__ import annotations

import os
import shutil
import signal
import time

from giveback_agent.commands.repair import restore
from giveback_agent.errors import AgentError
from giveback_agent.install import files as install_files
from giveback_agent.install import init_system, systemd_unit
from giveback_agent.runtime import run_dir
from giveback_agent.settings import load
from giveback_kernel import files
from giveback_kernel.errors import KernelFileError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from giveback_agent.install.files import Layout, Manifest

HELP = "stop the service and remove the files that install wrote"
STOP_WAIT_S = 60.0
STATE_FOLDERS = ("/var/lib/giveback", run_dir.FOLDER)


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--dry-run", action="store_true", help="show the files, remove none")
    parser.add_argument(
        "--prefix",
        default=install_files.PREFIX,
        help="where it was installed (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Uninstall, or with --dry-run print the files. Raises AgentError if nothing is installed."""
    root, where = args.root, install_files.layout(args.prefix)
    manifest = install_files.read_manifest(root, where)
    if manifest is None:
        raise AgentError(
            f"{where.manifest} does not exist: no agent is installed below {where.prefix}; "
            "give the --prefix of `install`"
        )
    if args.dry_run:
        for mark, path in manifest.entries:
            same = install_files.mark_of(root, path) == mark
            print(f"remove {path}" if same else f"keep {path}: changed or removed since")
        return 0
    _stop(root, where, manifest)
    kept = install_files.remove_all(root, where, manifest)
    _remove_state(root)
    if init_system.is_live(root) and init_system.find(root) == init_system.SYSTEMD:
        init_system.run(("systemctl", "daemon-reload"))
    print(f"removed: {where.launcher}, {where.folder} ({len(manifest.entries) - len(kept)} files)")
    for path in kept:
        print(f"kept: {path}: changed since it was installed; remove it yourself if you want")
    if files.exists(root, load.CONF_PATH):
        print(f"kept: {load.CONF_PATH}: your settings")
    return 0


def _stop(root: str, where: Layout, manifest: Manifest) -> None:
    """Stop the installed agent, by systemd if that started it, and restore the kernel's settings."""
    ours = any(path == systemd_unit.UNIT_PATH for _, path in manifest.entries)
    if ours and init_system.is_live(root) and init_system.find(root) == init_system.SYSTEMD:
        init_system.run(init_system.stop_command())
    pid = run_dir.running_pid(root)
    if pid is not None and _is_launched(pid, where):
        _end(root, pid)
        pid = run_dir.running_pid(root)
    if pid is not None:
        print(f"another agent runs, pid {pid}, not from {where.launcher}: left alone")
        return
    for what in restore(root):
        print(f"restored: {what}")


def _is_launched(pid: int, where: Layout) -> bool:
    try:
        words = files.read("/", f"/proc/{pid}/cmdline", 65536).split(b"\0")
    except KernelFileError:
        return False
    return where.launcher.encode() in words


def _end(root: str, pid: int) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError as error:
        raise AgentError(f"pid {pid}: {os.strerror(error.errno or 0)}: run this as root") from error
    deadline_s = time.monotonic() + STOP_WAIT_S
    while run_dir.running_pid(root) == pid:
        if time.monotonic() > deadline_s:
            raise AgentError(
                f"pid {pid} has not ended within {STOP_WAIT_S:.0f} s: no file was removed"
            )
        time.sleep(0.1)


def _remove_state(root: str) -> None:
    """Remove the agent's state folders; failures are harmless and ignored."""
    if run_dir.running_pid(root) is not None:
        return
    for folder in STATE_FOLDERS:
        full = files.under(root, folder)
        shutil.rmtree(full, ignore_errors=True)
