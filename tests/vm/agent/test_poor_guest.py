"""The agent in a guest without page reporting, PSI, cgroup v2 and debugfs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from agent_guest import MIB, SOON, AgentGuest, agent_guest

from giveback_agent.settings.table import AgentSettings
from giveback_lab.vms.vm import VmSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.lab import Lab

RAM_BYTES = 768 * MIB
FLOOR_BYTES = AgentSettings().cache_floor_bytes
LOOKS = 4


@pytest.fixture(scope="module")
def poor(lab: Lab, accel: Accel) -> Iterator[AgentGuest]:
    """A guest without page reporting, PSI, cgroup v2 and debugfs."""
    spec = VmSpec("poor", RAM_BYTES, 1, accel.name, reporting=False, kernel_arguments="psi=0")
    with agent_guest(spec, lab, accel) as booted:
        booted.sh("umount /sys/fs/cgroup; umount /sys/kernel/debug")
        # Only cgroup v1, if the kernel still has it.
        booted.exec("mount", "-t", "cgroup", "-o", "memory", "cgroup", "/sys/fs/cgroup")
        yield booted


def test_without_reporting_it_says_so_once_and_never_compacts(poor: AgentGuest) -> None:
    poor.work(0.4)
    poor.cold_file("cold", 200)
    with poor.service(*SOON, packed=True) as agent:
        agent.wait_looks(LOOKS)
        assert len([line for line in agent.lines if "page reporting is not active" in line]) == 1
        assert poor.agent("urgency", "3", "--for", "3600").code == 0
        poor.wait(lambda: poor.cache_bytes() < FLOOR_BYTES + 40 * MIB, "the cache's end")
        agent.wait_looks(LOOKS)
        assert not agent.says("giveback-agent: compact")
        assert not agent.says("lower")
        assert "Traceback" not in "\n".join(agent.lines)
    assert poor.agent("status").code == 3
    assert "page reporting" in poor.agent("doctor").text
