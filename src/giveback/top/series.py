"""The last values of each VM, from which its sparkline is drawn. Pure but for its own memory.

Values are kept by steps of monotonic time, so that neither a clock that is set back nor a snapshot that
comes early or late bends the line.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from giveback.top.model import TopSnapshot, TopVm

STEP_S = 5.0
POINTS = 48
"""Four minutes, as much as the widest column shows."""


class LastValues:
    """Resident memory of every VM over the last minutes."""

    def __init__(self) -> None:
        self._values: dict[str, deque[float | None]] = {}
        self._step: int | None = None

    def take(self, vms: Iterable[TopVm], now_s: float) -> None:
        """Note a snapshot. Within one step the newest value counts; steps without any are unknown."""
        step = int(now_s // STEP_S)
        passed = 1 if self._step is None else max(0, step - self._step)
        self._step = step if self._step is None else max(step, self._step)
        there = {}
        for vm in vms:
            values = self._values.get(vm.key)
            if values is None:
                values = deque([None], maxlen=POINTS)
            elif passed:
                values.extend([None] * min(passed, POINTS))
            values[-1] = vm.resident_bytes
            there[vm.key] = values
        self._values = there

    def prefill(self, snapshots: Sequence[TopSnapshot], step_s: float) -> None:
        """Put values of before the first one in front: one snapshot every `step_s`, oldest first."""
        times = max(1, round(step_s / STEP_S))
        for at, one in enumerate(snapshots):
            for vm in one.vms:
                values = self._values.setdefault(vm.key, deque([None], maxlen=POINTS))
                ago = (len(snapshots) - at) * times
                unknown = POINTS - len(values)
                before: list[float | None] = [*(None for _ in range(unknown)), *values]
                for offset in range(times):
                    place = POINTS - 1 - ago + offset
                    if 0 <= place < POINTS and before[place] is None:
                        before[place] = vm.resident_bytes
                self._values[vm.key] = deque(before, maxlen=POINTS)

    def of(self, key: str) -> tuple[float | None, ...]:
        """Return a VM's values, oldest first."""
        return tuple(self._values.get(key, ()))

    def __len__(self) -> int:
        return len(self._values)
