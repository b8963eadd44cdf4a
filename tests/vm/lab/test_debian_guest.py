"""The distribution guest: systemd settles, the agent serves, containers and services run and end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from matrix import MATRIX

from giveback_lab.images.debian_files import CONTAINER_ARCHIVE, USER, WITHOUT_AGENT
from giveback_lab.images.debian_guest import build_distribution_image
from giveback_lab.images.kernels import kernel_from_packages
from giveback_lab.vms.agent import wait_until_it_serves
from giveback_lab.vms.emulator import find_emulator
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from giveback_lab.vms.accel import Accel

MIB = 1 << 20
DEADLINE_S = 300.0
AS_USER = ("systemd-run", "--user", "-M", f"{USER}@", "--quiet", "--wait", "--pipe", "--collect")
PODMAN_RUN = ("podman", "run", "--rm", "--network=none", "localhost/lab")


async def text(vm: LabVm, *argv: str) -> str:
    result = await vm.watch(vm.guest.exec(*argv, timeout_s=DEADLINE_S), DEADLINE_S, argv[0])
    assert result.code == 0, f"{argv}: {result.text}"
    return result.text


async def settled(vm: LabVm) -> None:
    """Wait until nothing has failed, and the units of the lab and the agent are active."""
    # It exits with an error if any unit has failed; its output names them.
    await vm.watch(
        vm.guest.exec("systemctl", "is-system-running", "--wait", timeout_s=DEADLINE_S),
        DEADLINE_S,
        "systemd's start",
    )
    assert await text(vm, "systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    active = await text(vm, "systemctl", "is-active", "giveback-lab", "postgresql@17-main")
    assert active.split() == ["active", "active"]
    ttys = await text(vm, "sh", "-c", "systemctl list-units --plain --no-legend '*getty@*'")
    assert ttys == ""


async def agent_serves(vm: LabVm) -> None:
    assert await text(vm, "systemctl", "is-active", "giveback-agent") == "active"
    assert "installed" in await text(vm, "journalctl", "-b", "-u", "giveback-agent-install")
    await wait_until_it_serves(vm)
    # Nothing of the journal is on a disk.
    assert await text(vm, "sh", "-c", "ls /var/log/journal 2>/dev/null; true") == ""
    controllers = "/sys/fs/cgroup/user.slice/user-1000.slice/user@1000.service/cgroup.controllers"
    assert "memory" in (await text(vm, "cat", controllers)).split()
    assert " /sys/kernel/debug debugfs " in await text(vm, "cat", "/proc/mounts")


# Held before it has its lock: Python alone takes longer to start than these commands.
HELD_AT_ITS_START = """
for try in 1 2 3 4 5 6 7 8; do
    systemctl restart giveback-agent
    pid=$(systemctl show -p MainPID --value giveback-agent)
    kill -STOP $pid
    said=$(giveback-agent status)
    kill -CONT $pid
    case "$said" in "agent     starting"*) echo starting; exit 0;; esac
done
echo "$said"
"""


async def a_service_that_starts_is_told(vm: LabVm) -> None:
    assert await text(vm, "sh", "-c", HELD_AT_ITS_START) == "starting"
    await wait_until_it_serves(vm)
    await text(vm, "systemctl", "stop", "giveback-agent")
    stopped = await vm.guest.exec("giveback-agent", "status")
    assert stopped.code == 3
    assert "does not run (start: systemctl start giveback-agent.service)" in stopped.text
    await text(vm, "systemctl", "start", "giveback-agent")


async def containers_run(vm: LabVm) -> None:
    for prefix in ((), AS_USER):
        await text(vm, *prefix, "podman", "import", "-q", CONTAINER_ARCHIVE, "localhost/lab")
        said = await text(vm, *prefix, *PODMAN_RUN, "sh", "-c", "echo in; ls /bin/busybox")
        assert said.splitlines() == ["in", "/bin/busybox"]
    driver = await text(vm, *AS_USER, "podman", "info", "--format", "{{.Store.GraphDriverName}}")
    assert driver == "overlay"


async def services_run(vm: LabVm) -> None:
    write = "dd if=/dev/zero of=/work/file bs=1M count=32 2>/dev/null"
    said = await text(
        vm, "systemd-run", "--wait", "--pipe", "--quiet", "--slice=machine.slice",
        "-p", "MemoryAccounting=yes", "sh", "-c", f"{write}; cat /proc/self/cgroup",
    )  # fmt: skip
    assert said.startswith("0::/machine.slice/run-")
    assert said.endswith(".service")
    query = ("runuser", "-u", "postgres", "--", "psql", "-Atc", "select 6 * 7")
    assert await text(vm, *query) == "42"
    assert vm.resident_bytes() > 32 * MIB


async def whole(series: str, accel: str) -> None:
    kernel = await asyncio.to_thread(kernel_from_packages, series)
    image = await asyncio.to_thread(build_distribution_image, kernel)
    emulator = await asyncio.to_thread(find_emulator, kernel.release)
    before = image.root_disk.stat()
    async with LabVm(VmSpec("debian", 1536 * MIB, 2, accel), image, emulator) as vm:
        assert await text(vm, "uname", "-r") == kernel.release
        await settled(vm)
        await agent_serves(vm)
        await a_service_that_starts_is_told(vm)
        await containers_run(vm)
        await services_run(vm)
    # The cached disk is unchanged: the guest's writes were discarded with it.
    assert image.root_disk.stat().st_mtime_ns == before.st_mtime_ns
    assert image.root_disk.stat().st_blocks == before.st_blocks


@pytest.mark.parametrize(
    "series", ["6.12", *(pytest.param(s, marks=MATRIX) for s in ("6.1", "7.3"))]
)
def test_it_settles_and_runs_what_users_run(series: str, accel: Accel) -> None:
    asyncio.run(whole(series, accel.name))


@MATRIX
def test_it_boots_without_the_agent(accel: Accel) -> None:
    async def bare() -> None:
        kernel = await asyncio.to_thread(kernel_from_packages, None)
        image = await asyncio.to_thread(build_distribution_image, kernel)
        emulator = await asyncio.to_thread(find_emulator, kernel.release)
        spec = VmSpec("bare", 1024 * MIB, 2, accel.name, kernel_arguments=WITHOUT_AGENT)
        async with LabVm(spec, image, emulator) as vm:
            await settled(vm)
            assert (await vm.guest.exec("systemctl", "is-active", "giveback-agent")).code != 0

    asyncio.run(bare())
