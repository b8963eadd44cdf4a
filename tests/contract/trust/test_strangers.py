"""A root process on a host with strangers: a command line is trusted only about its own process's sockets."""

from __future__ import annotations

import asyncio
import json
import subprocess
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from strangers import MALLORY, VICTIM, Stranger, connected_to, needs_root, open_folder, stranger

from giveback.cli import main
from giveback.errors import VmError
from giveback.host.procs import own_path, start_ticks
from giveback.manager.devices.fallback import Fallbacks
from giveback.manager.devices.leases import LeaseStore
from giveback.manager.model import ActionKind, Lease
from giveback.manager.settings.load import from_bytes
from giveback.vmm.clients.qmp import monitor
from giveback.vmm.control.address import control_of
from giveback.vmm.find import choose, find

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(needs_root(), reason="only root can be several users")

QEMU = "/opt/qemu-system-x86_64"
PORT = ["-device", "virtserialport,chardev=c,name=org.giveback.agent.0"]
GUEST_AGENT = ["-device", "virtserialport,chardev=g,name=org.qemu.guest_agent.0"]


def qemu(name: str, monitor: str, agent: str = "", guest_agent: str = "") -> list[str]:
    """Return the command line of a QEMU with these sockets."""
    words = [QEMU, "-m", "64M", "-name", name, "-qmp", f"{monitor},server=on,wait=off"]
    if agent:
        words += ["-chardev", f"socket,id=c,path={agent},server=on,wait=off", *PORT]
    if guest_agent:
        words += ["-chardev", f"socket,id=g,path={guest_agent},server=on,wait=off", *GUEST_AGENT]
    return words


@pytest.fixture
def folder() -> Iterator[Path]:
    with open_folder() as found:
        yield found


@pytest.fixture
def victim(folder: Path) -> Iterator[Stranger]:
    """A process of another user, whose sockets only that user may open. It is not a VMM."""
    listen = (f"{folder}/q", f"{folder}/a", "@giveback-victim", "tcp")
    with stranger(folder / "victim.log", ["database"], uid=VICTIM, listen=listen) as found:
        yield found


def mallorys(name: str) -> str:
    """Return root's name of a VM of the user MALLORY."""
    return f"{name}@uid{MALLORY}"


def shown(capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    """Return the rows of root's `giveback ps` by name."""
    capsys.readouterr()
    assert main(["ps", "--json"]) == 0
    return {vm["name"]: vm for vm in json.loads(capsys.readouterr().out)}


def test_nothing_is_sent_to_a_socket_that_a_stranger_names(
    folder: Path, victim: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stranger names another user's monitor, port, TCP service and abstract socket, for each VMM."""
    (folder / "link").symlink_to(folder / "q")
    (folder / "hard").hardlink_to(folder / "q")
    assert not connected_to(victim.port)
    theirs = f"{folder}/q"
    fakes = {
        "qmp": qemu("qmp", f"unix:{theirs}", f"{folder}/a"),
        "link": qemu("link", f"unix:{folder}/link"),
        "hard": qemu("hard", f"unix:{folder}/hard"),
        "guest-agent": qemu("guest-agent", "unix:/none", guest_agent=f"{folder}/a"),
        "tcp": qemu("tcp", f"tcp:127.0.0.1:{victim.port}"),
        "any": qemu("any", f"tcp::{victim.port}"),
        "abstract": qemu("abstract", "unix:giveback-victim,abstract=on"),
        "vsock": [*qemu("vsock", "unix:/none"), "-device", "vhost-vsock-pci,guest-cid=4000000"],
        "fc": ["firecracker", "--id", "fc", f"--api-sock={theirs}"],
        "ch": ["cloud-hypervisor", "--memory", "size=64M", "--api-socket", theirs,
               "--vsock", f"cid=3,socket={folder}/a"],
    }  # fmt: skip
    with ExitStack() as stack:
        # It also has a socket of its own, which proves nothing about others.
        for name, words in fakes.items():
            own = (f"{folder}/own-{name}", "tcp")
            log = folder / f"{name}.log"
            stack.enter_context(stranger(log, words, uid=MALLORY, listen=own))
        seen = shown(capsys)
    assert victim.heard == ""
    assert not connected_to(victim.port)
    for name in fakes.keys() - {"ch"}:
        assert seen[mallorys(name)]["problems"], name
    assert "does not listen there" in str(seen[mallorys("qmp")]["problems"])
    assert "does not have /dev/vhost-vsock open" in str(seen[mallorys("vsock")]["problems"])


def test_no_symbolic_link_leads_out_of_a_strangers_root(
    folder: Path, victim: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "jail").mkdir()
    (folder / "jail/q").symlink_to(folder / "q")
    (folder / "jail/up").symlink_to("../../../../../.." + str(folder / "q"))
    with (
        stranger(folder / "1", qemu("one", "unix:/q"), uid=MALLORY, jail=f"{folder}/jail"),
        stranger(folder / "2", qemu("two", "unix:/up"), uid=MALLORY, jail=f"{folder}/jail"),
    ):
        seen = shown(capsys)
    assert victim.heard == ""
    assert all("no such socket" in str(seen[mallorys(name)]["problems"]) for name in ("one", "two"))


def test_two_containers_with_the_same_path_are_distinguished(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each has a root of its own, and one of them a network namespace of its own."""
    with ExitStack() as stack:
        both = []
        for name in ("one", "two"):
            jail = folder / name
            jail.mkdir()
            jail.chmod(0o777)
            found = stranger(
                folder / f"{name}.log", qemu(name, "unix:/q"), uid=VICTIM, listen=("/q",),
                jail=str(jail), own_network=name == "two",
            )  # fmt: skip
            both.append(stack.enter_context(found))
        seen = shown(capsys)
    for name, one in zip(("one", "two"), both, strict=True):
        assert one.heard.count("connected") == 1, name
        assert "query-status" in one.heard
        assert not any("/q" in str(problem) for problem in seen[name]["problems"]), name  # type: ignore[attr-defined]


def test_a_separate_network_namespace_gives_no_access_to_others_sockets(
    folder: Path, victim: Stranger, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sockets of another namespace are not in our list, so that the list alone cannot refuse them."""
    with (
        stranger(folder / "v", ["other"], uid=VICTIM, listen=(f"{folder}/far",), own_network=True)
        as far,
        stranger(
            folder / "1", qemu("near", f"unix:{folder}/q"), uid=MALLORY,
            listen=(f"{folder}/own",), own_network=True,
        ),
        stranger(folder / "2", qemu("far", f"unix:{folder}/far"), uid=MALLORY, own_network=True),
    ):  # fmt: skip
        seen = shown(capsys)
        assert far.heard == ""
    assert victim.heard == ""
    assert seen[mallorys("near")]["problems"]
    assert seen[mallorys("far")]["problems"]


def test_a_name_belongs_to_its_owner(folder: Path) -> None:
    """A second db-1 gets neither the settings nor the place of the first, whichever started first."""
    words = qemu("db-1", f"unix:{folder}/q")
    settings = from_bytes(b'[vm."db-1"]\nignore = true\n[vm."db-*"]\nweight = 2\n', "test")
    with (
        stranger(folder / "1", words, uid=MALLORY) as fake,
        stranger(folder / "2", words, uid=VICTIM) as real,
        stranger(folder / "3", qemu("only mallory's", "unix:/none"), uid=MALLORY) as other,
        stranger(folder / "4", qemu(str(real.pid), "unix:/none"), uid=MALLORY),
    ):
        vms = find()
        names = {vm.pid: vm.name for _, vm in vms}
        assert names[fake.pid] == mallorys("db-1")
        assert choose(vms, "db-1")[1].pid == real.pid
        assert choose(vms, str(real.pid))[1].pid == real.pid
        assert choose(vms, mallorys("db-1"))[1].pid == fake.pid
        assert choose(vms, "only mallory's")[1].pid == other.pid
    assert settings.for_vm(names[real.pid]).ignore
    assert not settings.for_vm(names[fake.pid]).ignore
    assert settings.for_vm(names[fake.pid]).weight == 2, "a pattern speaks of any user's"


def test_a_lease_belongs_to_the_process_that_has_the_monitor(
    folder: Path, victim: Stranger
) -> None:
    """A fake's lease moves no other VM's balloon; a live VM's lease is given back even if it was renamed."""
    monitor = f"{folder}/q"

    def kept(pid: int, name: str) -> Fallbacks:
        state = folder / f"state-{pid}"
        ticks = start_ticks("/", pid)
        assert ticks is not None
        lease = Lease(
            vm=f"qemu:{name}:{pid}", pid=pid, start_ticks=ticks, device=ActionKind.BALLOON,
            control=f"qemu:{own_path('/', pid, monitor)}", before_bytes=64 << 20,
            target_bytes=32 << 20, wall_s=0.0,
        )  # fmt: skip
        LeaseStore(state).put(lease)
        return Fallbacks(state)

    with stranger(folder / "fake", qemu("db-7", f"unix:{monitor}"), uid=MALLORY) as fake:
        fakes = kept(fake.pid, "db-7")
        asyncio.run(fakes.recover())
        assert victim.heard == ""
        assert "does not listen there" in str(fakes.problems)
        ((_, vm),) = [one for one in find() if one[1].pid == fake.pid]
        with pytest.raises(VmError, match="does not listen there"):
            asyncio.run(control_of(vm, "").set_balloon(32 << 20))
    asyncio.run(fakes.recover())
    assert victim.heard == ""
    asyncio.run(kept(victim.pid, "a-name-of-before").recover())
    assert '"execute":"balloon","arguments":{"value":67108864}' in victim.heard


def test_a_name_in_argv0_does_not_make_a_vm() -> None:
    with subprocess.Popen(["/opt/qemu-system-x86_64", "60"], executable="/bin/sleep") as child:
        try:
            assert all(vm.pid != child.pid for _, vm in find())
        finally:
            child.kill()


def test_a_vms_own_sockets_of_every_kind_are_reached(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = (f"{folder}/q", "@giveback-own", "tcp")
    with stranger(folder / "log", ["qemu-kvm"], uid=VICTIM, listen=own) as vm:
        (folder / "link").symlink_to("q")
        for address in (
            f"{folder}/q",
            f"{folder}/link",
            "@giveback-own",
            f"nowhere.invalid:{vm.port}",
        ):
            before = vm.log.read_text().count("qmp_capabilities")

            async def ask(address: str = address) -> None:
                async with monitor(address, vm.pid, 10) as session:
                    assert await session.ask("query-status") is None

            asyncio.run(ask())
            assert vm.log.read_text().count("qmp_capabilities") > before
    capsys.readouterr()
    assert all(found.pid != vm.pid for _, found in find())
