"""What a policy may ask for: one type for each action, with its amounts and its wording. Pure.

How a step is executed stands in release/steps.py, at its type. To add a step, add a type here and its
function there.
"""

from __future__ import annotations

from giveback_kernel.record import Record

MIB = 1 << 20
# How ReclaimCold tells cold from warm; see cold_cache.py.
TRAINED, UNTRAINED, REOPEN = 0, 1, 2


class Action(Record):
    """One thing to do. `why` is for people; `kind` names the type in logs, results and `status.json`."""

    why: str = ""
    kind = ""


class BeginPass(Action):
    """A release pass begins: account its steps together."""

    kind = "pass begin"


class EndPass(Action):
    """The release pass is over: publish its record."""

    kind = "pass end"


class Abandon(Action):
    """Kill the step that runs, and forget those that wait."""

    kind = "abandon"


class RestoreOrder(Action):
    """Put the report order back now, and forget the steps that wait."""

    kind = "restore"


class ReleaseStep(Action):
    """One step of a pass. Steps wait in a queue, and one at a time is begun.

    `mark` is its name on the host's chart, `label` its name in the lines of `release`: "" where they
    are the `kind`. `freed_words` say what its bytes became. `has_outcome`: the next step waits for its
    outcome. `is_optional`: a pass in which it was refused has not failed.
    """

    mark = ""
    label = ""
    freed_words = "freed"
    has_outcome = False
    is_optional = False

    @property
    def takes_ended(self) -> bool:
        """Whether the cache of ended cgroups goes with it."""
        return False

    def words(self) -> str:
        """Return the step in words, with its amount and why."""
        return self.kind if self.why in ("", self.kind) else f"{self.kind}: {self.why}"

    def refusal_words(self, why: str) -> str:
        """Return in words that the step could not be done."""
        return why


class WorkerStep(ReleaseStep):
    """A step that blocks: it runs in a worker, which is killed after `deadline_s`."""

    deadline_s = 20.0
    has_outcome = True


class Sync(WorkerStep):
    """Write dirty pages, which cannot be reclaimed."""

    kind = "sync"


class ReclaimSlab(WorkerStep):
    """Drop dentries and inodes."""

    kind = "slab"


class ReclaimCold(WorkerStep):
    """Reclaim cache that was not read again, as far as the kernel can tell.

    `with_ended`: the cache of ended cgroups, too, of which no amount is set.
    `how`: TRAINED keeps what was read again; UNTRAINED where the kernel may not be trained for it;
    REOPEN takes new cache that lies among the kept.
    """

    kind = "reclaim cold"
    mark = "reclaim"
    deadline_s = 30.0
    amount_bytes: int = 0
    how: int = TRAINED
    with_ended: bool = True

    @property
    def takes_ended(self) -> bool:
        """Whether the cache of ended cgroups goes with it."""
        return self.with_ended

    def words(self) -> str:
        """Return the step in words."""
        return f"reclaim {self.amount_bytes // MIB} MiB: {self.why}"


class ReclaimEnded(WorkerStep):
    """Reclaim the cache that cgroups which have ended left behind; live cgroups keep theirs."""

    kind = "reclaim ended"
    mark = "reclaim"
    deadline_s = 30.0
    why: str = "cache of ended cgroups"

    @property
    def takes_ended(self) -> bool:
        """Whether the cache of ended cgroups goes with it."""
        return True


class ReclaimColdAnon(WorkerStep):
    """Swap anonymous memory out that was not touched for a while, and look which is next."""

    kind = "reclaim cold anon"
    mark = "reclaim"
    deadline_s = 30.0
    amount_bytes: int = 0
    why: str = "cold memory of programs"

    def words(self) -> str:
        """Return the step in words."""
        return f"swap up to {self.amount_bytes // MIB} MiB out: {self.why}"


class Reclaim(WorkerStep):
    """Reclaim what the kernel gives. `may_drop`: the whole cache, where the kernel can only swap."""

    kind = "reclaim"
    amount_bytes: int = 0
    may_drop: bool = False

    def words(self) -> str:
        """Return the step in words."""
        return f"reclaim {self.amount_bytes // MIB} MiB: {self.why}"


class DropCaches(WorkerStep):
    """Drop all caches that `what` names, as vm.drop_caches takes it: 1 page cache, 2 slab, 3 both."""

    kind = "drop"
    mark = "reclaim"
    what: int = 1


class Compact(WorkerStep):
    """Make free memory contiguous on these NUMA `nodes`; on all where none is named."""

    kind = "compact"
    freed_words = "made contiguous"
    deadline_s = 40.0
    nodes: tuple[int, ...] = ()


class DrainLists(ReleaseStep):
    """Empty the per-CPU lists, on which free pages linger."""

    kind = "drain"
    has_outcome = True
    why: str = "per-CPU lists"

    def refusal_words(self, why: str) -> str:
        """Return in words that the lists keep their pages."""
        return f"the per-CPU lists are not emptied: {why}"


class LowerOrder(ReleaseStep):
    """Lower the report order to `order`, until RestoreOrder."""

    kind = "lower"
    mark = label = "deep"
    order: int = 0

    def words(self) -> str:
        """Return the step in words."""
        return f"lower the report order to {self.order}: {self.why}"


class TriggerReporting(ReleaseStep):
    """Make the kernel start a pass of reporting."""

    kind = "nudge"
    label = "report"
    is_optional = True
    why: str = "start a pass of reporting"

    def refusal_words(self, why: str) -> str:
        """Return in words that nothing is reported at once."""
        return f"no pass of reporting could be started: {why}"
