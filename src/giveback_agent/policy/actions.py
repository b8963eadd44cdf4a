"""The actions that a policy may return: one type each, with its amounts and its words. Pure.

release/steps.py executes each step, by its type. To add a step, add a type here and a function there.
"""

from __future__ import annotations

from giveback_kernel.record import Record

MIB = 1 << 20
# How ReclaimCold distinguishes cold cache from warm; see release/cache/cold_cache.py.
TRAINED, UNTRAINED, REOPEN = 0, 1, 2


class Action(Record):
    """An action. `why` is a text for people; `kind` names the type in logs, results and status.json."""

    why: str = ""
    kind = ""


class BeginPass(Action):
    """The begin of a release pass: its steps are accounted together from here."""

    kind = "pass begin"


class EndPass(Action):
    """The end of a release pass: its record is published."""

    kind = "pass end"


class Abandon(Action):
    """Kill the running step and drop the queued ones."""

    kind = "abandon"


class RestoreOrder(Action):
    """Restore the report order now and drop the queued steps."""

    kind = "restore"


class ReleaseStep(Action):
    """A step of a pass. Steps are queued and begun one at a time.

    `mark` is its name on the host's chart and `label` its name in the output of `release`; "" means
    that it is the `kind`. `freed_words` is the verb for its bytes. `has_outcome`: the next step waits
    for its outcome. `is_optional`: a pass does not fail because this step was refused.
    """

    mark = ""
    label = ""
    freed_words = "freed"
    has_outcome = False
    is_optional = False

    @property
    def takes_ended(self) -> bool:
        """Whether the step also reclaims the cache of ended cgroups."""
        return False

    def words(self) -> str:
        """Describe the step for the log, with its amount and its reason."""
        return self.kind if self.why in ("", self.kind) else f"{self.kind}: {self.why}"

    def refusal_words(self, why: str) -> str:
        """Describe that the step could not be done, and `why`."""
        return why


class WorkerStep(ReleaseStep):
    """A step that blocks: it runs in a worker process, which is killed after `deadline_s`."""

    deadline_s = 20.0
    has_outcome = True


class Sync(WorkerStep):
    """Write dirty pages back: they cannot be reclaimed before."""

    kind = "sync"


class ReclaimSlab(WorkerStep):
    """Drop dentries and inodes."""

    kind = "slab"


class ReclaimCold(WorkerStep):
    """Reclaim cache that was not read again, as far as the kernel can tell.

    `with_ended`: also all cache of ended cgroups; `amount_bytes` does not limit it.
    `how`: TRAINED keeps pages that were read again; UNTRAINED does not train the LRU first; REOPEN also
    takes new cache from the generation that the last pass kept.
    """

    kind = "reclaim cold"
    mark = "reclaim"
    deadline_s = 30.0
    amount_bytes: int = 0
    how: int = TRAINED
    with_ended: bool = True

    @property
    def takes_ended(self) -> bool:
        """Whether the step also reclaims the cache of ended cgroups."""
        return self.with_ended

    def words(self) -> str:
        """Describe the step for the log."""
        return f"reclaim {self.amount_bytes // MIB} MiB: {self.why}"


class ReclaimEnded(WorkerStep):
    """Reclaim the cache that ended cgroups left behind; live cgroups keep theirs."""

    kind = "reclaim ended"
    mark = "reclaim"
    deadline_s = 30.0
    why: str = "cache of ended cgroups"

    @property
    def takes_ended(self) -> bool:
        """Whether the step also reclaims the cache of ended cgroups."""
        return True


class ReclaimColdAnon(WorkerStep):
    """Swap out anonymous memory that was not touched for a while, and open a new generation."""

    kind = "reclaim cold anon"
    mark = "reclaim"
    deadline_s = 30.0
    amount_bytes: int = 0
    why: str = "cold memory of programs"

    def words(self) -> str:
        """Describe the step for the log."""
        return f"swap up to {self.amount_bytes // MIB} MiB out: {self.why}"


class Reclaim(WorkerStep):
    """Reclaim by the kernel's own choice of pages.

    `may_drop`: drop the whole cache instead if the kernel can reclaim only by swapping.
    """

    kind = "reclaim"
    amount_bytes: int = 0
    may_drop: bool = False

    def words(self) -> str:
        """Describe the step for the log."""
        return f"reclaim {self.amount_bytes // MIB} MiB: {self.why}"


class DropCaches(WorkerStep):
    """Drop whole caches. `what` is the value for vm.drop_caches: 1 page cache, 2 slab, 3 both."""

    kind = "drop"
    mark = "reclaim"
    what: int = 1


class Compact(WorkerStep):
    """Make free memory contiguous on these NUMA `nodes`; an empty tuple means all."""

    kind = "compact"
    freed_words = "made contiguous"
    deadline_s = 40.0
    nodes: tuple[int, ...] = ()


class DrainLists(ReleaseStep):
    """Drain the per-CPU lists (pcp), which hold free pages that are not reported."""

    kind = "drain"
    has_outcome = True
    why: str = "per-CPU lists"

    def refusal_words(self, why: str) -> str:
        """Describe that the lists keep their pages, and `why`."""
        return f"the per-CPU lists are not drained: {why}"


class LowerOrder(ReleaseStep):
    """Lower the report order to `order` until RestoreOrder."""

    kind = "lower"
    mark = label = "deep"
    order: int = 0

    def words(self) -> str:
        """Describe the step for the log."""
        return f"lower the report order to {self.order}: {self.why}"


class TriggerReporting(ReleaseStep):
    """Make the kernel start a reporting cycle."""

    kind = "trigger"
    label = "report"
    is_optional = True
    why: str = "start a reporting cycle"

    def refusal_words(self, why: str) -> str:
        """Describe that no reporting cycle was started, and `why`."""
        return f"no reporting cycle could be started: {why}"
