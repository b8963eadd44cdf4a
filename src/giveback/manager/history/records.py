"""The history's records: the reader returns them, the API sends them, a chart shows them.

The fields of a record are the columns of its table. All times are Unix seconds; None is unknown. `looks` is
the number of samples behind a record.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from giveback.manager.model import RecordedAction


@dataclass(frozen=True, slots=True)
class HistoryHost:
    """The host at one time, or during one step that begins then."""

    at_s: int
    looks: int | None = None
    total_bytes: int | None = None
    available_bytes: int | None = None
    available_least_bytes: int | None = None
    psi_some: float | None = None
    psi_full: float | None = None
    swap_in_bytes: int | None = None
    swap_free_bytes: int | None = None
    urgency: int | None = None
    deficit_bytes: int | None = None
    vms: int | None = None
    resident_bytes: int | None = None
    needed_bytes: int | None = None
    residue_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class HistorySample:
    """One VM at one time, or during one step that begins then."""

    key: str
    at_s: int
    looks: int | None = None
    ram_bytes: int | None = None
    resident_bytes: int | None = None
    resident_most_bytes: int | None = None
    needed_bytes: int | None = None
    residue_bytes: int | None = None
    cache_bytes: int | None = None
    balloon_bytes: int | None = None
    urgency: int | None = None
    condition: str | None = None
    in_use_bytes: int | None = None
    trapped_bytes: int | None = None
    returnable_bytes: int | None = None
    returned_bytes: int | None = None
    own_bytes: int | None = None
    charged_bytes: int | None = None
    swap_bytes: int | None = None
    cpu_percent: float | None = None
    needed_most_bytes: int | None = None
    """The largest of the samples that the row stands for; None in rows of an older daemon."""


@dataclass(frozen=True, slots=True)
class HistoryVm:
    """A VM in the history, with the times of its first and last record."""

    key: str
    name: str
    backend: str
    first_s: int
    last_s: int
    uid: int | None = None
    """Of the user that the VMM ran as; None where it is unknown."""
    label: str = ""


@dataclass(frozen=True, slots=True)
class HistorySpan:
    """The history of a span of time: the host's records, and `samples` of the VM that was named."""

    from_s: int
    to_s: int
    step_s: int
    vm: str | None
    host: tuple[HistoryHost, ...]
    samples: tuple[HistorySample, ...]
    actions: tuple[RecordedAction, ...]
    vms: tuple[HistoryVm, ...]


@dataclass(frozen=True, slots=True)
class HistoryFrame:
    """All VMs at one moment, or over one step from then on; `actions` are of the time before it."""

    at_s: int
    step_s: int
    host: HistoryHost | None
    samples: tuple[HistorySample, ...]
    vms: tuple[HistoryVm, ...]
    actions: tuple[RecordedAction, ...]


HOST_COLUMNS = tuple(field.name for field in fields(HistoryHost))[1:]
VM_COLUMNS = tuple(field.name for field in fields(HistorySample))[2:]
REAL_COLUMNS = ("psi_some", "psi_full", "cpu_percent")
"""The columns that are not whole numbers."""
ACTION_COLUMNS = tuple(field.name for field in fields(RecordedAction))
