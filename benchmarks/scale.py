"""Measure what the agent costs in large guests, by cgroups, CPUs and NUMA nodes, on generated trees.

    .venv/bin/python benchmarks/scale.py [--cgroups 100,1000,4000,10000] [--cpus 8,64] [--nodes 1,8]

A tree has the kernel files of a guest with 16 GiB, the CPUs and nodes, one folder for each cgroup,
and an lru_gen of all cgroups, with cold cache in 40. It is read as the service reads it, in an
interpreter started as the service's is. The columns:

- `sample`, `snapshot`: CPU time of one sample and of one full snapshot.
- `quiet`: the fraction of a CPU that these take at the periods of a quiet guest.
- `Pss`: of that process.
- `pass`: CPU time of a pass's cold cache, with the number of evictions.
- `ended`: CPU time of measuring the cache of ended cgroups.
- `lists`: CPU time of reading every cgroup's lists, for kernels where lru_gen may not be read.
- `peak`: the largest resident memory of processes that do these.

Reading a file takes the time of this machine's file system, without the time in which a kernel
prints it; see docs/scale.md for real guests.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"
SAMPLES = Path(__file__).parents[1] / "tests/unit/helpers/agent_kernel_files"
PAGE = os.sysconf("SC_PAGE_SIZE")
GIB = 1 << 30
RAM_BYTES = 16 * GIB
COLD_CGROUPS = 40
COLD_PAGES = 20_000
GROUPS_A_SLICE = 100
TOP = "sys/fs/cgroup"
STAT = """anon 40960
file {file}
kernel 1048576
kernel_stack 16384
pagetables 40960
sec_pagetables 0
percpu 1152
sock 0
vmalloc 0
shmem 0
zswap 0
zswapped 0
file_mapped 0
file_dirty 0
file_writeback 0
swapcached 0
anon_thp 0
file_thp 0
shmem_thp 0
inactive_anon 0
active_anon 40960
inactive_file {inactive}
active_file {active}
unevictable 0
slab_reclaimable 65536
slab_unreclaimable 32768
slab 98304
workingset_refault_anon 0
workingset_refault_file 0
workingset_activate_anon 0
workingset_activate_file 0
workingset_restore_anon 0
workingset_restore_file 0
workingset_nodereclaim 0
pgscan 0
pgsteal 0
pgscan_kswapd 0
pgscan_direct 0
pgscan_proactive 0
pgfault 1200
pgmajfault 0
pgrefill 0
pgactivate 0
pgdeactivate 0
pglazyfree 0
thp_fault_alloc 0
"""
COLUMNS = ("cgroups", "CPUs", "nodes", "lru_gen", "sample", "snapshot", "quiet", "Pss")
ALL_COLUMNS = (*COLUMNS, "pass", "ended", "lists", "peak")
# In the guest's interpreter: what the service does, and the steps that it forks for.
PROGRAM = """
import os, resource, sys, time
source, root = sys.argv[1:3]
sys.path.insert(0, source)
from giveback_agent.policy.activity import idleness
from giveback_agent.release.observe import Totals, take
from giveback_agent.service import end_watch, loop
from giveback_agent.settings.table import AgentSettings
from giveback_kernel.pressure import pressure_or_none

def timed(work, times):
    begin = time.process_time()
    for _ in range(times): work()
    return (time.process_time() - begin) / times

totals, ends = Totals(root), end_watch.EndWatch(root)
state = idleness.Activity()
def sample():
    global state
    totals.forget()
    stalls = idleness.stalls_of(pressure_or_none("memory", root), pressure_or_none("io", root))
    state = idleness.judge(state, time.monotonic(), totals.cpustat(), 0.0, stalls, 20, 10, 100)
    totals.meminfo()
snapshot = lambda: take(root, 0.0, detail=True, totals=totals)
service = loop.Service(root, AgentSettings(), lambda line: None)
sample(); snapshot(); ends.poll()
sample_s, snapshot_s, poll_s = timed(sample, 50), timed(snapshot, 20), timed(ends.poll, 200)
pss = [line.split()[1] for line in open("/proc/self/smaps_rollup") if line.startswith("Pss:")][0]

def forked(work):
    read, write = os.pipe()
    if os.fork() == 0:
        begin = time.process_time()
        said = work()
        used = time.process_time() - begin
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        os.write(write, f"{used} {peak} {said}".encode())
        os._exit(0)
    os.close(write)
    os.wait()
    used, peak, said = os.read(read, 4096).decode().split(None, 2)
    return float(used), int(peak), said

def evictions():
    # As the kernel does it: the third-youngest generation shrinks by what is asked.
    from giveback_kernel import lru_gen
    groups, at = {}, 0
    # Only those with cold cache: what the emulation holds would count as the agent's.
    for line in open(f"{root}{lru_gen.PATH}"):
        words = line.split(None, 2)
        if words[0] == "memcg": memcg, path = words[1], words[2].strip()
        elif words[0] == "node": node, start = words[1], at + len(line)
        elif words[0] == "1" and int(line[34:44]) > 1000: groups[memcg, node] = path, start
        at += len(line)
    row = 46
    def write_request(root, request):
        _, number, node, _, _, pages = request.split()
        path, at = groups[number, node]
        with open(f"{root}{lru_gen.PATH}", "r+b") as file:
            file.seek(at + row + 34)  # the second generation's file pages
            left = max(0, int(file.read(10)) - int(pages))
            file.seek(at + row + 34)
            file.write(b"%10d" % left)
        if number != "0":  # one that has ended has no folder
            with open(f"{root}/sys/fs/cgroup{path}/memory.numa_stat", "w") as file:
                file.write(f"inactive_file N{node}={left * 4096}\\n")
    lru_gen.write_request = write_request

def a_pass():
    from giveback_agent.release.cache import cold_cache
    result = cold_cache.reclaim_cold(root, cold_cache.probe(root), 16 << 30, untrained=True)
    return result.steps

def ended():
    from giveback_agent.release.cache import ended_cgroups
    return ended_cgroups.read_shares(root, True)

def lists():
    from giveback_agent.release.cache import cold_cache
    return cold_cache.reclaim_cold(root, cold_cache.LISTS, 1).steps

ended_s, peak_ended, _ = forked(ended)
lists_s, peak_lists, _ = forked(lists)
evictions()
pass_s, peak_pass, steps = forked(a_pass)
print(sample_s, snapshot_s, poll_s, pss, pass_s, steps, ended_s, lists_s,
      max(peak_ended, peak_lists, peak_pass))
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--cgroups", default="100,1000,4000,10000")
    parser.add_argument("--cpus", default="8,64")
    parser.add_argument("--nodes", default="1,8")
    parser.add_argument("--source", default=str(SOURCE), help="another src folder, to compare")
    args = parser.parse_args()
    cgroups, cpus, nodes = (numbers(text) for text in (args.cgroups, args.cpus, args.nodes))
    print(
        f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs, Python {sys.version.split()[0]}"
    )
    print("| " + " | ".join(ALL_COLUMNS) + " |\n" + "|---" * len(ALL_COLUMNS) + "|", flush=True)
    # One curve for each size, with the others at their minimum.
    rows = [(count, cpus[0], nodes[0]) for count in cgroups]
    rows += [(cgroups[0], count, nodes[0]) for count in cpus[1:]]
    rows += [(count, cpus[-1], nodes[-1]) for count in (cgroups[0], cgroups[-1])]
    for count in dict.fromkeys(row[0] for row in rows):
        with tempfile.TemporaryDirectory() as folder:
            plant_cgroups(Path(folder), count)
            for row in dict.fromkeys(row for row in rows if row[0] == count):
                print(measured(args.source, folder, *row), flush=True)


def numbers(text: str) -> list[int]:
    return [int(word) for word in text.split(",")]


def measured(source: str, folder: str, cgroups: int, cpus: int, nodes: int) -> str:
    root = Path(folder)
    plant_machine(root, cpus, nodes)
    size = plant_lists(root, cgroups, nodes)
    command = [sys.executable, "-IBS", "-c", PROGRAM, source, folder]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(ran.stderr)
    words = ran.stdout.split()
    sample_s, snapshot_s, poll_s, pss_kib, pass_s = (float(word) for word in words[:5])
    steps, (ended_s, lists_s), peak_kib = words[5], (float(w) for w in words[6:8]), float(words[8])
    # The service's periods in a quiet guest: polling.QUIET_PERIOD_S, every sixth a snapshot;
    # end_watch.
    quiet = sample_s / 10 + snapshot_s / 60 + poll_s / 5
    return (
        f"| {cgroups} | {cpus} | {nodes} | {size / 1e6:.2f} MB | {sample_s * 1e3:.2f} ms "
        f"| {snapshot_s * 1e3:.1f} ms | {quiet:.3%} | {pss_kib / 1024:.1f} MiB | {pass_s:.2f} s, "
        f"{steps} steps | {ended_s:.2f} s | {lists_s:.2f} s | {peak_kib / 1024:.0f} MiB |"
    )


def plant_machine(root: Path, cpus: int, nodes: int) -> None:
    """Write a guest's kernel files, except for its cgroups."""
    for name in ("meminfo", "vmstat"):
        put(root, f"proc/{name}", memory_text(name))
    for name in ("cpu", "memory", "io"):
        put(root, f"proc/pressure/{name}", sample(f"pressure_{name}"))
    put(root, "proc/swaps", sample("swaps").splitlines()[0] + "\n")
    put(root, "proc/self/mountinfo", sample("mountinfo_v2"))
    put(root, "proc/self/cgroup", "0::/system.slice/giveback-agent.service\n")
    put(root, "proc/stat", stat_text(cpus))
    put(root, "proc/buddyinfo", "".join(numbered(sample("buddyinfo"), n) for n in range(nodes)))
    zones = sample("zoneinfo")
    put(root, "proc/zoneinfo", "".join(zone_text(zones, n, cpus // nodes) for n in range(nodes)))
    put(root, "sys/module/page_reporting/parameters/page_reporting_order", "9\n")
    put(root, "sys/kernel/mm/lru_gen/enabled", "0x0007\n")


def plant_cgroups(root: Path, cgroups: int) -> None:
    """Write the files of each cgroup."""
    put(root, f"{TOP}/cgroup.stat", f"nr_descendants {cgroups}\nnr_dying_descendants 3\n")
    put(root, f"{TOP}/memory.reclaim", "")
    put(root, f"{TOP}/memory.stat", STAT.format(file=0, inactive=0, active=0))
    for number in range(cgroups):
        folder = f"{TOP}{path_of(number)}"
        cold = cold_pages(number, cgroups)
        text = STAT.format(file=cold * PAGE, inactive=cold * PAGE, active=20 * PAGE)
        put(root, f"{folder}/memory.stat", text)
        if number % GROUPS_A_SLICE == 0:
            put(root, f"{folder.rpartition('/')[0]}/memory.stat", text)
        put(root, f"{folder}/memory.reclaim", "")


def plant_lists(root: Path, cgroups: int, nodes: int) -> int:
    """Write lru_gen, and the sizes of the cold cgroups' lists; return its length in bytes."""
    lru = [lists_of(1, "/", nodes, 0)]
    for number in range(cgroups):
        path, cold = path_of(number), cold_pages(number, cgroups)
        lru.append(lists_of(number + 2, path, nodes, cold))
        if cold == COLD_PAGES:
            sizes = "".join(f" N{n}={0 if n else cold * PAGE}" for n in range(nodes))
            put(root, f"{TOP}{path}/memory.numa_stat", f"inactive_file{sizes}\n")
    lru.append(lists_of(0, "/machine-0.slice/gone.scope", nodes, 5000))
    put(root, "sys/kernel/debug/lru_gen", "".join(lru))
    return sum(map(len, lru))


def path_of(number: int) -> str:
    return f"/machine-{number // GROUPS_A_SLICE}.slice/libpod-{number:064x}.scope"


def cold_pages(number: int, cgroups: int) -> int:
    return COLD_PAGES if number % max(1, cgroups // COLD_CGROUPS) == 0 else 60


def lists_of(number: int, path: str, nodes: int, cold_pages: int) -> str:
    """Return the output of lru_gen_seq_show() for one cgroup; the first node has the cold pages."""
    text = f"memcg {number:5d} {path}\n"
    for node in range(nodes):
        text += f" node {node:5d}\n"
        for generation, pages in enumerate((0, 0 if node else cold_pages, 10, 10)):
            text += f" {generation:10d} {90_000 - generation:10d} {4:10d} {pages:10d} \n"
    return text


def memory_text(name: str) -> str:
    """Return meminfo with nothing dirty, because largely dirty cache would be left alone."""
    lines = sample(name).splitlines()
    return "".join(("Dirty: 0 kB" if x.startswith("Dirty:") else x) + "\n" for x in lines)


def stat_text(cpus: int) -> str:
    lines = sample("stat").splitlines()
    own = [f"cpu{n} 11272 35 4378 182968 252 0 25 101 0 0" for n in range(cpus)]
    rest = [line for line in lines if not line.startswith("cpu")]
    # Interrupts: a guest has some for each CPU and device queue.
    rest[0] += " 0" * (20 * cpus)
    return "\n".join([lines[0], *own, *rest]) + "\n"


def zone_text(zones: str, node: int, cpus: int) -> str:
    """Return the sample's zones, with a list for each CPU of this node."""
    found = []
    for chunk in numbered(zones, node).split("\nNode "):
        head, mark, tail = chunk.partition("    cpu: 0\n")
        one, _, _ = tail.partition("    cpu: 1\n")
        rest = tail[tail.index("  node_unreclaimable") :] if "  node_unreclaimable" in tail else ""
        one = one.partition("  node_unreclaimable")[0]
        lists = "".join(f"    cpu: {n}\n{one}" for n in range(max(1, cpus)))
        found.append(head + lists + rest if mark else chunk)
    return "\nNode ".join(found).rstrip("\n") + "\n"


def numbered(text: str, node: int) -> str:
    return text.replace("Node 0,", f"Node {node},")


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


def put(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


if __name__ == "__main__":
    main()
