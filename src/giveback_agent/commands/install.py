"""Install the agent below a prefix, and let systemd start it now and at every boot.

Without systemd, the command is installed and the way to start it is printed. Files that this command did not
write are never replaced.
"""

from __future__ import annotations

import time

from giveback_agent.errors import AgentError
from giveback_agent.install import files as install_files
from giveback_agent.install import init_system, systemd_unit
from giveback_agent.runtime import run_dir
from giveback_agent.settings import load
from giveback_kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from giveback_agent.install.files import Item, Layout

HELP = "install the command, and a service that starts at boot"
START_WAIT_S = 10.0


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--dry-run", action="store_true", help="show every file, write none")
    parser.add_argument(
        "--prefix", default=install_files.PREFIX, help="where to install (default: %(default)s)"
    )
    parser.add_argument(
        "--no-service", action="store_true", help="only the command: install no unit, start nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Install, or with --dry-run print the files. Raises AgentError, before writing if possible."""
    root, where = args.root, install_files.layout(args.prefix)
    init = init_system.find(root)
    service = init == init_system.SYSTEMD and not args.no_service
    packaged = [path for path in systemd_unit.PACKAGE_PATHS if files.exists(root, path)]
    if packaged and not args.no_service:
        start = f" (systemctl enable --now {systemd_unit.NAME})" if service else ""
        raise AgentError(
            f"{packaged[0]}: a package has installed the agent here: use that one{start}, or remove "
            "the package first"
        )
    items = install_files.plan(where, install_files.interpreter(service), service)
    if args.dry_run:
        print("\n".join(_preview(root, where, items, service)))
    else:
        install_files.write_all(root, where, items)
        print(f"installed: {where.launcher}, {where.folder} ({len(items)} files)")
        if service:
            _start(root)
    if not service and not args.no_service:
        print()
        print(systemd_unit.hint(init, where.launcher), end="")
    if not args.no_service and load.detect_wsl(root) is not None:
        print()
        print(systemd_unit.wsl_reclaim(), end="")
    return 0


def _start(root: str) -> None:
    print(f"installed: {systemd_unit.UNIT_PATH}, enabled")
    if not init_system.is_live(root):
        return
    for command in init_system.start_commands():
        init_system.run(command)
    deadline_s = time.monotonic() + START_WAIT_S
    while (pid := run_dir.running_pid(root)) is None and time.monotonic() < deadline_s:
        time.sleep(0.1)
    if pid is None:
        print(f"started, but not running yet: see journalctl -u {systemd_unit.NAME}")
    else:
        print(f"running, pid {pid}; see giveback-agent status")


def _preview(root: str, where: Layout, items: Sequence[Item], service: bool) -> list[str]:
    """Return every file, text files with their content, and every command to run."""
    taken = install_files.conflicts(root, items, install_files.read_manifest(root, where))
    lines = []
    for item in items:
        note = (
            "   REFUSED: exists already, and giveback did not install it"
            if item.path in taken
            else ""
        )
        if item.target:
            lines.append(f"{item.path} -> {item.target}{note}")
            continue
        lines.append(f"{item.path}  {item.mode:04o}  {len(item.data)} bytes{note}")
        if item.path in (where.launcher, systemd_unit.UNIT_PATH):
            lines += [f"    {line}".rstrip() for line in item.data.decode().splitlines()]
    lines.append(f"{where.manifest}  0644  the list of these files, for uninstall")
    if service and init_system.is_live(root):
        lines += [f"run: {' '.join(command)}" for command in init_system.start_commands()]
    return lines
