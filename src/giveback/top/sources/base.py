"""What `giveback top` asks of a source. Every method may take seconds: it is called in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from giveback.top.model import ReclaimPlan, TopSnapshot, TopVm


class Source(Protocol):
    """Snapshots, and answers about one VM. Methods raise GivebackError."""

    @property
    def label(self) -> str:
        """Return in a few words where the snapshots are from."""
        ...

    def next(self) -> TopSnapshot:
        """Return the first snapshot at once, each later one when there is something new."""
        ...

    def explain(self, vm: TopVm, width: int) -> str:
        """Return where every byte of a VM is, and what would bring it back."""
        ...

    def doctor(self, vm: TopVm) -> str:
        """Return why a VM's memory does not come back."""
        ...

    def plan(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        """Return what would come from where at what cost; () are all VMs. Nothing is asked."""
        ...

    def reclaim(self, goal_bytes: int, keys: tuple[str, ...]) -> ReclaimPlan:
        """Free memory now, and return what came."""
        ...

    def close(self) -> None:
        """End `next`, from any thread. Never raises."""
        ...
