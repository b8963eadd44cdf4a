"""Open the web page: this host's VMs over time, where each byte is, and what would bring memory back.

The daemon serves it. Where none runs, this command runs one for as long as it runs itself; that one only
watches unless root runs it. The address that is printed logs one browser in, once, within two minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import tempfile
import time
import webbrowser
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from giveback.commands import _daemon
from giveback.errors import InputError
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from giveback.manager.http.server import Serving
    from giveback.manager.http.web.client import WebClient
    from giveback.manager.http.web.sessions import Sessions
    from giveback.manager.settings.load import DaemonSettings

HELP = "open the web page of this host's VMs in a browser"
PORT = 9836


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--no-open", action="store_true", help="only print the address")
    parser.add_argument(
        "--read-only", action="store_true", help="the browser may look, and start nothing"
    )
    parser.add_argument(
        "--port",
        type=_port,
        metavar="PORT",
        help=f"the loopback port of the page ({PORT}, or another where that is taken)",
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument(
        "--sessions", action="store_true", help="list the browsers that are logged in"
    )
    form.add_argument("--revoke", metavar="ID", help="log one of them out")
    _daemon.add_arguments(parser)


def _port(text: str) -> int:
    """Return a port. Raises InputError."""
    found = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    if not 0 < found < 1 << 16:
        shown = escape_for_terminal(text, 40)
        raise InputError(f"--port {shown!r}: must be a number from 1 to 65535")
    return found


def run(args: argparse.Namespace) -> int:
    """Open the page; return once the browser has its address, or serve it until Ctrl-C."""
    from giveback.manager.http.client import NoDaemonError  # noqa: PLC0415

    try:
        client = _client(args)
        if args.sessions or args.revoke:
            return _manage_sessions(client, args.revoke)
        return _with_daemon(client, args)
    except NoDaemonError:
        if args.socket or args.sessions or args.revoke:
            raise
        return _with_own_daemon(args)


def _client(args: argparse.Namespace) -> WebClient:
    from giveback.manager.http.web.client import WebClient  # noqa: PLC0415

    path, problem = _daemon.find(args)
    if problem:
        print(f"giveback: {problem}", file=sys.stderr)
    return WebClient(path)


def _manage_sessions(client: WebClient, number: str | None) -> int:
    if number:
        client.revoke(number)
        print(f"session {escape_for_terminal(number, 40)} is logged out")
        return 0
    for one in client.sessions().sessions:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.made_wall_s))
        rights = "read" if one.read_only else f"as uid {one.uid}"
        print(f"{one.id}  since {since}  {rights}  {escape_for_terminal(one.agent, 100)}")
    return 0


def _with_daemon(client: WebClient, args: argparse.Namespace) -> int:
    """Use the page of the daemon that runs: at its own port, or at one that this command serves."""
    direct = client.token(_browser_uid(), read_only=args.read_only)
    if direct.address and not args.port:
        _show(direct.address, direct.token, args)
        return 0
    asyncio.run(_forwarding(client, args))
    return 0


def _browser_uid() -> int:
    """Return the user whose browser it is: under sudo not root."""
    said = os.environ.get("SUDO_UID", "")
    named = said.isascii() and said.isdigit() and len(said) <= 10
    return int(said) if os.geteuid() == 0 and named else os.geteuid()


async def _forwarding(client: WebClient, args: argparse.Namespace) -> None:
    """Lead a port to the daemon's socket until Ctrl-C. Raises InputError where it cannot be had."""
    from giveback.manager.http.web.forward import Forwarder  # noqa: PLC0415
    from giveback.vmm.clients.sockets import each_closed  # noqa: PLC0415

    port = _free_port(args.port)
    forwarder = Forwarder(_daemon.find(args)[0])
    server = await asyncio.start_server(each_closed(forwarder.serve), "127.0.0.1", port)
    # To the daemon these connections are this process's.
    token = await asyncio.to_thread(client.token, os.geteuid(), read_only=args.read_only)
    async with server:
        _show(f"http://127.0.0.1:{port}", token.token, args)
        print("giveback: the page is there until Ctrl-C", file=sys.stderr)
        await server.serve_forever()


def _free_port(wanted: int | None) -> int:
    """Return a port that is free: what is wanted, else the usual one, else any. Raises InputError."""
    import socket  # noqa: PLC0415

    for port in (wanted,) if wanted else (PORT, 0):
        try:
            with socket.create_server(("127.0.0.1", port)) as probe:
                found: int = probe.getsockname()[1]
        except OSError as error:
            why = error.strerror
        else:
            return found
    raise InputError(f"--port {wanted}: {why}; name another")


def _with_own_daemon(args: argparse.Namespace) -> int:
    """Run a daemon in this process: one that acts for root, one that watches for others."""
    from giveback.host.readers.pool import shared  # noqa: PLC0415
    from giveback.manager import logs  # noqa: PLC0415
    from giveback.manager.lifecycle import Embedding, manage  # noqa: PLC0415
    from giveback.manager.settings.access import ApiPeer  # noqa: PLC0415
    from giveback.manager.settings.load import load  # noqa: PLC0415

    acts = os.geteuid() == 0 and not args.read_only
    with _own_settings(load(args.settings), args.port) as settings:

        def ready(sessions: Sessions, surfaces: Serving) -> None:
            peer = ApiPeer(os.getpid(), os.geteuid(), frozenset(os.getgroups()))
            token = sessions.new_token(peer, _browser_uid(), read_only=args.read_only)
            what = (
                "the host's memory is managed"
                if acts
                else "it only watches: root's daemon also manages"
            )
            print(f"giveback: no daemon ran, so this command runs one ({what})", file=sys.stderr)
            if surfaces.web_address is not None:
                _show(f"http://127.0.0.1:{surfaces.web_address[1]}", token, args)
            print("giveback: it ends with Ctrl-C", file=sys.stderr)

        logs.set_up(sys.stderr, "warning")
        # Now, while this process has no threads and none of a guest's data in its memory.
        shared().start()
        asyncio.run(manage(settings, args.settings, embedding=Embedding(acts=acts, ready=ready)))
    return 0


@contextlib.contextmanager
def _own_settings(settings: DaemonSettings, port: int | None) -> Iterator[DaemonSettings]:
    """Yield the settings with a port for the page, and a folder where this user has no runtime folder."""
    listen = settings.web_listen
    if port or not listen:
        listen = f"127.0.0.1:{_free_port(port)}"
    with contextlib.ExitStack() as stack:
        place = settings.socket
        if os.geteuid() and not place.parent.parent.is_dir():
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="giveback-web-"))
            place = Path(folder) / "run" / place.name
        yield replace(settings, web_listen=listen, socket=place)


def _show(address: str, token: str, args: argparse.Namespace) -> None:
    """Print the address that logs one browser in, and open it where there is a desktop."""
    url = f"{address}/#login={token}"
    print(url, flush=True)
    desktop = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
    # Root's browser would be another one than the user's.
    if not args.no_open and desktop and "SUDO_UID" not in os.environ:
        webbrowser.open(url)
