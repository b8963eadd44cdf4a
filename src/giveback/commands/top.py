"""Every VM live: needed, cache, trapped and returned memory, as bars, with the host's state above.

Keys: Enter explains a VM, d says why memory stays, r reclaims after a preview, t replays the history,
s sorts, / filters, ? shows help. Without a daemon it shows what `giveback ps` finds. With --once, or
where the output is not a terminal, it prints one snapshot as text.
"""

from __future__ import annotations

import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.arguments import span_of
from giveback.commands import _daemon, _output
from giveback.errors import InputError, Interrupted
from giveback.interrupts import SIGNALS
from giveback.manager.http import requests
from giveback.top import once
from giveback.top.order import BY_NAME, TopView
from giveback.vmm.clients.sockets import short_path
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    import argparse

    from giveback.top.sources.base import Source

HELP = "every VM live: needed, cache, trapped and returned memory; explain, reclaim, replay"
_CONNECT_S = 5.0
_SIGNALLED = 128


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--once", action="store_true", help="print one snapshot as text, for scripts"
    )
    parser.add_argument(
        "--sort",
        type=_sort,
        default=TopView(),
        metavar="COLUMN",
        help=f"by {', '.join(BY_NAME)} (trapped); -COLUMN the other way round",
    )
    parser.add_argument(
        "--filter",
        default="",
        metavar="WORDS",
        help="only VMs with these words in name, owner, condition or hypervisor; -WORD: without it",
    )
    parser.add_argument("--replay", action="store_true", help="begin with the history, at its end")
    parser.add_argument(
        "--since",
        type=lambda text: span_of(text, "--since", requests.SPAN_LEAST_S, requests.SPAN_MOST_S),
        default=requests.SINCE_S,
        metavar="TIME",
        help="how far back the replay goes: 15m, 2h, 7d, up to 90d (2h)",
    )
    parser.add_argument("--file", type=Path, metavar="PATH", help="the history's file")
    _daemon.add_arguments(parser)


def _sort(text: str) -> TopView:
    name = text.removeprefix("-").lower()
    if name not in BY_NAME:
        raise InputError(
            f"--sort: there is no column {escape_for_terminal(text, 40)!r}; there are: {', '.join(BY_NAME)}"
        )
    return TopView(name, text.startswith("-"))


def run(args: argparse.Namespace) -> int:
    """Show the VMs until the user leaves, or once. Raises NoDaemonError for a daemon that was named."""
    view = TopView(args.sort.sort, args.sort.is_reversed, args.filter)
    source = _source(args)
    if not args.once and sys.stdout.isatty() and not sys.stderr.isatty():
        raise InputError("top draws on stderr: leave it to the terminal, or use --once")
    if args.once or not (sys.stdout.isatty() and sys.stdin.isatty()):
        try:
            snapshot = source.next()
        finally:
            source.close()
        _output.print_page(once.text(snapshot, view, source.label, _output.width()))
        return 0
    return _live(args, source, view)


def _live(args: argparse.Namespace, source: Source, view: TopView) -> int:
    """Show the VMs until the user leaves, or the terminal does. Raises Interrupted."""
    # Textual takes 0.3 s to import, which --once need not pay.
    from giveback.top.sources import history  # noqa: PLC0415
    from giveback.top.ui.app import TopApp  # noqa: PLC0415

    def file_past(path: str) -> history.Past:
        past = history.FilePast(path)
        # A file that is missing or damaged: the daemon may have another one.
        past.newest()
        return past

    def replay() -> history.HistoryReplay:
        past = _daemon.from_history(args, file_past, history.DaemonPast)
        return history.HistoryReplay(past, args.since)

    app = TopApp(source, view, replay, begins_with_replay=args.replay)
    app.ends_process = True
    # Textual and the application follow signals by themselves, and leave other handlers behind.
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        code = app.run() or app.return_code or 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code > _SIGNALLED:
        raise Interrupted(signal.Signals(code - _SIGNALLED).name, code - _SIGNALLED)
    return code


def _source(args: argparse.Namespace) -> Source:
    """Return the daemon that was named, or one that is found and answers; else this host itself."""
    # httpx2 takes longer to import than one snapshot of the host, which needs none of it.
    if args.socket or args.settings:
        from giveback.top.sources.daemon import DaemonSource  # noqa: PLC0415

        return DaemonSource(_daemon.find(args)[0])
    try:
        path, _ = _daemon.find(args)
    except InputError:
        path = ""
    why = _why_not(path)
    if not why:
        from giveback.top.sources.daemon import DaemonSource  # noqa: PLC0415

        return DaemonSource(path)
    from giveback.top.sources.host import HostSource  # noqa: PLC0415

    return HostSource(why)


def _why_not(path: str) -> str:
    """Return why no daemon is asked at this socket; "" if one listens."""
    if not path:
        return "no daemon"
    try:
        with (
            short_path(path) as reachable,
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe,
        ):
            probe.settimeout(_CONNECT_S)
            probe.connect(reachable)
    except PermissionError:
        return "the daemon may not be asked by this user"
    except OSError:
        return "no daemon"
    return ""
