"""Verdicts on the kernel's memory management: reclaim, coldness, pressure, reserves. No I/O."""

from __future__ import annotations

import os

from giveback_kernel.page_reporting import effective_order
from giveback_kernel.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.doctor.facts import Access, Facts

OK = "ok"
WARN = "warn"
BAD = "bad"
UNKNOWN = "unknown"

PAGE_SIZE_BYTES = os.sysconf("SC_PAGE_SIZE")
# page_reporting_process_zone() in mm/page_reporting.c: 32 blocks must stay free above the mark.
REPORTING_MARGIN_BLOCKS = 32
RESERVED_PERCENT_LIMIT = 5
THP_PATH = "/sys/kernel/mm/transparent_hugepage"


class Check(Record):
    """One precondition: its verdict, what it rests on, and what to do (empty: nothing)."""

    name: str
    verdict: str
    evidence: str
    remedy: str = ""


def as_root(facts: Facts, otherwise: str) -> str:
    """The remedy for what could not be seen: more rights, where there are more to have."""
    return otherwise if facts.is_root else "run this as root"


def denied(facts: Facts, name: str, access: Access, said: str, loss: str) -> Check:
    """What to say of a file that is there and could not be opened for writing."""
    before = f"{said}; " if said else ""
    if access.denied and not facts.is_root:
        return Check(
            name, UNKNOWN, f"{before}only root may write {access.path}", "run this as root"
        )
    return Check(
        name,
        WARN,
        f"{before}{access.path}: {access.reason}: {loss}",
        "run the agent in the guest itself, not in a container, and as root",
    )


def mib(amount_bytes: int) -> str:
    """Bytes as people read them in this command."""
    return f"{amount_bytes / (1 << 20):.0f} MiB"


def compaction_settings(facts: Facts) -> Check:
    """Tunables that decide how much compaction can move."""
    values = facts.sysctls
    name = "compaction settings"
    shown = [
        f"{key} {values[key]}"
        for key in ("compaction_proactiveness", "compact_unevictable_allowed", "extfrag_threshold")
        if key in values
    ]
    if not shown:
        return Check(name, UNKNOWN, "none of them can be read", as_root(facts, ""))
    said = ", ".join(shown)
    if values.get("compact_unevictable_allowed") == 0:
        return Check(
            name,
            WARN,
            f"{said}: locked pages are not moved, each keeps its whole block",
            "sysctl vm.compact_unevictable_allowed=1",
        )
    return Check(name, OK, said)


def cgroup(facts: Facts) -> Check:
    """Which cgroup version there is: only version 2 has memory.reclaim."""
    name, found = "cgroup", facts.cgroup
    if found is None:
        return Check(name, UNKNOWN, "/proc/self/mountinfo cannot be read")
    if found.version != "v2":
        said = "no cgroup is mounted" if found.version == "none" else f"version: {found.version}"
        if any("memory" in controllers.split(",") for controllers, _ in found.v1_mounts):
            said = f"{found.version}, memory controller on v1"
        return Check(
            name,
            OK if facts.reclaim is not None else WARN,
            said,
            "" if facts.reclaim is not None else "boot with systemd.unified_cgroup_hierarchy=1",
        )
    if found.v2_root not in (None, "/") and not (found.v2_root or "").startswith("/.."):
        return Check(
            name,
            WARN,
            f"v2, but only its part {found.v2_root} is seen: this is a container",
            "run the agent in the guest itself",
        )
    if found.is_part:
        return _namespace(facts, name)
    return Check(name, OK, f"v2 at {found.v2_mount}")


def _namespace(facts: Facts, name: str) -> Check:
    """What a cgroup namespace puts out of reach."""
    mount = facts.cgroup.v2_mount if facts.cgroup is not None else None
    said = f"v2 at {mount}, but a cgroup namespace: the cache of what runs outside of it stays"
    if facts.cgroup_place is None:
        said += "; which of lru_gen's cgroups are ours cannot be told yet: by lists"
    else:
        said += f"; here is {facts.cgroup_place}"
    remedy = "run the agent outside of the namespace: in the guest itself"
    if facts.wsl is not None:
        remedy = (
            "an agent in each distribution that uses much memory (docs/wsl.md), or "
            "isolateDistroCgroup=false under [wsl2] in .wslconfig"
        )
    return Check(name, WARN, said, remedy)


def memory_reclaim(facts: Facts) -> Check:
    """The only way to take cold cache in bounded steps."""
    name, access = "memory.reclaim", facts.reclaim
    if access is None:
        return _without_memory_reclaim(facts)
    if not access.ok:
        return denied(facts, name, access, "", "cache can only be dropped whole")
    return Check(name, OK, f"{access.path} can be written")


def _without_memory_reclaim(facts: Facts) -> Check:
    """What a kernel before 5.19, or one with the memory controller on cgroup v1, can do all the same."""
    name = "memory.reclaim"
    if facts.limited_cgroups:
        may_swap = facts.swaps is None or bool(facts.swaps.areas)
        if may_swap and not facts.loaded.settings.swap:
            return Check(
                name,
                WARN,
                "not there, and with swap memory.high could swap programs out: cold cache stays",
                "giveback.swap=true, or swapoff, or Linux 5.19 or later",
            )
        return Check(
            name,
            WARN,
            f"not there: cold cache goes by memory.high (leaf cgroups: {facts.limited_cgroups}); that "
            "of the root cgroup stays, and of cgroups that ended directly below it",
            "Linux 5.19 or later",
        )
    if facts.node_reclaim:
        return Check(
            name,
            WARN,
            f"only {facts.node_reclaim[0]}: cache of ended cgroups, and only with the multi-gen LRU",
            "mount cgroup v2 with the memory controller",
        )
    return Check(
        name,
        WARN,
        "not there: cache can only be dropped whole, and that of ended cgroups is out of reach",
        "Linux 5.19 or later with the memory controller on cgroup v2",
    )


def swappiness(facts: Facts) -> Check:
    """Whether reclaim can be told to leave the memory of programs alone."""
    name, access = "swappiness=", facts.swappiness
    if access is None:
        return Check(name, OK, "not needed: no memory.reclaim")
    if access.ok:
        return Check(name, OK, "accepted (a request for 0 bytes)")
    if access.denied:
        return Check(
            name, UNKNOWN, f"{access.path}: {access.reason}", as_root(facts, "run it outside")
        )
    if facts.swaps is not None and not facts.swaps.areas:
        return Check(name, OK, f"refused ({access.reason}); not needed: there is no swap")
    return Check(
        name,
        WARN,
        f"refused ({access.reason}): reclaim may swap programs out as well as cache",
        "Linux 6.11 or later, or swapoff",
    )


def drop_caches(facts: Facts) -> Check:
    """How slab is shrunk, and the last resort for cache."""
    name, access = "drop_caches", facts.drop_caches
    if access.ok:
        return Check(name, OK, f"{access.path} can be written")
    if access.absent:
        return Check(name, WARN, f"{access.path} is not there: slab is not shrunk")
    return denied(facts, name, access, "", "slab is not shrunk")


def multi_gen_lru(facts: Facts) -> Check:
    """Whether the kernel can tell old cache from young."""
    name, debug = "multi-gen LRU", facts.lru_gen_debug
    if not facts.lru_gen:
        return Check(
            name,
            WARN,
            "off, or not in this kernel: the inactive list has to tell what is cold",
            "echo y > /sys/kernel/mm/lru_gen/enabled (Linux 6.1 or later, CONFIG_LRU_GEN=y)",
        )
    if debug.ok:
        return Check(name, OK, f"on, ages in {debug.path}")
    if not facts.is_root:
        return Check(name, UNKNOWN, "on; its ages are for root only", "run this as root")
    return Check(
        name,
        WARN,
        f"on, but {debug.path}: {debug.reason}",
        "mount -t debugfs none /sys/kernel/debug; kernel lockdown must be off",
    )


def damon(facts: Facts) -> Check:
    """Whether the kernel can watch accesses to physical memory. Not needed, so never a warning."""
    access = facts.damon
    if access.absent:
        return Check("DAMON", OK, "not in this kernel; not needed")
    if access.ok:
        return Check(
            "DAMON", OK, f"{access.path} can be written; not used: it takes hot files, too"
        )
    return Check("DAMON", OK, f"there, not for this user ({access.reason}); not needed")


def pressure(facts: Facts) -> Check:
    """Stalls are what keeps the agent from slowing the work."""
    name, access = "PSI", facts.psi
    if access.ok:
        return Check(name, OK, f"{access.path} is read")
    if access.absent:
        return Check(
            name,
            WARN,
            "not in this kernel: stalls of the work are not seen, only its CPU time",
            "use a kernel with CONFIG_PSI=y",
        )
    if access.denied:
        return Check(name, UNKNOWN, f"{access.path}: {access.reason}", as_root(facts, ""))
    return Check(
        name,
        WARN,
        f"off ({access.reason}): stalls of the work are not seen, only its CPU time",
        "boot with psi=1",
    )


def swap(facts: Facts) -> Check:
    """Where the memory of programs could go, and whether settings allow it."""
    name = "swap"
    if facts.swaps is None:
        return Check(name, UNKNOWN, "/proc/swaps cannot be read", as_root(facts, ""))
    allowed = facts.loaded.settings.swap
    areas = facts.swaps.areas
    if not areas:
        if allowed:
            return Check(
                name,
                WARN,
                f"giveback.swap is on ({facts.loaded.sources['swap']}), and there is no swap",
                "add swap or zram, or leave giveback.swap out",
            )
        return Check(name, OK, "none: programs keep their memory")
    shown = ", ".join(
        f"{'zram ' if area.is_zram else ''}{area.path} {mib(area.size_bytes)}" for area in areas[:4]
    )
    return Check(name, OK, f"{shown}; {_use_of_swap(facts, allowed)}")


def _use_of_swap(facts: Facts, allowed: bool) -> str:
    """Say whether cold memory of programs can be told apart here, and whether it is taken."""
    if not facts.lru_gen or not facts.lru_gen_debug.ok:
        why = "their cold memory cannot be told apart without the multi-gen LRU's ages"
        return (
            f"used for programs (giveback.swap) in need only: {why}"
            if allowed
            else f"not used: {why}"
        )
    if allowed:
        return "takes memory of programs that was not touched for 5 minutes (giveback.swap)"
    return (
        "not used; giveback.swap=true takes memory of programs that was not touched for 5 minutes"
    )


def watermarks(facts: Facts) -> Check:
    """What the kernel keeps free, and reporting therefore leaves."""
    name, memory = "watermarks", facts.memory
    if memory is None:
        return Check(name, UNKNOWN, "/proc/meminfo cannot be read")
    if memory.below_low:
        return Check(
            name,
            WARN,
            "free memory is below the low watermark: the guest itself is short, nothing is done",
            "give the VM more memory, or its programs less work",
        )
    low_bytes = memory.low_watermark_bytes
    if low_bytes is None:
        return Check(name, UNKNOWN, "/proc/zoneinfo cannot be read", as_root(facts, ""))
    total_bytes = memory.info.mem_total_bytes
    order = effective_order(facts.reporting.order, facts.pageblock_order or 9)
    margin_bytes = REPORTING_MARGIN_BLOCKS * (PAGE_SIZE_BYTES << min(order, 20))
    said = f"low {mib(low_bytes)} of {mib(total_bytes)}; reporting stops {mib(margin_bytes)} above"
    if total_bytes and 100 * low_bytes > RESERVED_PERCENT_LIMIT * total_bytes:
        shown = facts.sysctls.get("min_free_kbytes")
        return Check(
            name,
            WARN,
            f"{said}: this much never goes back (min_free_kbytes {shown})",
            "lower vm.min_free_kbytes or vm.watermark_scale_factor",
        )
    return Check(name, OK, said)


def memory_counters(facts: Facts) -> Check:
    """Whether the kernel's own counters can be: some leak, and say that there is plenty."""
    name = "memory counters"
    if facts.memory is None:
        return Check(name, UNKNOWN, "/proc/meminfo cannot be read")
    remarks = facts.memory.info.remarks
    if not remarks:
        return Check(name, OK, "/proc/meminfo adds up")
    return Check(
        name,
        WARN,
        f"/proc/meminfo: {'; '.join(remarks[:3])}",
        "reboot, and update the kernel: a counter of it leaks; estimates are used until then",
    )


def huge_pages(facts: Facts) -> Check:
    """Huge pages set aside are neither used nor free."""
    name = "huge pages"
    if facts.memory is None:
        return Check(name, UNKNOWN, "/proc/meminfo cannot be read")
    info = facts.memory.info
    held_bytes = info.hugetlb_bytes or 0
    if not held_bytes:
        return Check(name, OK, "none set aside")
    unused = ""
    if info.hugepages_free is not None and info.hugepagesize_bytes:
        unused = f", {mib(info.hugepages_free * info.hugepagesize_bytes)} of it unused"
    return Check(
        name,
        WARN,
        f"{mib(held_bytes)} set aside{unused}: never free, never reported",
        "lower vm.nr_hugepages, or use vm.nr_overcommit_hugepages instead",
    )


def thp(facts: Facts) -> Check:
    """Whether transparent huge pages take memory again that nobody wrote to."""
    name, found = "transparent huge pages", facts.thp
    if found.enabled is None:
        return Check(name, OK, "none in this kernel")
    said = f"{found.enabled}, khugepaged max_ptes_none {found.max_ptes_none}"
    if found.enabled != "always" or not found.max_ptes_none or found.khugepaged_defrag == 0:
        return Check(name, OK, said)
    return Check(
        name,
        WARN,
        f"{said}: huge pages are made of up to {found.max_ptes_none} pages nobody touched",
        f"echo 0 > {THP_PATH}/khugepaged/max_ptes_none, or echo madvise > {THP_PATH}/enabled",
    )


def memory_limit(facts: Facts) -> Check:
    """Memory that the kernel was told not to use."""
    limit_bytes = facts.hardening.mem_limit_bytes
    if limit_bytes is None:
        return Check("kernel limits", OK, "no mem= on the command line")
    return Check(
        "kernel limits",
        OK,
        f"mem={mib(limit_bytes)}: the VM's memory above it is never used",
    )
