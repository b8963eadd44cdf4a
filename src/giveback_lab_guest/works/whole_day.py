"""A whole day of a VM with containers, a concurrent service, and a PostgreSQL database."""

from __future__ import annotations

import glob
import subprocess
import sys

from giveback_lab_guest.works.containers import BUILD, Containers, run
from giveback_lab_guest.works.service import Service30

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# pgbench's scale: 1 is about 15 MiB, and 100,000 rows.
SCALE_BYTES = 16 << 20
DATABASE_PERCENT = 7.0
CLIENTS = 2
LOAD_S = 15
DATABASE = "lab_bench"
AS_POSTGRES = ("runuser", "-u", "postgres", "--")
SERVICE_UNIT = "lab-day-service"


class WholeDay(Containers):
    """The database is loaded, a service starts, containers come and go, the database is used."""

    def phases(self) -> list[tuple[str, Callable[[], None]]]:
        """Return the containers' own phases, between those of the database and the service."""
        prepared = super().phases()
        of_parts = len(self.parts)
        return [
            *prepared[:-of_parts],
            ("database", self._load),
            ("deploy", self._deploy),
            *prepared[-of_parts:],
            ("queries", lambda: self._queries(LOAD_S)),
            ("service's end", lambda: run(["systemctl", "stop", SERVICE_UNIT])),
        ]

    def _load(self) -> None:
        scale = max(1, self.percent(DATABASE_PERCENT) // SCALE_BYTES)
        run([*AS_POSTGRES, "createdb", DATABASE])
        run([*AS_POSTGRES, pgbench(), "-i", "-q", "-s", str(scale), DATABASE])

    def _deploy(self) -> None:
        """Start a service at 30 % of the CPUs, as a unit of its own."""
        service = Service30(f"{self.folder}/served", self.ram_bytes // 2, self.seed, self.cpus)
        words = ["bench", "deploy", "service-30", service.folder, str(service.ram_bytes)]
        run([
            "systemd-run", "--quiet", "--collect", f"--unit={SERVICE_UNIT}", "--slice=system.slice",
            sys.executable, sys.argv[0], *words, str(self.seed), str(self.cpus),
        ])  # fmt: skip

    def _queries(self, seconds: int) -> None:
        run([*AS_POSTGRES, pgbench(), "-n", "-c", str(CLIENTS), "-T", str(seconds), DATABASE])

    def again(self) -> None:
        """Run root's container again, and some queries."""
        self.parts[0].shell(f"rm -rf tree; {BUILD}")
        command = [*AS_POSTGRES, pgbench(), "-n", "-S", "-c", str(CLIENTS), "-t", "200", DATABASE]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def pgbench() -> str:
    """Return the program of the newest PostgreSQL. Raises OSError if there is none."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/pgbench"))
    if not found:
        raise OSError("pgbench: PostgreSQL is not installed in this guest")
    return found[-1]
