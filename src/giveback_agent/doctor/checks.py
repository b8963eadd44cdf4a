"""The checks of `doctor`: one verdict for each precondition, from facts alone. No I/O.

`bad`: memory cannot go back to the host. `warn`: less memory goes back, or later, or at a higher cost.
`unknown`: this user may not read it, or the kernel does not provide it.
"""

from __future__ import annotations

from giveback_agent.doctor import memory_checks
from giveback_agent.doctor.memory_checks import BAD, OK, UNKNOWN, WARN, Check, as_root, denied
from giveback_agent.policy.observation import why_not_reported
from giveback_kernel.page_reporting import effective_order
from giveback_kernel.record import replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from giveback_agent.doctor.facts import Facts

__all__ = ["BAD", "OK", "UNKNOWN", "VERDICTS", "WARN", "Check", "as_root", "judge"]

VERDICTS = (OK, WARN, BAD, UNKNOWN)
# The page to read about a check that is not ok; docs/agent.md for the others.
PAGES = {
    "page reporting": "docs/hypervisors.md",
    "report order": "docs/deep-report.md",
    "compaction": "docs/policy.md",
    "cgroup": "docs/kernels.md",
    "memory.reclaim": "docs/old-kernels.md",
    "swappiness=": "docs/cold-cache.md",
    "multi-gen LRU": "docs/cold-cache.md",
    "swap": "docs/cold-anon.md",
    "memory counters": "docs/ledger.md",
    "watermarks": "docs/deep-report.md",
    "settings": "docs/settings.md",
}
WSL_PAGES = ("page reporting", "cold discard", "cgroup", "other reclaimers")
# Below this order, reporting while the guest is busy was measured to slow it (HyperAlloc: +18 % at 0).
COSTLY_ORDER = 5
OFFER = (
    "let the host offer it: QEMU `-device virtio-balloon-pci,free-page-reporting=on`, libvirt "
    "`<memballoon model='virtio' freePageReporting='on'/>`, Cloud Hypervisor `--balloon "
    "size=0,free_page_reporting=on`, Firecracker `free_page_reporting` of its balloon"
)


def judge(facts: Facts) -> tuple[Check, ...]:
    """Judge every precondition, the most important ones first."""
    checks = [check(facts) for check in _ALWAYS]
    if facts.wsl is not None:
        checks.append(wsl_cold_discard(facts))
    return tuple([_with_page(facts, check) for check in checks])


def _with_page(facts: Facts, check: Check) -> Check:
    if check.verdict == OK:
        return check
    if facts.wsl is not None and check.name in WSL_PAGES:
        return replace(check, more="docs/wsl.md")
    return replace(check, more=PAGES.get(check.name, "docs/agent.md"))


def rights(facts: Facts) -> Check:
    """Check whether this process has the rights of the service."""
    if facts.is_root:
        return Check("rights", OK, "root")
    return Check(
        "rights",
        WARN,
        "not root: checks of files that only root may open are unknown below",
        "sudo giveback-agent doctor",
    )


def page_reporting(facts: Facts) -> Check:
    """Check whether free pages are reported to the host at all."""
    state = facts.reporting
    name = "page reporting"
    if state.active:
        return Check(name, OK, f"active: {state.evidence}")
    if state.active is None:
        words = f"{why_not_reported(None)}: {state.evidence}"
        return Check(name, UNKNOWN, words, as_root(facts, "reboot: the boot log is lost"))
    if facts.wsl is not None:
        from giveback_agent.wsl.windows_view import missing_advice

        evidence, _, remedy = (missing_advice(facts.wsl, state) or "").partition(" Remove ")
        return Check(name, BAD, evidence.rstrip("."), f"remove {remedy}")
    if not facts.has_reporting:
        remedy = "use a kernel with CONFIG_PAGE_REPORTING=y (Linux 5.7 and later)"
    elif facts.hardening.withdraws_reporting:
        remedy = "boot without init_on_free=1 and page_poison=1, or offer page poison on the host"
    elif facts.balloons:
        remedy = OFFER
    else:
        remedy = f"give the VM a virtio balloon (CONFIG_VIRTIO_BALLOON here); {OFFER}"
    return Check(name, BAD, f"{why_not_reported(state.active)}: {state.evidence}", remedy)


def report_order(facts: Facts) -> Check:
    """Check from which block size on free memory is reported, and whether the agent may lower it."""
    name = "report order"
    order, access = facts.reporting.order, facts.order_access
    if access.absent:
        return Check(
            name,
            WARN,
            "fixed: this kernel has no page_reporting_order, so no deep report",
            "use Linux 5.14 or later",
        )
    if order is None:
        return Check(name, UNKNOWN, f"{access.path} cannot be read", as_root(facts, ""))
    words = _order_words(facts, order)
    if facts.largest_order is not None and order > facts.largest_order:
        fit = facts.pageblock_order or facts.largest_order
        return Check(
            name,
            BAD,
            f"{words}: no block is that large ({facts.largest_order} at most), nothing is reported",
            f"echo {fit} > {access.path}; remove page_reporting_order from the kernel command line",
        )
    if not access.ok:
        return denied(facts, name, access, words, "no deep report")
    if facts.agent_pid is None and 0 <= order < COSTLY_ORDER:
        return Check(
            name,
            WARN,
            f"{words}: kept this low, each free of memory costs more CPU time",
            f"echo {facts.pageblock_order or 9} > {access.path}",
        )
    return Check(name, OK, f"{words}, can be set")


def _order_words(facts: Facts, order: int) -> str:
    effective = effective_order(order, facts.pageblock_order)
    if effective is None:
        return f"order {order}"
    unset = " (unset)" if order < 0 else ""
    shift = effective + (memory_checks.PAGE_SIZE_BYTES.bit_length() - 1)
    size = f"{1 << (shift - 10)} KiB" if shift < 20 else f"{1 << (shift - 20)} MiB"
    return f"order {effective}{unset}, blocks of {size}"


def free_page_contents(facts: Facts) -> Check:
    """Check init_on_free and page_poison, with which a reported page must keep its contents."""
    found = facts.hardening
    name = "init_on_free"
    words = [
        word
        for word, value in (
            ("init_on_free", found.init_on_free),
            ("page_poison", found.page_poison),
        )
        if value
    ]
    if not words:
        if found.init_on_free is None and facts.kmsg_unread:
            return Check(
                name,
                OK,
                f"not on the command line; the kernel log cannot be read ({facts.kmsg_unread})",
            )
        return Check(name, OK, "off, as is page_poison")
    found_on = f"{' and '.join(words)} on"
    if facts.reporting.active:
        return Check(name, OK, f"{found_on}; reporting is active nevertheless")
    return Check(
        name,
        BAD if facts.reporting.active is False else WARN,
        f"{found_on}: virtio_balloon then withdraws page reporting unless the host offers page poison",
        "boot with init_on_free=0 page_poison=0",
    )


def compaction(facts: Facts) -> Check:
    """Check whether free memory can be made contiguous on request."""
    name, access = "compaction", facts.compact
    if access.absent:
        return Check(
            name,
            WARN,
            "this kernel cannot compact: small free blocks go back by a deep report only",
            "use a kernel with CONFIG_COMPACTION=y",
        )
    if not access.ok:
        return denied(facts, name, access, "compact_memory exists", "no compaction")
    return Check(name, OK, f"{access.path} can be written")


def wsl_cold_discard(facts: Facts) -> Check:
    """Check, under WSL 2, whether hv_balloon reports free pages to Windows."""
    name, found = "cold discard", facts.cold_discard
    if found is None or found.enabled is None:
        why = (found and found.unread) or "the kernel log has no message about it"
        return Check(name, UNKNOWN, why, as_root(facts, "wsl --shutdown, then run this again"))
    if found.failure:
        return Check(
            name,
            BAD if not found.enabled else WARN,
            f"hv_balloon: {found.failure}",
            "wsl --update, then wsl --shutdown",
        )
    if not found.enabled:
        return Check(
            name,
            BAD,
            "the kernel log lacks hv_balloon's 'Cold memory discard hint enabled'",
            "wsl --update; a custom kernel needs CONFIG_HYPERV_BALLOON=y",
        )
    order = "" if found.order is None else f" from order {found.order}"
    return Check(name, OK, f"hv_balloon reports to Windows{order}")


def settings(facts: Facts) -> Check:
    """Check for settings that switch the agent off, and for warnings about settings."""
    loaded = facts.loaded
    name = "settings"
    if loaded.settings.mode == "disabled" or loaded.settings.dry_run:
        key = "mode" if loaded.settings.mode == "disabled" else "dry_run"
        shown = "mode is disabled" if key == "mode" else "dryRun is on"
        return Check(
            name, WARN, f"{shown} ({loaded.sources[key]}): no memory is returned", _CONFIG_HINT
        )
    if loaded.warnings:
        more = f", and {len(loaded.warnings) - 1} more" if len(loaded.warnings) > 1 else ""
        return Check(name, WARN, f"{loaded.warnings[0]}{more}", _CONFIG_HINT)
    return Check(name, OK, f"mode {loaded.settings.mode} ({loaded.sources['mode']})")


_CONFIG_HINT = "giveback-agent config"


def agent(facts: Facts) -> Check:
    """Check whether the service runs."""
    name = "agent"
    if facts.agent_pid is not None:
        return Check(name, OK, f"runs, pid {facts.agent_pid}")
    if facts.is_starting:
        return Check(name, OK, "starting")
    words = "it died: its pid file is left" if facts.stale_pid else "does not run"
    if facts.installed:
        return Check(name, WARN, f"installed, {words}", "systemctl start giveback-agent")
    return Check(name, WARN, words, "giveback-agent install")


def other_reclaimers(facts: Facts) -> Check:
    """Check for other programs in this guest that reclaim memory."""
    name = "other reclaimers"
    if not facts.other_reclaimers:
        return Check(name, OK, "none found")
    wsl = any("autoMemoryReclaim" in one for one in facts.other_reclaimers)
    remedy = "keep only one of the two"
    if wsl:
        remedy = (
            "autoMemoryReclaim=disabled under [experimental] in .wslconfig and mode=adaptive under "
            "[giveback] in /etc/giveback.conf"
        )
    return Check(name, WARN, "; ".join(facts.other_reclaimers), remedy)


def kernel_log(facts: Facts) -> Check:
    """Check whether the agent can write passes to the kernel log and read boot messages."""
    name, access = "kernel log", facts.kmsg_write
    if access.ok and facts.kmsg_unread is None:
        return Check(name, OK, "can be read and written")
    if not access.ok:
        return denied(facts, name, access, "", "passes are logged in the journal only")
    return Check(
        name,
        UNKNOWN if not facts.is_root else WARN,
        f"can be written, not read: {facts.kmsg_unread}",
        as_root(facts, "CAP_SYSLOG, or sysctl kernel.dmesg_restrict=0"),
    )


def clock_ticks(facts: Facts) -> Check:
    """Check the resolution at which idleness is measured."""
    words = f"{facts.ticks_per_s} per second"
    if not 50 <= facts.ticks_per_s <= 10_000:
        return Check(
            "clock ticks",
            WARN,
            f"{words}: idleness is measured badly",
        )
    return Check("clock ticks", OK, words)


_ALWAYS: tuple[Callable[[Facts], Check], ...] = (
    rights,
    page_reporting,
    report_order,
    free_page_contents,
    compaction,
    memory_checks.compaction_settings,
    memory_checks.cgroup,
    memory_checks.memory_reclaim,
    memory_checks.swappiness,
    memory_checks.drop_caches,
    memory_checks.multi_gen_lru,
    memory_checks.damon,
    memory_checks.pressure,
    memory_checks.swap,
    memory_checks.memory_counters,
    memory_checks.watermarks,
    memory_checks.huge_pages,
    memory_checks.thp,
    memory_checks.memory_limit,
    clock_ticks,
    kernel_log,
    settings,
    other_reclaimers,
    agent,
)
