"""What older commits of giveback wrote, recorded from their code: lines of the protocol, leases, histories.

`older_versions/COMMIT/` has `agent.jsonl` (all that an agent sent in answer to the requests of
`tests/unit/guest/test_older_agents.py`), `daemon.jsonl` (a daemon's requests), `leases/` and `history.db.gz`.
They are never made again: their use is that they are old.
"""

from __future__ import annotations

import gzip
from pathlib import Path

FOLDER = Path(__file__).with_suffix("")
PEERS = ("7f2b175", "ce7cdbc")
"""One whose agent knows no goal, and one whose agent knows it, but not its number."""
HISTORIES = {"7f2b175": 1, "db529db": 2}
"""The commits that histories are of, and the version of each."""
BOOT = "5e4b1c2a-0000-4000-8000-00000000000a"
"""The boot that the leases belong to."""
HISTORY_START_S = 1_799_992_800
"""Of each history: 12 samples of vm0 and vm1 from here, 10 s apart, their resident memory 0 to 11 MiB."""


def said_by_agent(commit: str) -> list[bytes]:
    """Return the lines that this commit's agent wrote."""
    return (FOLDER / commit / "agent.jsonl").read_bytes().splitlines()


def said_by_daemon(commit: str) -> bytes:
    """Return the bytes that this commit's daemon sent."""
    return (FOLDER / commit / "daemon.jsonl").read_bytes()


def history_of(commit: str, folder: Path) -> Path:
    """Unpack this commit's history into `folder`; return its path."""
    path = folder / "history.db"
    path.write_bytes(gzip.decompress((FOLDER / commit / "history.db.gz").read_bytes()))
    return path
