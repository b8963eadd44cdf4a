"""Turn on free page reporting and balloon statistics for a libvirt domain.

Shows what would change; --yes changes it. It is the domain's next start that uses it: a running VM
keeps what it has. Other VMMs are told by their own command line: `giveback doctor` says how.
"""

from __future__ import annotations

import argparse

from giveback.errors import InputError
from giveback.text import shown
from giveback.vmm import libvirt

HELP = "turn on free page reporting for a libvirt domain (shows the diff first)"
_PERIOD_LIMIT_S = 3600


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("domain", metavar="DOMAIN", help="the domain's name")
    parser.add_argument("--connect", default=libvirt.URI, metavar="URI", help="libvirt's URI")
    parser.add_argument(
        "--period", type=_period, default=5, metavar="SECONDS", help="of the statistics (5; 0 off)"
    )
    parser.add_argument("--off", action="store_true", help="turn reporting off again")
    parser.add_argument("--yes", action="store_true", help="change it, not only show it")


def _period(text: str) -> int:
    if not text.isdigit() or len(text) > 4 or int(text) > _PERIOD_LIMIT_S:
        raise argparse.ArgumentTypeError(f"from 0 to {_PERIOD_LIMIT_S} seconds")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Show the difference, and with --yes make it."""
    if not libvirt.available():
        raise InputError("libvirt-python is not installed: pip install 'giveback[libvirt]'")
    before = libvirt.persistent_xml(args.domain, args.connect)
    after = libvirt.changed_xml(before, reporting=not args.off, period_s=args.period)
    difference = libvirt.difference(before, after, shown(args.domain, 60))
    if not difference:
        print("it is so already")
        return 0
    print("\n".join(shown(line, 400) for line in difference.splitlines()))
    if not args.yes:
        print("nothing was changed; --yes changes it")
        return 0
    libvirt.define(after, args.connect)
    print("changed: the domain's next start uses it")
    return 0
