"""Verdicts from facts: each precondition good, bad and unknown; and no facts break a check."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from giveback_agent.doctor import checks
from giveback_agent.doctor.checks import BAD, OK, UNKNOWN, WARN, Check
from giveback_agent.doctor.facts import Access, Facts, MemoryFacts, Thp
from giveback_agent.settings.load import Loaded
from giveback_agent.settings.table import AgentSettings
from giveback_agent.wsl.detect import WslHost
from giveback_agent.wsl.windows_view import ColdDiscard
from giveback_kernel import meminfo
from giveback_kernel.cgroup import CgroupMounts
from giveback_kernel.hardening import Hardening
from giveback_kernel.page_reporting import Balloon, ReportingState
from giveback_kernel.record import replace
from giveback_kernel.swaps import SwapArea, Swaps

ENOENT, EACCES, EINVAL, EROFS, EOPNOTSUPP = 2, 13, 22, 30, 95
MIB = 1 << 20
ZRAM = Swaps((SwapArea("/dev/zram0", "partition", MIB, 0, 1),))
WSL = WslHost("6.6.87.2-microsoft-standard-WSL2", ("kernel release",))


def memory(**changes: int) -> MemoryFacts:
    values: dict[str, Any] = dict.fromkeys(meminfo.MemInfo._fields, 0)
    values.update(mem_total_bytes=2048 * MIB, mem_free_bytes=1024 * MIB, **changes)
    return MemoryFacts(meminfo.MemInfo(**values), 12 * MIB, False)


def good() -> Facts:
    return Facts(
        is_root=True,
        release="6.12.0",
        wsl=None,
        reporting=ReportingState(True, "virtio0", 9, True, "virtio_balloon"),
        balloons=(Balloon("virtio0", True, False, True),),
        has_reporting=True,
        order_access=Access("/order", 0),
        largest_order=10,
        pageblock_order=9,
        hardening=Hardening(),
        psi=Access("/psi", 0),
        cgroup=CgroupMounts("v2", "/sys/fs/cgroup", "/"),
        reclaim=Access("/reclaim", 0),
        node_reclaim=(),
        limited_cgroups=0,
        swappiness=Access("/reclaim", 0),
        compact=Access("/compact", 0),
        drop_caches=Access("/drop", 0),
        kmsg_write=Access("/dev/kmsg", 0),
        kmsg_unread=None,
        sysctls={"compact_unevictable_allowed": 1},
        memory=memory(),
        swaps=Swaps(),
        lru_gen=True,
        lru_gen_debug=Access("/lru_gen", 0),
        damon=Access("/damon", 0),
        thp=Thp("madvise", 1, 511),
        ticks_per_s=100,
        agent_pid=42,
        stale_pid=False,
        installed=True,
        loaded=Loaded(AgentSettings(), dict.fromkeys(AgentSettings._fields, "default"), ()),
        other_reclaimers=(),
        cold_discard=None,
    )


def verdict(name: str, **changes: object) -> Check:
    found = [c for c in checks.judge(replace(good(), **changes)) if c.name == name]
    assert len(found) == 1
    return found[0]


def test_a_guest_in_order_has_nothing_to_complain_of() -> None:
    assert {c.verdict for c in checks.judge(good())} == {OK}
    assert not [c for c in checks.judge(good()) if c.remedy]


def not_active(evidence: str = "no virtio balloon") -> ReportingState:
    return ReportingState(False, evidence, -1, True)


def loaded(warnings: tuple[str, ...] = (), **changes: object) -> Loaded:
    sources = dict.fromkeys(AgentSettings._fields, "/etc/giveback.conf:2")
    return Loaded(replace(AgentSettings(), **changes), sources, warnings)


@pytest.mark.parametrize(
    ("name", "changes", "expected", "words"),
    [
        ("rights", {"is_root": False}, WARN, "sudo"),
        ("page reporting", {"reporting": not_active()}, BAD, "free-page-reporting=on"),
        ("page reporting", {"reporting": not_active(), "balloons": ()}, BAD, "virtio balloon"),
        (
            "page reporting",
            {"reporting": not_active(), "has_reporting": False},
            BAD,
            "CONFIG_PAGE_REPORTING=y",
        ),
        (
            "page reporting",
            {"reporting": not_active(), "hardening": Hardening(init_on_free=True)},
            BAD,
            "without init_on_free=1",
        ),
        (
            "page reporting",
            {"reporting": not_active(), "wsl": WSL},
            BAD,
            "WSL's compaction has no effect",
        ),
        ("page reporting", {"reporting": replace(not_active(), active=None)}, UNKNOWN, "reboot"),
        ("report order", {"order_access": Access("/order", ENOENT)}, WARN, "no deep report"),
        (
            "report order",
            {"reporting": ReportingState(True, "", 11, True)},
            BAD,
            "nothing is reported",
        ),
        (
            "report order",
            {"reporting": ReportingState(True, "", 0, True), "agent_pid": None},
            WARN,
            "costs more CPU time",
        ),
        ("report order", {"reporting": ReportingState(True, "", 0, True)}, OK, "4 KiB"),
        ("report order", {"order_access": Access("/order", EROFS)}, WARN, "Read-only"),
        (
            "report order",
            {"order_access": Access("/order", EACCES), "is_root": False},
            UNKNOWN,
            "only root",
        ),
        ("init_on_free", {"hardening": Hardening(init_on_free=True)}, OK, "active nevertheless"),
        (
            "init_on_free",
            {"hardening": Hardening(page_poison=True), "reporting": not_active()},
            BAD,
            "page_poison=0",
        ),
        ("compaction", {"compact": Access("/compact", ENOENT)}, WARN, "CONFIG_COMPACTION"),
        ("compaction settings", {"sysctls": {"compact_unevictable_allowed": 0}}, WARN, "=1"),
        ("compaction settings", {"sysctls": {}}, UNKNOWN, ""),
        (
            "cgroup",
            {
                "cgroup": CgroupMounts("hybrid", "/u", "/", (("memory", "/m"),)),
                "reclaim": None,
            },
            WARN,
            "memory controller on v1",
        ),
        ("cgroup", {"cgroup": CgroupMounts("v2", "/c", "/docker/1")}, WARN, "container"),
        ("cgroup", {"cgroup": None}, UNKNOWN, ""),
        ("memory.reclaim", {"reclaim": None}, WARN, "5.19"),
        (
            "memory.reclaim",
            {"reclaim": None, "limited_cgroups": 7},
            WARN,
            "memory.high (leaf cgroups: 7)",
        ),
        (
            "memory.reclaim",
            {"reclaim": None, "limited_cgroups": 7, "swaps": ZRAM},
            WARN,
            "giveback.swap=true",
        ),
        ("memory.reclaim", {"reclaim": None, "node_reclaim": ("/node0",)}, WARN, "/node0"),
        ("swappiness=", {"swappiness": None}, OK, "not needed"),
        ("swappiness=", {"swappiness": Access("/r", EINVAL)}, OK, "no swap"),
        (
            "swappiness=",
            {
                "swappiness": Access("/r", EINVAL),
                "swaps": ZRAM,
            },
            WARN,
            "6.11",
        ),
        ("swappiness=", {"swappiness": Access("/r", EACCES), "is_root": False}, UNKNOWN, "root"),
        ("drop_caches", {"drop_caches": Access("/d", EROFS)}, WARN, "slab"),
        ("multi-gen LRU", {"lru_gen": False}, WARN, "lru_gen/enabled"),
        ("multi-gen LRU", {"lru_gen_debug": Access("/l", ENOENT)}, WARN, "debugfs"),
        (
            "multi-gen LRU",
            {"lru_gen_debug": Access("/l", EACCES), "is_root": False},
            UNKNOWN,
            "run this as root",
        ),
        ("DAMON", {"damon": Access("/d", ENOENT)}, OK, "not needed"),
        ("PSI", {"psi": Access("/p", ENOENT)}, WARN, "CONFIG_PSI"),
        ("PSI", {"psi": Access("/p", EOPNOTSUPP)}, WARN, "psi=1"),
        ("PSI", {"psi": Access("/p", EACCES)}, UNKNOWN, ""),
        ("swap", {"loaded": loaded(swap=True)}, WARN, "there is no swap"),
        ("swap", {"swaps": None}, UNKNOWN, ""),
        (
            "cgroup",
            {"cgroup": CgroupMounts("v2", "/c", "/", is_part=True), "cgroup_place": None},
            WARN,
            "outside of the namespace",
        ),
        (
            "cgroup",
            {"cgroup": CgroupMounts("v2", "/c", "/", is_part=True), "wsl": WSL},
            WARN,
            "isolateDistroCgroup=false",
        ),
        (
            "memory counters",
            {"memory": MemoryFacts(replace(memory().info, remarks=("MemAvailable of ...",)))},
            WARN,
            "leaks",
        ),
        ("memory counters", {"memory": None}, UNKNOWN, ""),
        ("swap", {"swaps": ZRAM}, OK, "zram /dev/zram0 1 MiB; not used; with giveback.swap=true"),
        ("swap", {"swaps": ZRAM, "loaded": loaded(swap=True)}, OK, "not touched for 5 minutes"),
        ("swap", {"swaps": ZRAM, "lru_gen": False}, OK, "cannot be recognised"),
        (
            "swap",
            {"swaps": ZRAM, "lru_gen": False, "loaded": loaded(swap=True)},
            OK,
            "only if the host needs",
        ),
        ("watermarks", {"memory": replace(memory(), below_low=True)}, WARN, "short"),
        (
            "watermarks",
            {"memory": replace(memory(), low_watermark_bytes=300 * MIB)},
            WARN,
            "min_free_kbytes",
        ),
        ("watermarks", {"memory": None}, UNKNOWN, ""),
        ("huge pages", {"memory": memory(hugetlb_bytes=64 * MIB)}, WARN, "64 MiB reserved"),
        ("transparent huge pages", {"thp": Thp("always", 1, 511)}, WARN, "max_ptes_none"),
        ("transparent huge pages", {"thp": Thp("always", 1, 0)}, OK, ""),
        ("kernel limits", {"hardening": Hardening(mem_limit_bytes=512 * MIB)}, OK, "512 MiB"),
        ("clock ticks", {"ticks_per_s": 1}, WARN, "badly"),
        ("kernel log", {"kmsg_unread": "Operation not permitted"}, WARN, "CAP_SYSLOG"),
        ("settings", {"loaded": loaded(mode="disabled")}, WARN, "no memory is returned"),
        ("settings", {"loaded": loaded(dry_run=True)}, WARN, "dryRun"),
        ("settings", {"loaded": loaded(("Unknown key 'x'", "y"))}, WARN, "and 1 more"),
        (
            "other reclaimers",
            {"other_reclaimers": ("/etc/cron.d/x uses drop_caches",)},
            WARN,
            "keep only one",
        ),
        (
            "other reclaimers",
            {"other_reclaimers": ("WSL's own autoMemoryReclaim (its default is DropCache)",)},
            WARN,
            "autoMemoryReclaim=disabled",
        ),
        ("agent", {"agent_pid": None}, WARN, "systemctl start"),
        ("agent", {"agent_pid": None, "installed": False}, WARN, "giveback-agent install"),
        ("agent", {"agent_pid": None, "stale_pid": True}, WARN, "died"),
        ("cold discard", {"wsl": WSL, "cold_discard": ColdDiscard(True, 5)}, OK, "order 5"),
        ("cold discard", {"wsl": WSL, "cold_discard": ColdDiscard(False)}, BAD, "HYPERV_BALLOON"),
        (
            "cold discard",
            {"wsl": WSL, "cold_discard": ColdDiscard(True, 9, "hypercall failed")},
            WARN,
            "hypercall failed",
        ),
        ("cold discard", {"wsl": WSL, "cold_discard": ColdDiscard(None)}, UNKNOWN, "shutdown"),
    ],
)
def test_each_precondition(name: str, changes: dict[str, Any], expected: str, words: str) -> None:
    check = verdict(name, **changes)
    assert check.verdict == expected
    assert words in f"{check.evidence} {check.remedy}"
    assert check.evidence


accesses = st.sampled_from((0, ENOENT, EACCES, EINVAL, EROFS, EOPNOTSUPP, 5)).map(
    lambda errno: Access("/some/file", errno)
)
states = st.builds(
    ReportingState,
    st.sampled_from((True, False, None)),
    st.just("evidence"),
    st.sampled_from((None, -1, 0, 5, 9, 11, 31)),
    st.booleans(),
)
any_facts = st.builds(
    lambda **changes: replace(good(), **changes),
    is_root=st.booleans(),
    wsl=st.sampled_from((None, WSL)),
    cold_discard=st.sampled_from((None, ColdDiscard(None), ColdDiscard(False), ColdDiscard(True))),
    reporting=states,
    order_access=accesses,
    largest_order=st.sampled_from((None, 0, 10)),
    pageblock_order=st.sampled_from((None, 0, 9, 13)),
    reclaim=st.none() | accesses,
    swappiness=st.none() | accesses,
    compact=accesses,
    drop_caches=accesses,
    psi=accesses,
    kmsg_write=accesses,
    kmsg_unread=st.sampled_from((None, "refused")),
    lru_gen=st.sampled_from((None, True, False)),
    lru_gen_debug=accesses,
    damon=accesses,
    cgroup=st.sampled_from((None, CgroupMounts("none"), CgroupMounts("v1"))),
    memory=st.sampled_from((None, MemoryFacts(memory().info), memory())),
    swaps=st.sampled_from((None, Swaps())),
    agent_pid=st.sampled_from((None, 1)),
)


@given(any_facts)
def test_any_facts_get_whole_verdicts(facts: Facts) -> None:
    found = checks.judge(facts)
    assert len({check.name for check in found}) == len(found)
    for check in found:
        assert check.verdict in checks.VERDICTS
        assert check.evidence
        assert check.verdict != BAD or check.remedy


@given(any_facts)
def test_a_user_without_rights_is_never_told_it_is_bad_for_want_of_them(facts: Facts) -> None:
    denied = Access("/some/file", EACCES)
    facts = replace(
        facts, is_root=False, order_access=denied, compact=denied, drop_caches=denied,
        kmsg_write=denied, psi=denied, reclaim=denied, swappiness=denied,
        reporting=replace(facts.reporting, active=True, order=9), largest_order=10, wsl=None,
    )  # fmt: skip
    for check in checks.judge(facts):
        assert check.verdict != BAD
        if check.name in ("report order", "compaction", "drop_caches", "memory.reclaim"):
            assert check.verdict == UNKNOWN
            assert "root" in check.remedy
