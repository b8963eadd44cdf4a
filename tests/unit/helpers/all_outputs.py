"""Every output of the host's for one observation: tables, documents, metrics, history."""

from __future__ import annotations

import json
from typing import Any

from giveback.accounting.observation import Observation
from giveback.manager.fleet.discovery import Found
from giveback.manager.fleet.fleet import Watched
from giveback.manager.fleet.status import status_of, vm_problems
from giveback.manager.history.recorder import _vm_row
from giveback.manager.history.records import VM_COLUMNS
from giveback.manager.http.answers import encoded
from giveback.manager.http.metrics import prometheus
from giveback.manager.model import DaemonStatus, VmStatus
from giveback.manager.settings.load import VmSettings
from giveback.reporters import daemon_status, explanation, vm_table
from giveback.vmm.backends.qemu import QemuBackend
from giveback.vmm.base import key_of


def shown(seen: Observation) -> VmStatus:
    """The VM's status as of a daemon that has taken this one sample."""
    found = Found(key_of(seen.vm), QemuBackend(), seen.vm, 1, -1)
    vm = Watched(found, VmSettings(), 0.0)
    vm.vmm.state = seen.state
    vm.host.usage, vm.guest.report = seen.host, seen.guest
    return status_of(vm, 0.0)


def daemon_of(vm: VmStatus) -> DaemonStatus:
    return DaemonStatus(
        1.0, 0.0, None, None, (vm,), (), (), {}, (), "test", vm_problems=vm_problems((vm,))
    )


def scraped(vm: VmStatus) -> dict[str, float]:
    registry = prometheus.registry_of(lambda: daemon_of(vm), prometheus.ActionCounts())
    text = prometheus.rendered(registry, "")[0].decode()
    found = {}
    for line in text.splitlines():
        if line.startswith("giveback_vm_") and "{" in line:
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return found


def outputs(seen: Observation) -> tuple[dict[str, dict[str, Any]], str]:
    """The document of each output, and all texts."""
    vm = shown(seen)
    status = json.loads(encoded(daemon_of(vm)))
    row = dict(zip(VM_COLUMNS, _vm_row(vm), strict=True))
    ps, explained = vm_table.documents([seen])[0], explanation.document(seen)
    texts = [vm_table.text([seen]), explanation.text(seen), daemon_status.text(daemon_of(vm), 2.0)]
    made = {"ps": ps, "explain": explained, "status": status["vms"][0], "history": row}
    return made, "\n".join(texts)
