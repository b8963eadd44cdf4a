"""Checks of the kernel's memory management: reclaim, cold memory, pressure, reserves. No I/O."""

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
# page_reporting_process_zone() in mm/page_reporting.c: 32 blocks must stay free above the low watermark.
REPORTING_MARGIN_BLOCKS = 32
RESERVED_PERCENT_LIMIT = 5
THP_PATH = "/sys/kernel/mm/transparent_hugepage"


class Check(Record):
    """One precondition: its verdict, the evidence, what to do ("": nothing), and where to read `more`."""

    name: str
    verdict: str
    evidence: str
    remedy: str = ""
    more: str = ""


def as_root(facts: Facts, otherwise: str) -> str:
    """Return the remedy for an unknown fact: root's rights, or `otherwise` if this is root."""
    return otherwise if facts.is_root else "run this as root"


def denied(facts: Facts, name: str, access: Access, found: str, loss: str) -> Check:
    """Return the check of a file that exists but cannot be opened for writing.

    `found`: evidence to add in front. `loss`: the consequence.
    """
    before = f"{found}; " if found else ""
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
    """Format bytes as MiB."""
    return f"{amount_bytes / (1 << 20):.0f} MiB"


def compaction_settings(facts: Facts) -> Check:
    """Check the sysctls that limit which pages compaction can move."""
    values = facts.sysctls
    name = "compaction settings"
    shown = [
        f"{key} {values[key]}"
        for key in ("compaction_proactiveness", "compact_unevictable_allowed", "extfrag_threshold")
        if key in values
    ]
    if not shown:
        return Check(name, UNKNOWN, "none of them can be read", as_root(facts, ""))
    found = ", ".join(shown)
    if values.get("compact_unevictable_allowed") == 0:
        return Check(
            name,
            WARN,
            f"{found}: locked pages are not moved, so each keeps a whole block from being reported",
            "sysctl vm.compact_unevictable_allowed=1",
        )
    return Check(name, OK, found)


def cgroup(facts: Facts) -> Check:
    """Check the cgroup version: only version 2 has memory.reclaim."""
    name, found = "cgroup", facts.cgroup
    if found is None:
        return Check(name, UNKNOWN, "/proc/self/mountinfo cannot be read")
    if found.version != "v2":
        words = "no cgroup is mounted" if found.version == "none" else f"version: {found.version}"
        if any("memory" in controllers.split(",") for controllers, _ in found.v1_mounts):
            words = f"{found.version}, memory controller on v1"
        return Check(
            name,
            OK if facts.reclaim is not None else WARN,
            words,
            "" if facts.reclaim is not None else "boot with systemd.unified_cgroup_hierarchy=1",
        )
    if found.v2_root not in (None, "/") and not (found.v2_root or "").startswith("/.."):
        return Check(
            name,
            WARN,
            f"v2, but only the part {found.v2_root} is visible: this is a container",
            "run the agent in the guest itself",
        )
    if found.is_part:
        return _namespace(facts, name)
    return Check(name, OK, f"v2 at {found.v2_mount}")


def _namespace(facts: Facts, name: str) -> Check:
    """Return the check in a cgroup namespace, which hides the cgroups outside of it."""
    mount = facts.cgroup.v2_mount if facts.cgroup is not None else None
    found = (
        f"v2 at {mount}, in a cgroup namespace: cache of programs outside of it is not reclaimed"
    )
    if facts.cgroup_place is None:
        found += (
            "; the namespace's cgroups are not yet recognised in lru_gen, so cold cache is found by the "
            "LRU lists"
        )
    else:
        found += f"; the namespace's root is {facts.cgroup_place}"
    remedy = "run the agent outside of the namespace: in the guest itself"
    if facts.wsl is not None:
        remedy = (
            "run an agent in each distribution that uses much memory, or set "
            "isolateDistroCgroup=false under [wsl2] in .wslconfig"
        )
    return Check(name, WARN, found, remedy)


def memory_reclaim(facts: Facts) -> Check:
    """Check memory.reclaim, the only interface that reclaims cold cache in bounded steps."""
    name, access = "memory.reclaim", facts.reclaim
    if access is None:
        return _without_memory_reclaim(facts)
    if not access.ok:
        return denied(facts, name, access, "", "the agent can only drop the whole cache")
    return Check(name, OK, f"{access.path} can be written")


def _without_memory_reclaim(facts: Facts) -> Check:
    """Return the check on a kernel before 5.19, or with the memory controller on cgroup v1."""
    name = "memory.reclaim"
    if facts.limited_cgroups:
        may_swap = facts.swaps is None or bool(facts.swaps.areas)
        if may_swap and not facts.loaded.settings.swap:
            return Check(
                name,
                WARN,
                "not in this kernel; memory.high could swap programs out, so cold cache is not reclaimed",
                "set giveback.swap=true, or swapoff, or use Linux 5.19 or later",
            )
        return Check(
            name,
            WARN,
            f"not in this kernel: cold cache is reclaimed by memory.high (leaf cgroups: "
            f"{facts.limited_cgroups}), but not that of the root cgroup, nor of cgroups that ended directly "
            "below it",
            "use Linux 5.19 or later",
        )
    if facts.node_reclaim:
        return Check(
            name,
            WARN,
            f"only {facts.node_reclaim[0]}: it reclaims cache of ended cgroups, with the multi-gen LRU only",
            "mount cgroup v2 with the memory controller",
        )
    return Check(
        name,
        WARN,
        "not in this kernel: the agent can only drop the whole cache, and not reach that of ended cgroups",
        "use Linux 5.19 or later with the memory controller on cgroup v2",
    )


def swappiness(facts: Facts) -> Check:
    """Check whether memory.reclaim takes `swappiness=`, so that it need not swap programs out."""
    name, access = "swappiness=", facts.swappiness
    if access is None:
        return Check(name, OK, "not needed: no memory.reclaim")
    if access.ok:
        return Check(name, OK, "accepted (a request for 0 bytes)")
    if access.denied:
        return Check(
            name,
            UNKNOWN,
            f"{access.path}: {access.reason}",
            as_root(facts, "run this in the guest itself, not in a container"),
        )
    if facts.swaps is not None and not facts.swaps.areas:
        return Check(name, OK, f"refused ({access.reason}); not needed: there is no swap")
    return Check(
        name,
        WARN,
        f"refused ({access.reason}): a reclaim of cache may also swap programs out",
        "use Linux 6.11 or later, or swapoff",
    )


def drop_caches(facts: Facts) -> Check:
    """Check drop_caches, which shrinks slab and is the last resort for cache."""
    name, access = "drop_caches", facts.drop_caches
    if access.ok:
        return Check(name, OK, f"{access.path} can be written")
    if access.absent:
        return Check(name, WARN, f"{access.path} does not exist: slab is not shrunk")
    return denied(facts, name, access, "", "slab is not shrunk")


def multi_gen_lru(facts: Facts) -> Check:
    """Check the multi-gen LRU, which distinguishes cold cache from the working set."""
    name, debug = "multi-gen LRU", facts.lru_gen_debug
    if not facts.lru_gen:
        return Check(
            name,
            WARN,
            "off, or not in this kernel: cold cache is found by the inactive lists, less precisely",
            "echo y > /sys/kernel/mm/lru_gen/enabled (Linux 6.1 or later, CONFIG_LRU_GEN=y)",
        )
    if debug.ok:
        return Check(name, OK, f"on, generations in {debug.path}")
    if not facts.is_root:
        return Check(name, UNKNOWN, "on; only root may read its generations", "run this as root")
    return Check(
        name,
        WARN,
        f"on, but its generations cannot be read ({debug.path}: {debug.reason})",
        "mount -t debugfs none /sys/kernel/debug; kernel lockdown must be off",
    )


def damon(facts: Facts) -> Check:
    """Check DAMON, which watches accesses to physical memory. It is not needed, so never a warning."""
    access = facts.damon
    if access.absent:
        return Check("DAMON", OK, "not in this kernel; not needed")
    if access.ok:
        return Check(
            "DAMON", OK, f"{access.path} can be written; not used: it also reclaims hot files"
        )
    return Check("DAMON", OK, f"not for this user ({access.reason}); not needed")


def pressure(facts: Facts) -> Check:
    """Check PSI, whose stalls keep the agent from slowing the workload."""
    name, access = "PSI", facts.psi
    if access.ok:
        return Check(name, OK, f"{access.path} is read")
    if access.absent:
        return Check(
            name,
            WARN,
            "not in this kernel: the agent sees the workload's CPU time, but not its stalls",
            "use a kernel with CONFIG_PSI=y",
        )
    if access.denied:
        return Check(name, UNKNOWN, f"{access.path}: {access.reason}", as_root(facts, ""))
    return Check(
        name,
        WARN,
        f"off ({access.reason}): the agent sees the workload's CPU time, but not its stalls",
        "boot with psi=1",
    )


def swap(facts: Facts) -> Check:
    """Check the swap areas, and whether the settings allow their use."""
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
                f"giveback.swap is on ({facts.loaded.sources['swap']}), but there is no swap",
                "add swap or zram, or leave giveback.swap out",
            )
        return Check(name, OK, "none: programs keep their memory")
    shown = ", ".join(
        f"{'zram ' if area.is_zram else ''}{area.path} {mib(area.size_bytes)}" for area in areas[:4]
    )
    return Check(name, OK, f"{shown}; {_use_of_swap(facts, allowed)}")


def _use_of_swap(facts: Facts, allowed: bool) -> str:
    """Describe whether cold memory of programs can be recognised here, and whether it is swapped out."""
    if not facts.lru_gen or not facts.lru_gen_debug.ok:
        why = (
            "without the multi-gen LRU's generations, cold memory of programs cannot be recognised"
        )
        return (
            f"used only if the host needs memory (giveback.swap): {why}"
            if allowed
            else f"not used: {why}"
        )
    if allowed:
        return (
            "memory of programs that was not touched for 5 minutes is swapped out (giveback.swap)"
        )
    return (
        "not used; with giveback.swap=true, memory of programs that was not touched for 5 minutes is "
        "swapped out"
    )


def watermarks(facts: Facts) -> Check:
    """Check the watermarks: the kernel keeps that much memory free and does not report it."""
    name, memory = "watermarks", facts.memory
    if memory is None:
        return Check(name, UNKNOWN, "/proc/meminfo cannot be read")
    if memory.below_low:
        return Check(
            name,
            WARN,
            "free memory is below the low watermark: the guest itself is short of memory, so the agent "
            "does nothing",
            "give the VM more memory, or run fewer programs",
        )
    low_bytes = memory.low_watermark_bytes
    if low_bytes is None:
        return Check(name, UNKNOWN, "/proc/zoneinfo cannot be read", as_root(facts, ""))
    total_bytes = memory.info.mem_total_bytes
    order = effective_order(facts.reporting.order, facts.pageblock_order or 9)
    margin_bytes = REPORTING_MARGIN_BLOCKS * (PAGE_SIZE_BYTES << min(order, 20))
    found = f"low {mib(low_bytes)} of {mib(total_bytes)}; reporting stops {mib(margin_bytes)} above"
    if total_bytes and 100 * low_bytes > RESERVED_PERCENT_LIMIT * total_bytes:
        shown = facts.sysctls.get("min_free_kbytes")
        return Check(
            name,
            WARN,
            f"{found}: that much free memory is never reported (min_free_kbytes {shown})",
            "lower vm.min_free_kbytes or vm.watermark_scale_factor",
        )
    return Check(name, OK, found)


def memory_counters(facts: Facts) -> Check:
    """Check that the kernel's counters are consistent: some kernels have a counter that leaks."""
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
        "reboot, and update the kernel: one of its counters leaks; the agent uses estimates until then",
    )


def huge_pages(facts: Facts) -> Check:
    """Check for reserved huge pages, which are never free and never reported."""
    name = "huge pages"
    if facts.memory is None:
        return Check(name, UNKNOWN, "/proc/meminfo cannot be read")
    info = facts.memory.info
    held_bytes = info.hugetlb_bytes or 0
    if not held_bytes:
        return Check(name, OK, "none reserved")
    unused = ""
    if info.hugepages_free is not None and info.hugepagesize_bytes:
        unused = f", {mib(info.hugepages_free * info.hugepagesize_bytes)} of it unused"
    return Check(
        name,
        WARN,
        f"{mib(held_bytes)} reserved{unused}: never free, never reported",
        "lower vm.nr_hugepages, or use vm.nr_overcommit_hugepages instead",
    )


def thp(facts: Facts) -> Check:
    """Check whether transparent huge pages allocate memory that no program wrote to."""
    name, found = "transparent huge pages", facts.thp
    if found.enabled is None:
        return Check(name, OK, "none in this kernel")
    words = f"{found.enabled}, khugepaged max_ptes_none {found.max_ptes_none}"
    if found.enabled != "always" or not found.max_ptes_none or found.khugepaged_defrag == 0:
        return Check(name, OK, words)
    return Check(
        name,
        WARN,
        f"{words}: a huge page may include up to {found.max_ptes_none} pages that no program touched",
        f"echo 0 > {THP_PATH}/khugepaged/max_ptes_none, or echo madvise > {THP_PATH}/enabled",
    )


def memory_limit(facts: Facts) -> Check:
    """Report memory that the kernel does not use because of `mem=`."""
    limit_bytes = facts.hardening.mem_limit_bytes
    if limit_bytes is None:
        return Check("kernel limits", OK, "no mem= on the command line")
    return Check(
        "kernel limits",
        OK,
        f"mem={mib(limit_bytes)}: the VM's memory above it is never used",
    )
