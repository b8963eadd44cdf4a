"""Restore every kernel setting that a killed agent left changed: at the next start, and for `repair`."""

from __future__ import annotations

from giveback_agent.release import percpu_lists, report_delay, report_order
from giveback_agent.runtime import memory_limits
from giveback_agent.service import cpu_weight
from giveback_kernel.errors import KernelFileError
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Repairs(Record):
    """Texts about what was restored and what failed, and the report order that was set (None: none)."""

    restored: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    order: int | None = None


def repair_all(root: str) -> Repairs:
    """Undo each change that is on record. Never raises; the record of a failure is kept."""
    order: int | None = None
    restored: list[str] = []
    failed: list[str] = []
    kinds: tuple[tuple[str, Callable[[], int | None], str], ...] = (
        ("memory limits of {} cgroups", lambda: memory_limits.restore(root), "are still changed"),
        ("per-CPU lists, fraction {}", lambda: percpu_lists.repair(root), "are still short"),
        ("CPU weight {}", lambda: cpu_weight.restore(root), "is not restored yet"),
        ("report delay {} ms", lambda: report_delay.restore(root), "is still low"),
        ("report order {}", lambda: report_order.repair(root).order, "is still lowered"),
    )
    for words, undo, still in kinds:
        try:
            value = undo()
        except KernelFileError as error:
            what = words.partition(" {}")[0].partition(",")[0]
            failed.append(f"{error}: the {what} {still}")
            continue
        if value is not None:
            restored.append(words.format(value))
        if words.startswith("report order"):
            order = value
    return Repairs(tuple(restored), tuple(failed), order)
