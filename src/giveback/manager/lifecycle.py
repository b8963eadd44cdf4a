"""Run `giveback daemon` from start to end: its lock, its servers, systemd's notifications, its reloads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from giveback.errors import InputError, VmError, file_error
from giveback.guest import via_daemon
from giveback.host.memory import read_host_view
from giveback.manager import logs
from giveback.manager.daemon import Daemon, NoRecorder
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.fleet.guest_proxy import proxying
from giveback.manager.history.recorder import History
from giveback.manager.history.usage.readable import ReadableHistory
from giveback.manager.http.server import Endpoint, serving
from giveback.manager.http.web.pages import WebPages
from giveback.manager.http.web.sessions import FILE_NAME as SESSIONS_NAME
from giveback.manager.http.web.sessions import Sessions
from giveback.manager.settings.load import API_NAME, load, runtime_folder
from giveback.vmm.clients.sockets import remove_stale, short_path
from giveback_kernel import private_lock, process_start
from giveback_kernel.errors import KernelFileError
from giveback_kernel.files import read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from giveback.manager.http.metrics.otlp import OtlpExport
    from giveback.manager.http.server import Serving
    from giveback.manager.model import HistoryRecorder
    from giveback.manager.settings.load import DaemonSettings

LOCK_NAME = "daemon.lock"

_ONLY_AT_START = {
    "socket": "daemon.socket",
    "socket_group": "daemon.socket_group",
    "state": "daemon.state",
    "metrics_listen": "daemon.metrics_listen",
    "web_listen": "daemon.web_listen",
    "otlp": "daemon.otlp",
    "history_limit_bytes": "history.limit",
}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the daemon's lock in its state folder, which is created if it is missing.

    Raises InputError, which names the PID of the daemon that holds it, or the problem of the folder;
    HostFaultError if a later attempt may succeed. The kernel releases the lock when its holder ends.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        fd = private_lock.take(str(path))
    except (OSError, KernelFileError) as error:
        raise file_error(str(path), error, "daemon.state names the folder") from error
    if fd is None:
        raise InputError(
            f"{path}: a giveback daemon runs already (pid {_holder(path)}); stop it, or give this one "
            "a folder of its own by daemon.state"
        )
    try:
        # On a full disk only the PID is missing; the lock holds all the same.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, process_start.identity().encode(), 0)
        yield
    finally:
        os.close(fd)


def _holder(path: Path) -> str:
    """Return the PID of the daemon that holds the lock, or "unknown"."""
    try:
        text = read("/", str(path), process_start.TEXT_LIMIT_BYTES)
    except KernelFileError:
        text = b""
    return str(process_start.running(text) or "unknown")


def make_folder_of(socket_path: Path) -> None:
    """Create the socket's folder if it is missing; systemd creates that of its unit.

    Raises InputError, or HostFaultError if a later attempt may succeed.
    """
    folder = socket_path.parent
    try:
        folder.mkdir()
        # The socket's own mode and group decide who may connect.
        folder.chmod(0o755)
    except FileExistsError:
        return
    except OSError as error:
        raise file_error(str(folder), error, "daemon.socket names another") from error


def notify(**state: str) -> None:
    """Notify systemd, if it listens: `notify(READY="1", STATUS="…")`. Source: sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    text = "\n".join(f"{key}={value}" for key, value in state.items())
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(text.encode(), "\0" + address[1:] if address[0] == "@" else address)


def notify_reloading() -> None:
    """Notify systemd that a reload begins now; READY=1 ends it. Source: sd_notify(3)."""
    notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))


def watchdog_s(environment: Mapping[str, str], pid: int) -> float | None:
    """Return half of systemd's watchdog period in seconds; None if it expects no notifications.

    Source: sd_watchdog_enabled(3).
    """
    period_us = environment.get("WATCHDOG_USEC", "")
    if not period_us.isdecimal() or not 0 < len(period_us) < 20 or int(period_us) == 0:
        return None
    if environment.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(period_us) / 2e6


async def keep_watchdog(period_s: float) -> None:
    """Notify systemd periodically that the event loop runs; otherwise systemd restarts the daemon."""
    while True:
        notify(WATCHDOG="1")
        await asyncio.sleep(period_s)


def fixed(before: DaemonSettings, after: DaemonSettings) -> list[str]:
    """Return the keys of changed settings that take effect only at a start. Pure."""
    changed = [
        key for name, key in _ONLY_AT_START.items() if getattr(before, name) != getattr(after, name)
    ]
    if (before.history is None) != (after.history is None):
        changed.append("history.keep")
    elif before.history != after.history and "daemon.state" not in changed:
        # A change of the state folder changes the history's default path as well.
        changed.append("history.path")
    return changed


@contextlib.contextmanager
def known_place(socket_path: Path, folder: Path) -> Iterator[None]:
    """Link the default paths of the sockets to the sockets, if the settings put these elsewhere.

    Every command expects the sockets in `folder`. Links of another daemon that runs are kept.
    """
    targets = {
        folder / API_NAME: socket_path,
        folder / via_daemon.NAME: socket_path.parent / via_daemon.NAME,
    }
    made = []
    for link, target in targets.items():
        try:
            folder.mkdir(mode=0o755, exist_ok=True)
            if link.is_symlink() and (link == target or not _answers(link)):
                link.unlink()
            if link == target:
                continue
            if not link.is_symlink():
                remove_stale(str(link))
            link.symlink_to(target)
        except InputError:
            continue  # Another daemon answers at the default path.
        except OSError as error:
            structlog.get_logger("giveback.daemon").info(
                "commands need --socket", why=f"{link}: {error.strerror}"
            )
        else:
            made.append((link, target))
    try:
        yield
    finally:
        for link, target in made:
            with contextlib.suppress(OSError):
                if link.readlink() == target:
                    link.unlink()


def _answers(path: Path) -> bool:
    """Return whether a daemon listens at a path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            with short_path(str(path)) as reachable:
                probe.connect(reachable)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding:
    """Options of a command that runs the daemon in its own process: `giveback web`."""

    acts: bool = True
    """False: it only samples, and sends nothing to guests."""
    ready: Callable[[Sessions, Serving], None] = lambda _sessions, _surfaces: None
    """The function to call once all servers run."""


async def manage(
    settings: DaemonSettings,
    path: Path | None,
    root: str = "/",
    embedding: Embedding | None = None,
) -> None:
    """Run the daemon until SIGTERM or SIGINT. Raises InputError if it cannot start.

    SIGHUP reads the settings again from `path`; None: from the default path.
    """
    embedded = embedding or Embedding()
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(settings.state))
        make_folder_of(settings.socket)
        recorder = _recorder(settings, stack)
        fallbacks = Fallbacks(settings.state, root=root)
        otlp = _otlp(settings)
        daemon = Daemon(
            settings, recorder=recorder, fallbacks=fallbacks, root=root, acts=embedded.acts,
            other_problems=(lambda: ()) if otlp is None else lambda: otlp.problems,
        )  # fmt: skip
        sessions = Sessions(settings.state / SESSIONS_NAME)
        pages = WebPages(daemon, sessions, acts=embedded.acts)
        loop = asyncio.get_running_loop()
        proxy = proxying(daemon.fleet, settings.socket.parent / via_daemon.NAME)
        stack.enter_context(known_place(settings.socket, runtime_folder()))
        async with (
            serving(daemon, _endpoint(settings, lambda: daemon.settings, otlp), pages) as surfaces,
            proxy,
        ):

            def reload() -> None:
                notify_reloading()
                if take_settings(daemon, path, root):
                    surfaces.access = daemon.settings.access
                notify(READY="1")

            def stop() -> None:
                notify(STOPPING="1")
                daemon.stop()

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop)
            loop.add_signal_handler(signal.SIGHUP, reload)
            period_s = watchdog_s(os.environ, os.getpid())
            watchdog = None if period_s is None else loop.create_task(keep_watchdog(period_s))
            try:
                await daemon.run(lambda: _ready(embedded, sessions, surfaces))
            finally:
                if watchdog is not None:
                    watchdog.cancel()
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    loop.remove_signal_handler(number)


def _ready(embedded: Embedding, sessions: Sessions, surfaces: Serving) -> None:
    notify(READY="1", STATUS="managing the VMs")
    embedded.ready(sessions, surfaces)


def take_settings(daemon: Daemon, path: Path | None, root: str = "/") -> bool:
    """Read the settings again and apply all of them; on any error apply none, and show the error.

    Return whether they were applied.
    """
    log = structlog.get_logger("giveback.settings")
    try:
        settings = load(path)
        changed = fixed(daemon.settings, settings)
        if changed:
            raise InputError(f"{settings.source}: only a restart changes {', '.join(changed)}")
        # Without a valid control group the manager could not sample the host.
        read_host_view(root, settings.cgroup, now_s=0.0)
    except (InputError, VmError) as error:
        daemon.reload_failed(str(error))
        log.error("settings refused", why=str(error))
        return False
    daemon.reload(settings)
    logs.set_level(settings.log_level)
    log.info("settings reloaded", source=settings.source)
    return True


def _recorder(settings: DaemonSettings, stack: contextlib.ExitStack) -> HistoryRecorder:
    if settings.history is None:
        return NoRecorder()
    history = History(str(settings.history), settings.history_limit_bytes)
    stack.callback(history.close)
    return history


def _otlp(settings: DaemonSettings) -> OtlpExport | None:
    if not settings.otlp:
        return None
    # Imported here: a daemon without a collector is spared its memory.
    from giveback.manager.http.metrics.otlp import OtlpExport  # noqa: PLC0415

    return OtlpExport(settings.otlp)


def _endpoint(
    settings: DaemonSettings,
    current: Callable[[], DaemonSettings],
    otlp: OtlpExport | None = None,
) -> Endpoint:
    def history() -> ReadableHistory | None:
        # The file of the start, which the recorder writes; the prices of now.
        path = settings.history
        return None if path is None else ReadableHistory.of(str(path), current())

    return Endpoint(
        socket_path=str(settings.socket),
        socket_group=settings.socket_group,
        access=settings.access,
        metrics_listen=settings.metrics_listen,
        web_listen=settings.web_listen,
        history=history,
        otlp=otlp,
    )
