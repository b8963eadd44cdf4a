"""One moment of one VM: what the guest's outputs say, and what the host's make of the same kernel files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from agent_kernel_samples import GUEST, plant
from all_outputs import daemon_of, outputs, scraped, shown
from observations import GIB, MIB

from giveback.accounting.observation import Observation
from giveback.accounting.usage import GuestSnapshot, GuestSource, HostSnapshot
from giveback.guest import protocol
from giveback.guest.observe import make_ledger
from giveback.reporters import daemon_status
from giveback.vmm.base import Answer, Capabilities, RamBlock, VmDescription, VmState
from giveback_agent.commands import status
from giveback_agent.host_link import answers, json_lines
from giveback_agent.policy.observation import GENERATIONS
from giveback_agent.release.cache import cold_survey
from giveback_agent.release.observe import take
from giveback_kernel import page_reporting
from giveback_kernel.meminfo import MemInfo
from giveback_kernel.units import size

RAM_BYTES = 25 * GIB
RESIDUE_BYTES = 500 * MIB
LRU_GEN = b"""memcg     1 /
 node     0
        0    9000000          0      60000
        1    8000000          0      40000
        2       1000          0       2000
        3        100          0       1000
"""
FILES = {
    **GUEST,
    "/sys/kernel/debug/lru_gen": LRU_GEN,
    "/proc/self/mountinfo": b"1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
    "/proc/self/cgroup": b"0::/\n",
}


def sent(root: str, said: dict[str, object], memory: MemInfo) -> GuestSnapshot:
    """The guest's report as it goes over the wire and is read by the host."""
    terms = status.terms(root, said, memory)
    (message,) = answers.messages(
        root, "memory", 5, False, lambda: cold_survey.promise(root, terms, memory)
    )
    event = protocol.parse(json_lines.line_of(message).rstrip(b"\n"))
    assert isinstance(event, protocol.MemoryReport)
    return protocol.from_agent(event.said, GuestSource.AGENT)


def observed(guest: GuestSnapshot) -> Observation:
    """What the host sees of it: all that the guest uses is resident, and the residue."""
    assert guest.total_bytes is not None
    assert guest.free_bytes is not None
    can = Capabilities(Answer.YES, Answer.YES)
    vm = VmDescription("qemu", "one", 1, RAM_BYTES, (RamBlock("ram", RAM_BYTES),), can)
    state = VmState(running=True, ram_bytes=RAM_BYTES, reporting_negotiated=Answer.YES)
    host = HostSnapshot(RAM_BYTES - guest.free_bytes + RESIDUE_BYTES, own_resident_bytes=50 * MIB)
    return Observation(vm, state, host, guest, make_ledger(vm, state, host, guest))


@pytest.mark.parametrize(
    ("learned_bytes", "floor_bytes"), [(0, 0), (64 * MIB, 128 * MIB), (900 * MIB, 0)]
)
def test_guest_and_host_say_the_same_of_one_moment(
    tmp_path: Path, learned_bytes: int, floor_bytes: int
) -> None:
    root = plant(tmp_path, FILES)
    said: dict[str, object] = {
        "cold_method": GENERATIONS,
        "learned_floor_bytes": learned_bytes,
        "cache_floor_bytes": floor_bytes,
        "mode": "adaptive",
    }
    now = take(root, 1.0, detail=True)
    terms = status.terms(root, said, now.meminfo)
    in_guest = status.summary(now, said)
    takes_bytes = cold_survey.would_take_bytes(root, terms, now.meminfo)
    guest_text = "\n".join(
        status.lines(7, now, said, None, page_reporting.probe(root), takes_bytes)
    )
    guest = sent(root, said, now.meminfo)
    seen = observed(guest)
    made, host_text = outputs(seen)
    vm, samples = shown(seen), scraped(shown(seen))

    # What a pass would take: `giveback-agent status`, the report, and every promise of the host's.
    assert guest.would_take_bytes == takes_bytes
    assert made["explain"]["cold_bytes"] == made["status"]["cold_bytes"] == takes_bytes
    assert f"{takes_bytes // MIB} of it not used lately" in guest_text
    assert f"{size(takes_bytes)} cold cache" in host_text
    # Both floors.
    for key, amount in (("learned_floor_bytes", learned_bytes), ("cache_floor_bytes", floor_bytes)):
        assert made["explain"]["guest"][key] == made["status"][key] == amount
        assert (f"{amount // MIB} MiB" in guest_text) or not amount
        assert (size(amount) in host_text) or not amount
    # Small free blocks: the guest counts them; of these the host can hold no more.
    small = in_guest["small_free_bytes"]
    assert small == sum(guest.free_by_order[: guest.report_order])
    assert made["ps"]["trapped_bytes"] == made["history"]["trapped_bytes"] == small
    assert vm.rows["free_trapped"] == small
    # Amounts that both take from the same lines of meminfo.
    assert in_guest["mem_total_bytes"] == guest.total_bytes
    assert in_guest["free_bytes"] == guest.free_bytes
    for key in ("anon_bytes", "slab_reclaimable_bytes", "dirty_bytes"):
        assert in_guest[key] == getattr(guest, key)
    assert vm.rows["anon"] == in_guest["anon_bytes"]
    assert vm.rows["cache_dirty"] == in_guest["dirty_bytes"]
    # The agent's cache is what reclaim can reach; the ledger's adds up, with what is locked in memory.
    cache = in_guest["cache_bytes"]
    assert isinstance(cache, int)
    assert guest.cache_bytes is not None
    assert 0 <= guest.cache_bytes - cache <= 18 * MIB
    # "In use" leaves out the cache on both sides; reserved memory is not in MemTotal.
    shown_mib = re.search(r"MiB: (\d+) in use, (\d+) cache, (\d+) free", guest_text)
    assert shown_mib is not None
    in_use_mib, cache_mib, free_mib = (int(number) for number in shown_mib.groups())
    assert in_use_mib + cache_mib + free_mib <= now.meminfo.mem_total_bytes // MIB
    reserved, dirty = vm.rows["reserved"], vm.rows["cache_dirty"]
    assert vm.in_use_bytes is not None
    assert abs((vm.in_use_bytes - reserved - dirty) // MIB - in_use_mib) <= 18
    # And every output of the host's has the same sums.
    for fact in (
        "residue_bytes",
        "needed_bytes",
        "cache_bytes",
        "in_use_bytes",
        "returnable_bytes",
    ):
        values = {doc[fact] for doc in made.values() if fact in doc}
        assert values == {samples[f'giveback_vm_{fact}{{vm="one"}}']}
    assert made["ps"]["residue_bytes"] == RESIDUE_BYTES
    assert size(RESIDUE_BYTES) in daemon_status.text(daemon_of(vm), 2.0)
