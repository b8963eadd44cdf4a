"""/metrics: the manager's latest status in Prometheus's format. Rendering it touches no VM.

One collector makes all metrics from one `DaemonStatus`, so those of an ended VM disappear with it. Label
values are bounded in number and length, whatever the VMs' names are.
"""

from __future__ import annotations

import collections
import itertools
import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from giveback.accounting.ledger import Key
from giveback.manager.model import VmCondition
from giveback_kernel import __version__
from giveback_kernel.escaping import escape_for_terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from prometheus_client.core import Metric

    from giveback.manager.model import DaemonStatus, ManagerAction, VmStatus

VMS_SHOWN = 5000
NAME_LIMIT_CHARS = 64
KINDS_SHOWN = 32
ROWS = frozenset(key.name.lower() for key in Key)
_SEEN_ACTIONS = 20_000
UNLISTED = "unlisted"
"""The kind of an action that came and was dropped from the status between two polls."""
_ABOUT = ("history", "settings")


class ActionCounts:
    """Counts of actions, kept because the status has only the last ones. Threads may share it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._seen: collections.OrderedDict[int, bool] = collections.OrderedDict()
        self._highest = 0
        self.done: collections.Counter[str] = collections.Counter()
        self.verified: collections.Counter[tuple[str, str]] = collections.Counter()
        self.expected_bytes: collections.Counter[str] = collections.Counter()
        self.returned_bytes: collections.Counter[str] = collections.Counter()

    def saw(self, actions: Iterable[ManagerAction]) -> None:
        """Count the actions that are new, and those that were verified since the last call."""
        with self.lock:
            self._saw(actions)

    def _saw(self, actions: Iterable[ManagerAction]) -> None:
        actions = tuple(actions)
        # Ids are consecutive, so those that are missing were dropped from the list between two polls.
        highest = max((action.id for action in actions), default=0)
        if highest > self._highest:
            listed = sum(action.id > self._highest for action in actions)
            self.done[UNLISTED] += highest - self._highest - listed
            self._highest = highest
        for action in actions:
            kind = str(action.kind)
            verified = self._seen.get(action.id)
            if verified is None:
                self.done[kind] += 1
            if action.measured_bytes is not None and not verified:
                self.verified[kind, "short" if action.verdict else "delivered"] += 1
                self.expected_bytes[kind] += max(0, action.expected_bytes)
                self.returned_bytes[kind] += max(0, action.measured_bytes)
            self._seen[action.id] = action.measured_bytes is not None
        while len(self._seen) > _SEEN_ACTIONS:
            self._seen.popitem(last=False)


class StatusCollector(Collector):
    """The collector of all metrics of one status; `take()` is called once for each scrape."""

    def __init__(
        self,
        take: Callable[[], DaemonStatus],
        counts: ActionCounts,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._take = take
        self._counts = counts
        self._monotonic = monotonic

    def describe(self) -> Iterable[Metric]:
        """Return nothing: at registration there may be no status yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the present metrics."""
        status = self._take()
        yield _gauge("giveback_info", "The version that runs.", {"version": __version__}, 1)
        yield _plain("giveback_start_time_seconds", "When the daemon started, Unix time.",
                     status.started_wall_s)  # fmt: skip
        yield _plain("giveback_status_time_seconds", "When this status was made, Unix time.",
                     status.wall_s)  # fmt: skip
        yield from self._host(status)
        yield from _own(status)
        with self._counts.lock:
            made = list(_actions(self._counts))
        yield from made
        yield from _vms(status)

    def _host(self, status: DaemonStatus) -> Iterator[Metric]:
        host, decision = status.host, status.decision
        if host is not None:
            age_s = max(0.0, self._monotonic() - host.at_s)
            for name, words, value in (
                ("look_age_seconds", "Age of the last sample of the host.", age_s),
                ("memory_total_bytes", "MemTotal of the host.", host.total_bytes),
                ("memory_available_bytes", "MemAvailable of the host.", host.available_bytes),
                ("swap_free_bytes", "Free swap of the host.", host.swap_free_bytes),
            ):
                yield _plain(f"giveback_host_{name}", words, value)
            yield _counter(
                "giveback_host_swap_in_bytes", "Read from the host's swap.", host.swap_in_bytes
            )
            pressure = GaugeMetricFamily(
                "giveback_host_memory_pressure_ratio",
                "Part of the last 10 s in which tasks waited for memory (PSI avg10).",
                labels=["kind"],
            )
            for kind, percent in (
                ("some", host.psi_memory_some_avg10), ("full", host.psi_memory_full_avg10),
            ):  # fmt: skip
                if percent is not None:
                    pressure.add_metric([kind], percent / 100)
            yield pressure
        if decision is not None:
            yield _plain("giveback_host_urgency", "How badly the host needs memory, 0 to 3.",
                         decision.urgency)  # fmt: skip
            yield _plain("giveback_host_deficit_bytes", "Memory that the host lacks.",
                         decision.deficit_bytes)  # fmt: skip
            yield _plain("giveback_host_look_interval_seconds", "Time to the next sample of the host.",
                         decision.look_again_s)  # fmt: skip
            if decision.trouble_in_s is not None:
                yield _plain("giveback_host_trouble_seconds",
                             "Forecast time until memory runs out; absent if it does not.",
                             decision.trouble_in_s)  # fmt: skip


def registry_of(take: Callable[[], DaemonStatus], counts: ActionCounts) -> CollectorRegistry:
    """Return a registry with our metrics, and CPU, memory and open files of this process."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StatusCollector(take, counts))
    ProcessCollector(registry=registry)
    return registry


_RENDERING = threading.Lock()


def rendered(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the text and its media type, as the scraper accepts it. One call at a time runs.

    A text of many VMs takes much memory, so threads wait for each other.
    """
    # The library copies parts of it into the answer's own header.
    is_clean = accept.isascii() and accept.isprintable()
    with _RENDERING:
        for header in (accept[:1000] if is_clean else "", ""):
            try:
                encode, media_type = choose_encoder(header)
                return encode(registry), media_type
            except (ValueError, LookupError, TypeError):
                # The library parses an invalid header without checks, here and when it encodes.
                if not header:
                    raise
    raise AssertionError


def _plain(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(name, words, value=float(value))


def _counter(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(name, words, value=float(value))


def _gauge(name: str, words: str, labels: Mapping[str, str], value: float) -> Metric:
    family = GaugeMetricFamily(name, words, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family


def _own(status: DaemonStatus) -> Iterator[Metric]:
    problems = GaugeMetricFamily(
        "giveback_problems", "What `giveback status` lists as problems.", labels=["about"]
    )
    about = collections.Counter(text.partition(" ")[0].rstrip(":") for text in status.problems)
    for word in _ABOUT:
        problems.add_metric([word], about[word])
    others = len(status.problems) - sum(about[word] for word in _ABOUT)
    problems.add_metric(["other"], others)
    problems.add_metric(["vm"], len(status.vm_problems))
    yield problems
    yield _plain("giveback_leases", "Leases of balloons and virtio-mem devices.",
                 len(status.leases))  # fmt: skip
    leased = sum(max(0, lease.before_bytes - lease.target_bytes) for lease in status.leases)
    yield _plain("giveback_leased_bytes", "Memory taken from guests by devices.", leased)
    errors = CounterMetricFamily(
        "giveback_errors", "The daemon's own errors, by what failed.", labels=["kind"]
    )
    for kind, count in itertools.islice(status.errors.items(), KINDS_SHOWN):
        errors.add_metric([_label(kind)], count)
    yield errors
    conditions = GaugeMetricFamily("giveback_vms", "VMs by condition.", labels=["condition"])
    found = collections.Counter(str(vm.condition) for vm in status.vms)
    for condition in VmCondition:
        conditions.add_metric([str(condition)], found[str(condition)])
    yield conditions


def _actions(counts: ActionCounts) -> Iterator[Metric]:
    done = CounterMetricFamily("giveback_actions", "Actions on VMs.", labels=["kind"])
    for kind, count in counts.done.items():
        done.add_metric([kind], count)
    yield done
    verified = CounterMetricFamily(
        "giveback_actions_verified",
        "Actions whose effect was measured: delivered, or fewer bytes than expected (short).",
        labels=["kind", "verdict"],
    )
    for (kind, verdict), count in counts.verified.items():
        verified.add_metric([kind, verdict], count)
    yield verified
    for name, words, amounts in (
        ("expected", "Bytes expected of verified actions.", counts.expected_bytes),
        ("returned", "Bytes that they returned, by the host's own count.", counts.returned_bytes),
    ):
        family = CounterMetricFamily(f"giveback_actions_{name}_bytes", words, labels=["kind"])
        for kind, amount in amounts.items():
            family.add_metric([kind], amount)
        yield family


_VM_GAUGES: tuple[tuple[str, str, Callable[[VmStatus], float | None]], ...] = (
    ("ram_bytes", "The VM's RAM.", lambda vm: vm.ram_bytes),
    ("resident_bytes", "Guest RAM that the host holds.", lambda vm: vm.resident_bytes),
    ("needed_bytes", "Resident RAM that the guest uses.", lambda vm: vm.needed_bytes),
    ("residue_bytes", "Free in the guest, still held by the host.", lambda vm: vm.residue_bytes),
    ("in_use_bytes", "What the guest needs without clean cache.", lambda vm: vm.in_use_bytes),
    ("cache_bytes", "Clean page cache that the host holds.", lambda vm: vm.cache_bytes),
    ("returned_bytes", "Held once, now free and no longer held.", lambda vm: vm.returned_bytes),
    ("returnable_bytes", "Residue and reclaimable cache.", lambda vm: vm.returnable_bytes),
    ("cold_bytes", "Cache that is returned at urgency 1.", lambda vm: vm.cold_bytes),
    ("warm_bytes", "Cache that is returned at urgency 2 and 3 only.", lambda vm: vm.warm_bytes),
    ("own_bytes", "The VMM's own memory and page tables.", lambda vm: vm.own_bytes),
    ("charged_bytes", "All memory that the VM costs the host.", lambda vm: vm.charged_bytes),
    ("swapped_bytes", "Memory of the VMM that is swapped out.", lambda vm: vm.swap_bytes),
    (
        "swap_in_bytes_per_second",
        "Decrease of swapped-out memory since the last sample; absent after one sample.",
        lambda vm: vm.swap_in_bytes_per_s,
    ),
    (
        "swap_out_bytes_per_second",
        "Increase of swapped-out memory since the last sample; absent after one sample.",
        lambda vm: vm.swap_out_bytes_per_s,
    ),
    (
        "cpu_ratio",
        "CPU time of the VMM between the last two samples, as a part of one CPU.",
        lambda vm: None if vm.cpu_percent is None else vm.cpu_percent / 100,
    ),
    (
        "host_ratio",
        "Resident guest RAM, as a part of the host's RAM.",
        lambda vm: None if vm.host_percent is None else vm.host_percent / 100,
    ),
    ("uptime_seconds", "Time since the VMM was started.", lambda vm: vm.uptime_s),
    (
        "cache_floor_bytes",
        "Cache that its agent never takes.",
        lambda vm: vm.cache_floor_bytes,
    ),
    (
        "learned_floor_bytes",
        "Cold cache that its agent keeps at urgency 1, because of refaults.",
        lambda vm: vm.learned_floor_bytes,
    ),
    ("unknown", "1 if use and residue are unknown.", lambda vm: bool(vm.unknown)),
    ("urgency", "The last urgency sent to the guest, 0 to 3.", lambda vm: vm.urgency),
    (
        "reliability_ratio",
        "Part of the expected bytes that came back; absent until a request was judged.",
        lambda vm: vm.reliability,
    ),
    ("balloon_lease_bytes", "Memory taken by its balloon.", lambda vm: vm.balloon_lease_bytes),
    ("sample_age_seconds", "Age of the VM's last sample.", lambda vm: vm.sampled_age_s),
)


def _vms(status: DaemonStatus) -> Iterator[Metric]:
    labelled = list(zip(labels_of(status.vms[:VMS_SHOWN]), status.vms, strict=False))
    yield _plain("giveback_vms_not_shown", "VMs beyond the most that /metrics shows.",
                 len(status.vms) - len(labelled))  # fmt: skip
    info = GaugeMetricFamily(
        "giveback_vm_info", "The VM with this label.",
        labels=["vm", "backend", "pid", "guest_source", "reporting"],
    )  # fmt: skip
    condition = GaugeMetricFamily(
        "giveback_vm_condition", "1 for the VM's present condition.", labels=["vm", "condition"]
    )
    ledger = GaugeMetricFamily(
        "giveback_vm_ledger_bytes", "The host's charge by ledger row.", labels=["vm", "row"]
    )
    errors = CounterMetricFamily(
        "giveback_vm_errors", "A VM's errors, by what failed.", labels=["vm", "kind"]
    )
    lease = GaugeMetricFamily(
        "giveback_vm_lease_seconds",
        "Time until the urgency expires; by: who set it, host, reclaim or manual.",
        labels=["vm", "by"],
    )
    for label, vm in labelled:
        if vm.lease_left_s is not None:
            lease.add_metric([label, _label(vm.urgency_by or "host", 32)], vm.lease_left_s)
        source = _label(vm.guest_source, 32)
        reporting = _label(vm.reporting, 32)
        info.add_metric([label, _label(vm.backend, 32), str(vm.pid), source, reporting], 1)
        condition.add_metric([label, str(vm.condition)], 1)
        for row, amount in vm.rows.items():
            if row in ROWS:
                ledger.add_metric([label, row], amount)
        for kind, count in itertools.islice(vm.errors.items(), KINDS_SHOWN):
            errors.add_metric([label, _label(kind)], count)
    yield from (info, condition, ledger, errors, lease)
    for name, words, take in _VM_GAUGES:
        family = GaugeMetricFamily(f"giveback_vm_{name}", words, labels=["vm"])
        for label, vm in labelled:
            value = take(vm)
            if value is not None:
                family.add_metric([label], value)
        yield family


def labels_of(vms: Iterable[VmStatus]) -> list[str]:
    """Return each VM's label: its escaped name, with its pid if several VMs have the name."""
    listed = list(vms)
    names = [_label(vm.name) or f"pid {vm.pid}" for vm in listed]
    often = collections.Counter(names)
    taken: collections.Counter[str] = collections.Counter()
    labels = []
    for name, vm in zip(names, listed, strict=True):
        label = name if often[name] == 1 else f"{name} (pid {vm.pid})"
        taken[label] += 1
        # A faulty backend may list one process twice; the scrape must not fail because of that.
        labels.append(label if taken[label] == 1 else f"{label} #{taken[label]}")
    return labels


def _label(text: str, limit: int = NAME_LIMIT_CHARS) -> str:
    return escape_for_terminal(text, limit).encode("ascii", "replace").decode()
