"""The history in grains of a quarter of an hour, VM by VM.

Rows of all tiers become grains, so that the last 36 hours and the days before compare. Python holds
the grains of one VM at a time. Functions that are given a connection raise sqlite3.Error.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from giveback.manager.history.schema import TIERS, columns_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from giveback.manager.history.schema import Tier

GRAIN_S = TIERS[-1].step_s
_SAMPLE_S = TIERS[0].step_s
_MEANS = ("ram_bytes", "resident_bytes", "needed_bytes", "returned_bytes", "own_bytes")


class Grain(NamedTuple):
    """One VM in a quarter of an hour. Means are over the samples in it; None is unknown.

    `covered_s` is less than 900 if the VM or the daemon ran for a part of it.
    """

    at_s: int
    covered_s: int
    needed_most_bytes: int | None
    ram_bytes: int | None
    held_bytes: int | None
    needed_bytes: int | None
    returned_bytes: int | None
    own_bytes: int | None


class HostGrain(NamedTuple):
    """The host in a quarter of an hour, with the least available memory of all samples in it."""

    at_s: int
    covered_s: int
    total_bytes: int | None
    available_least_bytes: int | None


class Run(NamedTuple):
    """One process of a VM: the number of its rows in the file, and when it was seen first and last."""

    number: int
    first_s: int
    last_s: int


@dataclass(frozen=True, slots=True)
class RecordedVm:
    """All runs of a VM: the same name, backend and user. The label is the last run's."""

    name: str
    backend: str
    uid: int | None
    label: str
    runs: tuple[Run, ...]


def vms_in(connection: sqlite3.Connection, from_s: int, to_s: int) -> list[RecordedVm]:
    """Return the VMs that were seen in that time, by name."""
    there = columns_of(connection, "vm")
    uid, label = (name if name in there else f"NULL AS {name}" for name in ("uid", "label"))
    rows = connection.execute(
        f"SELECT name, backend, {uid}, {label}, id, first_s, last_s FROM vm "  # noqa: S608
        "WHERE last_s >= ? AND first_s < ? ORDER BY name, backend, uid, last_s",
        (from_s, to_s),
    )
    found = []
    for (name, backend, user), group in itertools.groupby(rows, key=lambda row: row[:3]):
        runs = list(group)
        numbers = tuple(Run(*row[4:]) for row in runs)
        found.append(RecordedVm(name, backend, user, runs[-1][3] or "", numbers))
    return found


def grains_of(
    connection: sqlite3.Connection, vm: RecordedVm, from_s: int, to_s: int
) -> list[Grain]:
    """Return the VM's grains from `from_s` to `to_s`, oldest first."""
    parts = spans(connection, from_s, to_s)
    rows = (row for run in vm.runs for part in parts for row in _rows_of(connection, run, *part))
    by_time: dict[int, list[Grain]] = {}
    for row in rows:
        by_time.setdefault(row.at_s, []).append(row)
    return [merged(by_time[at_s]) for at_s in sorted(by_time)]


def _rows_of(
    connection: sqlite3.Connection, run: Run, tier: Tier, from_s: int, to_s: int
) -> Iterable[Grain]:
    there = columns_of(connection, tier.vm)
    most = "v.needed_bytes"
    if "needed_most_bytes" in there:
        most = "coalesce(v.needed_most_bytes, v.needed_bytes)"
    means = ", ".join(_mean(f"v.{name}") if name in there else "NULL" for name in _MEANS)
    # CROSS JOIN fixes the order of the loops: each sample's time, then this VM's row of it.
    rows = connection.execute(
        f"SELECT v.at_s / {GRAIN_S} * {GRAIN_S} AS grain, sum(v.looks), max({most}), {means} "  # noqa: S608
        f"FROM {tier.host} h CROSS JOIN {tier.vm} v ON v.at_s = h.at_s AND v.vm = ? "
        "WHERE h.at_s >= ? AND h.at_s < ? GROUP BY grain",
        (run.number, max(from_s, run.first_s // GRAIN_S * GRAIN_S), min(to_s, run.last_s + 1)),
    )
    return (Grain(at_s, _covered_s(looks), *rest) for at_s, looks, *rest in rows)


def merged(grains: Sequence[Grain]) -> Grain:
    """Return one grain of several of the same time: a VM that was started again within it.

    Runs that overlap, of two VMs of one name, add up.
    """
    if len(grains) == 1:
        return grains[0]
    covered_s = min(GRAIN_S, sum(grain.covered_s for grain in grains))
    side_by_side = sum(grain.covered_s for grain in grains) > GRAIN_S
    known = [g.needed_most_bytes for g in grains if g.needed_most_bytes is not None]
    most = (sum(known) if side_by_side else max(known)) if known else None
    means: list[int | None] = []
    for column in range(3, len(Grain._fields)):
        parts = [(g[column], g.covered_s) for g in grains if g[column] is not None]
        total_s = min(GRAIN_S, sum(s for _, s in parts))
        means.append(round(sum((v or 0) * s for v, s in parts) / total_s) if total_s else None)
    return Grain(grains[0].at_s, covered_s, most, *means)


def host_grains(connection: sqlite3.Connection, from_s: int, to_s: int) -> list[HostGrain]:
    """Return the host's grains, oldest first; where one is missing no daemon recorded."""
    grains = []
    for tier, start_s, end_s in spans(connection, from_s, to_s):
        rows = connection.execute(
            f"SELECT at_s / {GRAIN_S} * {GRAIN_S} AS grain, sum(looks), max(total_bytes), "  # noqa: S608
            f"min(available_least_bytes) FROM {tier.host} "
            "WHERE at_s >= ? AND at_s < ? GROUP BY grain",
            (start_s, end_s),
        )
        grains += [HostGrain(at_s, _covered_s(looks), *rest) for at_s, looks, *rest in rows]
    return grains


def spans(connection: sqlite3.Connection, from_s: int, to_s: int) -> list[tuple[Tier, int, int]]:
    """Return which tier's rows serve which time, the oldest first, without overlap.

    The coarsest tier first, since its rows are grains already; the finer ones hold what was not
    rolled up yet. Every part but the last ends with a whole grain.
    """
    parts = []
    start_s = from_s // GRAIN_S * GRAIN_S
    for tier in reversed(TIERS):
        (newest,) = connection.execute(f"SELECT max(at_s) FROM {tier.host}").fetchone()  # noqa: S608
        if newest is None:
            continue
        end_s = newest + tier.step_s
        if tier is not TIERS[0]:
            end_s = end_s // GRAIN_S * GRAIN_S
        end_s = min(end_s, to_s)
        if end_s > start_s:
            parts.append((tier, start_s, end_s))
            start_s = end_s
    return parts


def _covered_s(samples: int | None) -> int:
    return min(GRAIN_S, (samples or 0) * _SAMPLE_S)


def _mean(name: str) -> str:
    """Return the mean over the samples behind the rows; NULL where all of them are."""
    weight = f"sum(CASE WHEN {name} IS NULL THEN 0 ELSE v.looks END)"
    return f"CAST(round(sum({name} * 1.0 * v.looks) / nullif({weight}, 0)) AS INTEGER)"
