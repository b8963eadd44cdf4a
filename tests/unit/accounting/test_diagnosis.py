"""The findings of doctor and the remedies of explain, from observations alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from giveback.accounting import next_steps
from giveback.accounting.diagnosis import Severity, findings, remedies
from giveback.accounting.observation import Observation
from giveback.accounting.usage import NO_GUEST, GuestSnapshot, GuestSource, HostSnapshot
from giveback.guest.observe import make_ledger
from giveback.host.facts import THP, HostFacts, read_facts
from giveback.vmm.base import (
    MONITOR_SILENT,
    Answer,
    Backing,
    BalloonStatistics,
    Capabilities,
    RamBlock,
    VmDescription,
    VmState,
)

DOCS = Path(__file__).parents[3]
MIB, GIB = 1 << 20, 1 << 30
GOOD = Capabilities(Answer.YES, Answer.YES, statistics=Answer.YES)
VM = VmDescription("qemu", "one", 1, GIB, (RamBlock("ram", GIB),), GOOD)
STATE = VmState(running=True, ram_bytes=GIB, reporting_negotiated=Answer.YES)
GUEST = GuestSnapshot(
    source=GuestSource.AGENT,
    age_s=0.0,
    total_bytes=950 * MIB,
    free_bytes=600 * MIB,
    anon_bytes=100 * MIB,
    shmem_bytes=0,
    cache_bytes=150 * MIB,
    dirty_bytes=10 * MIB,
    cold_cache_bytes=100 * MIB,
    slab_reclaimable_bytes=20 * MIB,
    slab_unreclaimable_bytes=20 * MIB,
    kernel_bytes=10 * MIB,
    hugetlb_bytes=0,
    swap_total_bytes=0,
    free_by_order=(100 * MIB,) * 6,
    report_order=4,
)
NO_FACTS = HostFacts()
HOST = HostSnapshot(774 * MIB, own_resident_bytes=50 * MIB)


def seen(
    vm: VmDescription = VM,
    state: VmState = STATE,
    host: HostSnapshot = HOST,
    guest: GuestSnapshot = GUEST,
    problems: tuple[str, ...] = (),
) -> Observation:
    ledger = make_ledger(vm, state, host, guest)
    return Observation(vm, state, host, guest, ledger, problems=problems)


def whats(observation: Observation, facts: HostFacts = NO_FACTS) -> str:
    return "\n".join(f"{f.severity}: {f.what} [{f.evidence}]" for f in findings(observation, facts))


def test_nothing_is_found_where_all_is_well() -> None:
    assert findings(seen(), HostFacts("madvise", "never", 511, swap_accounted=True)) == ()


def with_capabilities(**changes: object) -> VmDescription:
    return replace(VM, capabilities=replace(GOOD, **changes))  # type: ignore[arg-type]


def with_block(**changes: object) -> VmDescription:
    return replace(VM, ram_blocks=(replace(VM.ram_blocks[0], **changes),))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (seen(with_capabilities(balloon=Answer.NO)), "no balloon device"),
        (seen(with_capabilities(reports_pages=Answer.NO)), "off in the VMM"),
        (seen(state=replace(STATE, reporting_negotiated=Answer.NO)), "no active balloon driver"),
        (
            seen(
                state=replace(
                    STATE,
                    reporting_negotiated=Answer.NO,
                    driver_features=frozenset({"STATS_VQ"}),
                )
            ),
            "did not accept free page reporting",
        ),
        (seen(guest=replace(GUEST, reporting=False)), "reports no free pages"),
        (seen(state=replace(STATE, driver_features=frozenset({"PAGE_POISON"}))), "poisons"),
        (seen(replace(VM, blockers=("device vfio-pci pins",))), "vfio-pci"),
        (seen(state=replace(STATE, blockers=("background snapshot",))), "background snapshot"),
        (seen(host=replace(HOST, ram_locked_bytes=MIB)), "locked"),
        (seen(with_block(page_bytes=GIB, backing=Backing.HUGETLB)), "larger than any block"),
        (
            seen(
                with_block(backing=Backing.FILE, path="/dev/hugepages/a", shared=True),
                host=replace(HOST, ram_page_bytes=GIB),
            ),
            "RAM is made of 1.0 GiB pages",
        ),
        (seen(with_block(prealloc=True)), "preallocated"),
        (seen(with_block(backing=Backing.FILE, path="/a")), "private mapping of a file"),
        (seen(guest=replace(GUEST, age_s=100.0)), "stale"),
        (seen(guest=NO_GUEST), "use of its memory is not known"),
        (
            seen(guest=NO_GUEST, state=replace(STATE, statistics=BalloonStatistics(0.0))),
            "never sent balloon statistics",
        ),
        (seen(problems=("monitor: no answer",)), "monitor: no answer"),
    ],
)
def test_each_reason_is_found(observation: Observation, words: str) -> None:
    assert words in whats(observation)
    for finding in findings(observation, NO_FACTS):
        assert finding.evidence
        assert finding.remedy
        assert (DOCS / finding.read_more).is_file()


def test_the_hosts_settings_are_checked() -> None:
    assert "khugepaged" in whats(
        seen(), HostFacts(thp_enabled="always", khugepaged_max_ptes_none=511)
    )
    refilling = HostFacts(thp_enabled="madvise", shmem_thp="advise", khugepaged_max_ptes_none=511)
    assert "khugepaged" not in whats(seen(), refilling)
    eligible = replace(HOST, ram_thp_eligible=True)
    assert "THPeligible: 1" in whats(seen(host=eligible), refilling)
    assert "THPeligible: 1" in whats(seen(with_block(shared=True), host=eligible), refilling)
    always = replace(refilling, thp_enabled="always")
    assert "khugepaged" not in whats(seen(host=replace(HOST, ram_thp_eligible=False)), always)
    assert "swap is not accounted" in whats(seen(), HostFacts(swap_accounted=False))


def test_findings_that_keep_memory_come_first() -> None:
    vm = with_capabilities(balloon=Answer.NO)
    found = findings(seen(vm, guest=NO_GUEST), HostFacts(swap_accounted=False))
    assert [f.severity for f in found] == [Severity.KEEPS] * 2 + [Severity.BLINDS] * 2
    assert "no giveback-agent" in found[0].what


def test_remedies_have_their_bytes() -> None:
    offered = {
        r.what.split(":")[0].split(" (")[0]: (r.expected_bytes or 0) // MIB
        for r in remedies(seen())
    }
    # Resident 774, used 350 + 74 reserved: the residue is 350, at most 400 of it in small blocks.
    assert offered == {
        "a deep report while the guest is idle": 350,
        # Clean cache of 140 less the 64 that an agent keeps.
        "reclaim the guest's cold page cache": 76,
        "shrink the guest's reclaimable slab": 20,
    }
    off = seen(with_capabilities(reports_pages=Answer.NO))
    assert remedies(off)[0].expected_bytes == 200 * MIB
    assert "free-page-reporting=on" in remedies(off)[0].what
    (install,) = remedies(seen(guest=NO_GUEST))
    assert install.expected_bytes is None
    assert install.what == "no giveback-agent in this guest: install it"
    deaf = remedies(seen(guest=replace(GUEST, reporting=False)))
    assert deaf[0].what.startswith("have the guest accept the reporting that the VMM offers")
    kept = remedies(seen(replace(VM, blockers=("device vfio-pci pins all of guest memory",))))
    assert kept[0].expected_bytes == 200 * MIB
    assert kept[0].what == "start it without: device vfio-pci pins all of guest memory"
    assert not any("deep report" in remedy.what for remedy in kept)


BALLOON = GuestSnapshot(GuestSource.BALLOON, 0.0, 950 * MIB, 600 * MIB)


def test_without_an_agent_the_first_step_is_to_install_it() -> None:
    for guest in (NO_GUEST, BALLOON, replace(GUEST, source=GuestSource.GUEST_AGENT)):
        one = seen(with_capabilities(agent_channel=Answer.NO), guest=guest)
        first = findings(one, NO_FACTS)[0]
        assert first.severity is Severity.KEEPS
        assert "no giveback-agent" in first.what
        assert remedies(one)[0].commands == first.commands
        assert any(line.endswith("giveback-agent.pyz install") for line in first.commands)
        assert first.commands[-1].startswith("giveback enable one --agent-port")
    there = seen(with_capabilities(agent_channel=Answer.YES), guest=NO_GUEST)
    assert not any("--agent-port" in line for line in findings(there, NO_FACTS)[0].commands)


def test_no_finding_asks_to_install_an_agent_that_exists() -> None:
    held = replace(NO_GUEST, problems=("/a: no answer; another program is connected to this port",))
    paused = replace(STATE, running=False)
    busy = replace(NO_GUEST, problems=("/a: answers again in 4 s",), agent_is_there=True)
    for one in (seen(), seen(guest=replace(GUEST, source=GuestSource.FILE)), seen(guest=held),
                seen(guest=busy), seen(guest=replace(busy, source=GuestSource.BALLOON)),
                seen(guest=NO_GUEST, state=paused)):  # fmt: skip
        assert not any("install" in finding.remedy for finding in findings(one, NO_FACTS))
        assert not any("install" in remedy.what for remedy in remedies(one))


def test_an_agent_that_gives_no_numbers_now_is_named_instead_of_old_statistics() -> None:
    guest = replace(BALLOON, age_s=3600.0, agent_is_there=True, problems=("answers again in 4 s",))
    off = replace(STATE, statistics=BalloonStatistics(5.0), statistics_period_s=0)
    found = findings(seen(state=off, guest=guest), NO_FACTS)
    assert [one.what.partition(":")[0] for one in found if one.severity is Severity.BLINDS] == [
        "the guest's agent gives no numbers now"
    ]


@pytest.mark.parametrize("updated_s", [0.0, 5.0])
def test_polling_that_is_off_is_named_with_the_command_that_turns_it_on(updated_s: float) -> None:
    state = replace(STATE, statistics=BalloonStatistics(updated_s), statistics_period_s=0)
    guest = NO_GUEST if updated_s == 0 else replace(BALLOON, age_s=3600.0)
    found = findings(seen(state=state, guest=guest), NO_FACTS)
    (off,) = (finding for finding in found if "polling is off" in finding.what)
    assert off.commands == ("giveback enable one --statistics",)
    text = whats(seen(state=state, guest=guest))
    assert "stuck" not in text
    assert "never sent" not in text
    # The agent sends more than balloon statistics have.
    assert findings(seen(state=state), NO_FACTS) == ()


def test_a_paused_vm_is_not_called_stuck() -> None:
    state = replace(STATE, running=False, statistics=BalloonStatistics(5.0), statistics_period_s=0)
    text = whats(seen(state=state, guest=replace(BALLOON, age_s=3600.0)))
    assert "paused" in text
    assert "stuck" not in text
    assert "polling" not in text


def test_an_unknown_configuration_gets_no_advice_that_presumes_it() -> None:
    unknown = Capabilities()
    vm = replace(VM, ram_bytes=0, ram_blocks=(), capabilities=unknown, unread=("-readconfig /a",))
    text = whats(seen(vm, VmState(problems=("-readconfig /a",)), guest=NO_GUEST))
    assert "cannot be read" in text
    assert "no balloon device" not in text
    assert "off in the VMM" not in text
    assert text.count("-readconfig /a") == 1


@pytest.mark.parametrize(
    ("name", "word"),
    [("a b", "'a b'"), ("a;reboot", "'a;reboot'"), ("-x", "1"), ("a\nb", "1"), ("web", "web")],
)
def test_lines_to_paste_name_the_vm_quoted_or_by_its_pid(name: str, word: str) -> None:
    vm = replace(with_capabilities(agent_channel=Answer.NO), name=name)
    assert next_steps.install_agent(vm)[-1].startswith(f"giveback enable {word} --agent-port")


def test_options_for_the_next_start() -> None:
    assert next_steps.start_options(replace(VM, control="/q")) == ()
    bare = replace(
        VM, name="a/b", capabilities=Capabilities(Answer.NO, Answer.NO, agent_channel=Answer.NO)
    )
    words = "\n".join(next_steps.start_options(bare))
    assert "-device virtio-balloon-pci,free-page-reporting=on" in words
    assert "path=/run/a-b-agent.sock,server=on" in words
    assert "-qmp unix:/run/a-b-qmp.sock,server=on" in words
    micro = "\n".join(next_steps.start_options(replace(bare, machine="microvm")))
    assert "virtio-balloon-device" in micro
    off = replace(VM, capabilities=Capabilities(Answer.NO, Answer.YES), control="/q")
    assert next_steps.start_options(off) == ("-global virtio-balloon-pci.free-page-reporting=on",)
    for backend in ("cloud-hypervisor", "firecracker"):
        assert "reporting" in next_steps.start_options(replace(bare, backend=backend))[0]
    assert next_steps.start_options(replace(bare, backend="process")) == ()


def test_facts_are_read_from_a_tree(tmp_path: Path) -> None:
    files = {
        f"{THP}/enabled": "always [madvise] never\n",
        f"{THP}/shmem_enabled": "garbage",
        f"{THP}/khugepaged/max_ptes_none": "511\n",
        f"{THP}/hpage_pmd_size": "2097152\n",
        "/proc/7/cgroup": "0::/machine.slice/vm\n",
        "/sys/fs/cgroup/machine.slice/vm/memory.current": "5\n",
    }
    for name, text in files.items():
        path = tmp_path / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    facts = read_facts(7, str(tmp_path))
    assert facts == HostFacts("madvise", None, 511, swap_accounted=False)
    assert read_facts(None, str(tmp_path / "none")) == HostFacts()


def test_a_monitor_that_does_not_answer_leads_to_who_holds_it() -> None:
    problem = f"/run/web one.sock: no answer in 2 s; another program (libvirt?) {MONITOR_SILENT}"
    vm = replace(VM, control=f"/proc/{VM.pid}/root/run/web one.sock")
    (found,) = [f for f in findings(seen(vm, problems=(problem,)), NO_FACTS) if "monitor" in f.what]
    assert found.evidence == problem
    shown, connected, continued, option = found.commands
    assert f"-p {VM.pid} " in shown
    # The path as the VM's command line has it, safe to paste.
    assert "grep -F '/run/web one.sock' " in connected
    assert continued.startswith(f"kill -CONT {VM.pid} ")
    assert option.startswith("-qmp unix:/run/")
