"""Stop the service, restore the kernel's settings, and remove the files that `install` wrote.

The settings in /etc/giveback.conf are kept, and so are installed files that were changed since.
"""

from __future__ import annotations

import shutil

from giveback_agent.commands import _stop
from giveback_agent.errors import AgentError
from giveback_agent.install import files as install_files
from giveback_agent.install import init_system, systemd_unit
from giveback_agent.runtime import run_dir
from giveback_agent.settings import load
from giveback_kernel import files

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

    from giveback_agent.install.files import Layout, Manifest

HELP = "stop the service and remove the files that install wrote"
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
    packaged = [path for path in systemd_unit.PACKAGE_PATHS if files.exists(root, path)]
    if manifest is None and packaged:
        raise AgentError(
            f"{packaged[0]}: a package has installed the agent here: remove that package "
            "(apt purge, dnf remove or apk del giveback-agent)"
        )
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
    _stop_service(root, where, manifest)
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


def _stop_service(root: str, where: Layout, manifest: Manifest) -> None:
    """Stop the installed agent, by systemd if that started it, and restore the kernel's settings."""
    ours = any(path == systemd_unit.UNIT_PATH for _, path in manifest.entries)
    if ours and init_system.is_live(root) and init_system.find(root) == init_system.SYSTEMD:
        init_system.run(init_system.stop_command())
    for line in _stop.stop(root, where.launcher):
        print(line)


def _remove_state(root: str) -> None:
    """Remove the agent's state folders; failures are harmless and ignored."""
    if run_dir.running_pid(root) is not None:
        return
    for folder in STATE_FOLDERS:
        full = files.under(root, folder)
        shutil.rmtree(full, ignore_errors=True)
