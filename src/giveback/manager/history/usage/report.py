"""Read a report of use from the history's file, VM by VM. Read-only."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

from giveback.errors import InputError
from giveback.manager.history import schema
from giveback.manager.history.schema import HistoryError
from giveback.manager.history.usage.grains import grains_of, host_grains, vms_in
from giveback.manager.history.usage.totals import (
    UsageReport,
    host_usage,
    owners_of,
    vm_usage,
)

if TYPE_CHECKING:
    from giveback.manager.settings.load import UsageSettings
    from giveback.manager.settings.values import MemoryMark


def read_usage(
    path: str, from_s: int, to_s: int, short: MemoryMark, prices: UsageSettings
) -> UsageReport:
    """Return what all VMs used from `from_s` to `to_s`, the largest holder first.

    `short` is the host's mark below which memory is not spare. Raises HistoryError if the file
    cannot be read, InputError if the time is empty.
    """
    if to_s <= from_s:
        raise InputError(f"usage from {from_s} to {to_s}: the end must be after the start")
    with contextlib.closing(schema.open_for_reading(path)) as connection:
        try:
            connection.execute("BEGIN")
            return _report(connection, from_s, to_s, short, prices)
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise HistoryError(f"{path}: {schema.words(error)}") from error


def _report(
    connection: sqlite3.Connection,
    from_s: int,
    to_s: int,
    short: MemoryMark,
    prices: UsageSettings,
) -> UsageReport:
    host = host_usage(host_grains(connection, from_s, to_s), from_s, to_s, short)
    found = (
        vm_usage(vm, grains, host.spare_bytes)
        for vm in vms_in(connection, from_s, to_s)
        if (grains := grains_of(connection, vm, from_s, to_s))
    )
    vms = sorted(found, key=lambda vm: (-vm.amounts.held_gib_hours, vm.name))
    return UsageReport(
        from_s, to_s, host, tuple(vms), owners_of(vms), prices.price_per_gib_hour, prices.currency
    )
