"""A new operator's day with two live VMs, one without an agent: every command, as its user runs it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from giveback_lab.vms.agent import AgentLog, start_agent
from giveback_lab.vms.vm import LabVm, VmSpec

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from giveback_lab.vms.accel import Accel
    from giveback_lab.vms.lab import Lab

MIB = 1 << 20
DEADLINE_S = 120.0
RAM_BYTES = 512 * MIB
# Cache that was written and read once: clean, and cold.
WORK = "dd if=/dev/urandom of=/work/a bs=1M count=180; sync; cat /work/a > /dev/null"


@dataclass(frozen=True)
class Said:
    """What one command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:  # noqa: ANN401  # a JSON document
        assert self.out, self
        return json.loads(self.out)


@dataclass
class Day:
    """The commands, and what each said."""

    settings: Path
    web: str
    db: str
    said: dict[str, Said] = field(default_factory=dict)

    async def run(self, name: str, *words: str) -> Said:
        """Run a command as its user does; it finds this day's daemon by its socket."""
        socket = str(self.settings.parent / "run/api.sock")
        argv = [sys.executable, "-m", "giveback", *words, "--socket", socket]
        child = await asyncio.create_subprocess_exec(*argv, stdout=-1, stderr=-1)
        out, err = await asyncio.wait_for(child.communicate(), DEADLINE_S)
        self.said[name] = Said(child.returncode or 0, out.decode(), err.decode())
        return self.said[name]

    async def until(self, condition: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the daemon's status is so."""
        end_s = time.monotonic() + DEADLINE_S
        said = await self.run("waited for", "status", "--json")
        while said.code or not condition(said.document):
            assert time.monotonic() < end_s, said
            await asyncio.sleep(0.5)
            said = await self.run("waited for", "status", "--json")

    def vm(self, name: str, pid: str) -> dict[str, Any]:
        """One VM of what a command said as JSON."""
        document = self.said[name].document
        vms = document["vms"] if isinstance(document, dict) else document
        found: dict[str, Any] = next(vm for vm in vms if vm["pid"] == int(pid))
        return found


@contextlib.asynccontextmanager
async def daemon(day: Day, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """A daemon that leaves all but this day's VMs alone."""
    argv = [sys.executable, "-m", "giveback", "daemon", "--settings", str(day.settings)]
    # The place where every command looks is of this test, too.
    environment = {**os.environ, "RUNTIME_DIRECTORY": str(folder / "known")}
    with (folder / "daemon.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(*argv, stderr=log, env=environment)
    try:
        yield child
    finally:
        with contextlib.suppress(ProcessLookupError):
            child.terminate()
        await child.wait()


def settings_of(folder: Path, name: str, more: str = "") -> str:
    return (
        f'[daemon]\nsocket = "{folder}/run/api.sock"\nstate = "{folder}/state"\n'
        f'[vm."*"]\nignore = true\n[vm."giveback-{name}-*"]\nignore = false\n{more}'
    )


async def without_a_daemon(day: Day) -> None:
    await day.run("explain web", "explain", day.web)
    # At once again: the agent answers later, and is there.
    await day.run("doctor web", "doctor", day.web)
    await day.run("doctor db", "doctor", day.db, "--json")
    await day.run("explain db", "explain", day.db)
    await day.run("statistics", "enable", day.db, "--statistics")
    await day.run("doctor db again", "doctor", day.db, "--json")


async def exact_pages(day: Day) -> None:
    """Count pages by way of the daemon: again only while another test's `ps` holds the port."""
    for _ in range(5):
        await day.until(lambda s: any(vm["condition"] == "ok" for vm in s["vms"]))
        said = await day.run("exact", "explain", "--exact", day.web, "--json")
        if said.code == 0 or not ("another program" in said.err or "no agent answers" in said.err):
            return


async def with_a_daemon(day: Day, folder: Path, name: str, web: LabVm) -> None:
    async with daemon(day, folder) as process:
        await day.until(lambda s: any(vm["condition"] == "ok" for vm in s["vms"]))
        # Now: a guest that hears that memory is plenty keeps it.
        await web.guest.exec("sh", "-c", WORK)
        await day.until(lambda s: any((vm["cold_bytes"] or 0) > 60 * MIB for vm in s["vms"]))
        await day.run("status", "status", day.web, day.db, "--json")
        await day.run("ps", "ps", day.web, day.db, "--json")
        await day.run("reclaim db", "reclaim", "20M", "--from", day.db)
        await exact_pages(day)
        # At once after an answer that costs the guest much: its agent is asked for its memory again.
        await day.run("dry run", "reclaim", "40M", "--from", day.web, "--dry-run", "--json")
        await day.run("reclaim", "reclaim", "40M", "--from", day.web, "--within", "90s", "--json")
        await day.run("status after", "status", day.web, "--json")
        day.settings.write_text(settings_of(folder, name, '[host]\non_calm = "cold"\n'))
        process.send_signal(1)
        await day.until(lambda s: s["decision"]["calm_urgency"] == 1)
        day.settings.write_text(settings_of(folder, name, '[host]\nshort = "lots"\nfoo = 1\n'))
        process.send_signal(1)
        await day.until(lambda s: len(s["problems"]) > 2)
        await day.run("status with problems", "status", day.web)
        day.settings.write_text(settings_of(folder, name))
        await day.run("history", "history", "--json")


@pytest.fixture(scope="module")
def day(lab: Lab, accel: Accel, tmp_path_factory: pytest.TempPathFactory) -> Day:
    folder = tmp_path_factory.mktemp("day")
    name = f"day{os.getpid()}"

    async def go() -> Day:
        web = LabVm(VmSpec(f"{name}-web", RAM_BYTES, 1, accel.name), lab.image, lab.emulator)
        db = LabVm(
            VmSpec(f"{name}-db", RAM_BYTES, 1, accel.name, agent_port=False),
            lab.image,
            lab.emulator,
        )
        async with web, db:
            for vm in (web, db):
                await vm.qmp.disconnect()
            await start_agent(web, AgentLog().take)
            found = Day(folder / "giveback.toml", str(web.pid), str(db.pid))
            found.settings.write_text(settings_of(folder, name))
            await without_a_daemon(found)
            await with_a_daemon(found, folder, name, web)
        return found

    return asyncio.run(go())


def test_an_agent_that_was_asked_a_moment_before_is_not_called_missing(day: Day) -> None:
    doctor = day.said["doctor web"]
    assert "no giveback-agent" not in doctor.out
    assert doctor.code == 0


def test_a_guest_without_an_agent_leads_to_the_lines_that_install_it(day: Day) -> None:
    assert day.said["doctor db"].code == 1
    first = day.said["doctor db"].document[0]["findings"][0]
    assert "no giveback-agent in this guest" in first["what"]
    assert first["commands"][-1].endswith(
        "--agent-port --yes     # the host asks it through this port"
    )
    assert "no giveback-agent in this guest: install it" in day.said["explain db"].out
    assert any("polling is off" in f["what"] for f in day.said["doctor db"].document[0]["findings"])
    assert day.said["statistics"].code == 0
    after = day.said["doctor db again"].document[0]["findings"]
    assert not any("polling" in finding["what"] for finding in after)


def test_every_amount_lies_within_what_there_is(day: Day) -> None:
    for name in ("status", "ps"):
        for vm in (day.vm(name, day.web), day.vm(name, day.db)):
            amounts = {key: value for key, value in vm.items() if key.endswith("_bytes")}
            assert all(value is None or value >= 0 for value in amounts.values()), amounts
            most = max(vm["resident_bytes"], 0)
            for key in ("residue_bytes", "in_use_bytes", "cache_bytes", "returnable_bytes"):
                assert (vm[key] or 0) <= most <= RAM_BYTES, (key, vm)
            assert vm["charged_bytes"] >= vm["resident_bytes"] + vm["own_bytes"] - MIB
    web, db = day.vm("status", day.web), day.vm("status", day.db)
    assert (web["condition"], db["condition"]) == ("ok", "no agent")
    assert f"giveback doctor {db['name']} says how to install it" in db["condition_text"]


def test_pages_are_counted_by_way_of_the_daemon(day: Day) -> None:
    assert day.said["exact"].code == 0, day.said["exact"]
    exact = day.said["exact"].document["exact"]
    assert exact["ram_bytes"] == RAM_BYTES
    rows = {row["label"]: row for row in exact["rows"]}
    assert rows["anonymous"]["resident_bytes"] > MIB
    assert day.vm("ps", day.web)["guest"]["source"] == "agent"


def test_reclaim_frees_what_it_said_and_is_recorded_once(day: Day) -> None:
    assert day.said["reclaim db"].code == 5
    assert day.said["dry run"].document["most_bytes"] >= 40 * MIB
    reclaim = day.said["reclaim"]
    assert (reclaim.code, reclaim.document["reached"]) == (0, True), reclaim
    # Nothing is awaited once it has ended, and its record names who was asked.
    (after,) = day.said["status after"].document["vms"]
    actions = day.said["status after"].document["actions"]
    asks = [action for action in actions if action["kind"] == "ask"]
    assert asks
    assert all(action["measured_bytes"] is not None for action in asks)
    assert [action["reason"] for action in actions if action["kind"] == "reclaim"] == [
        f"asked of {after['key']}"
    ]
    actions = day.said["history"].document["actions"]
    (one,) = [action for action in actions if action["kind"] == "reclaim"]
    assert one["expected_bytes"] == 40 * MIB
    assert one["measured_bytes"] >= 39 * MIB


def test_settings_that_are_wrong_are_a_problem_each(day: Day) -> None:
    shown = day.said["status with problems"].out
    for line in ("host.short: must be", "host.foo: there is no such setting"):
        assert f"settings: {line}" in shown
