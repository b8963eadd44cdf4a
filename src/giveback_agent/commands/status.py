"""Show this guest's memory, the agent's state, and what its last passes freed."""

from __future__ import annotations

import time

from giveback_agent.cgroups import survey, table
from giveback_agent.commands import _live
from giveback_agent.errors import AgentError
from giveback_agent.install import service_state
from giveback_agent.policy.observation import why_not_reported
from giveback_agent.release.cache import cold_survey
from giveback_agent.release.observe import take
from giveback_agent.runtime import run_dir
from giveback_agent.service import status_file
from giveback_agent.service.pass_log import MIB
from giveback_agent.settings import load
from giveback_kernel import buddyinfo, files, page_reporting
from giveback_kernel.errors import KernelFileError
from giveback_kernel.escaping import escape_for_terminal
from giveback_kernel.record import as_dict
from giveback_kernel.units import span

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from giveback_agent.install.service_state import ServiceState
    from giveback_agent.policy.observation import Snapshot
    from giveback_agent.release.cache.cold_survey import CacheTerms
    from giveback_kernel.meminfo import MemInfo
    from giveback_kernel.page_reporting import ReportingState

# More excluded patterns would fill the screen.
PATTERNS_SHOWN = 8
LEAST_S, MOST_S = 0.1, 86400.0
CLEAR = "\033[H\033[2J"
RUNNING = "running"
# The setters of an urgency: those of the host name themselves, the guest's are in service/host_need.py.
SETTERS = {
    "host": "the host",
    "reclaim": "`giveback reclaim` on the host",
    "manual": "an operator on the host",
    "command": "`giveback-agent urgency`",
    "signal": "SIGUSR1",
}
# The levels of the idleness detector (policy/activity/idleness.py) in words.
LEVELS = {"busy": "busy", "slack": "busy, with spare CPU", "idle": "idle"}
HELP = "show this guest's memory, the agent's state, and its last passes"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add this command's options."""
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        nargs="?",
        const="2",
        help="show needed, cache, trapped and returned memory and the running pass again every SECONDS (2)",
    )


def run(args: argparse.Namespace) -> int:
    """Print the status; return 0 if an agent runs, else 3 (as `systemctl status` does)."""
    import json

    if args.watch is not None:
        return _watch(args)
    try:
        now = take(args.root, time.monotonic(), detail=True)
    except KernelFileError as error:
        raise AgentError(f"{error}: is /proc mounted?") from error
    pid = run_dir.running_pid(args.root)
    service = service_state.NOT_INSTALLED if pid else service_state.read(args.root)
    said = read_status(args.root)
    reporting = page_reporting.probe(args.root)
    windows = _windows(args.root, reporting)
    by_terms = terms(args.root, said if pid else None, now.meminfo)
    cold_bytes = cold_survey.would_take_bytes(args.root, by_terms, now.meminfo)
    if args.json:
        guest = {
            **summary(now, said if pid else None),
            "reporting": reporting.active,
            "why": reporting.evidence,
        }
        guest["cold_cache_bytes"] = cold_bytes
        guest["learned_floor_bytes"] = by_terms.learned_floor_bytes
        guest["cache_floor_bytes"] = by_terms.cache_floor_bytes
        guest["cgroups"] = table.document(survey.survey(args.root))
        report = {
            "running_pid": pid,
            "state": RUNNING if pid else service.state,
            "guest": guest,
            "agent": said,
            "windows": windows,
        }
        print(json.dumps(report, indent=1))
    else:
        cgroups = table.lines(survey.survey(args.root))
        shown = lines(pid, now, said, windows, reporting, cold_bytes, service)
        print("\n".join([*shown, *cgroups]))
    return 0 if pid is not None else 3


def _watch(args: argparse.Namespace) -> int:
    """Show the memory and the running pass until stopped; with --json one object a line."""
    import json
    import sys

    every_s = _span_of(args.watch)
    while True:
        now, said, pid, reporting = _seen(args.root)
        if args.json:
            print(json.dumps(live_document(now, said, pid, reporting), separators=(",", ":")))
        else:
            if sys.stdout.isatty():
                print(CLEAR, end="")
            print("\n".join(live_lines(now, said, pid, reporting)))
        sys.stdout.flush()
        time.sleep(every_s)


def _span_of(text: str) -> float:
    """Return the seconds of --watch. Raises AgentError that says what is allowed."""
    try:
        every_s = float(text)
    except ValueError:
        every_s = 0.0
    # A number that is not finite fails both comparisons.
    if LEAST_S <= every_s <= MOST_S:
        return every_s
    shown = escape_for_terminal(text, 40)
    raise AgentError(f"--watch {shown!r}: must be seconds from {LEAST_S:g} to {MOST_S:g}")


def _seen(root: str) -> tuple[Snapshot, dict[str, Any] | None, int | None, ReportingState]:
    """Read what --watch shows. Raises AgentError."""
    try:
        now = take(root, time.monotonic(), detail=True)
    except KernelFileError as error:
        raise AgentError(f"{error}: is /proc mounted?") from error
    return now, read_status(root), run_dir.running_pid(root), page_reporting.probe(root)


def live_lines(
    now: Snapshot, said: dict[str, Any] | None, pid: int | None, reporting: ReportingState
) -> list[str]:
    """Return the guest's four parts, the running pass with its steps, and why the next step waits."""
    alive = said if pid is not None else None
    found = _parts(now, alive, reporting)
    out = _live.parts_lines(found, now.meminfo.mem_total_bytes)
    why_not = why_not_reported(reporting.active)
    if why_not:
        out.append(f"          {why_not}")
    if alive is None:
        return [*out, "agent     does not run"]
    level = LEVELS.get(str(alive.get("level")), "?")
    mode = escape_for_terminal(str(alive.get("mode")), 20)
    out.append(f"agent     pid {pid}, mode {mode}, guest is {level}, {_urgency_words(alive)}")
    out += _live.pass_lines(alive.get("pass"), time.monotonic())
    return out + _busy_lines(alive) + _pass_lines(alive)


def live_document(
    now: Snapshot, said: dict[str, Any] | None, pid: int | None, reporting: ReportingState
) -> dict[str, object]:
    """Return the same as one object, in bytes."""
    alive = said if pid is not None else None
    needed, cache, trapped, returned = _parts(now, alive, reporting)
    return {
        "wall_s": time.time(),
        "running_pid": pid,
        "mem_total_bytes": now.meminfo.mem_total_bytes,
        "needed_bytes": needed,
        "cache_bytes": cache,
        "trapped_bytes": trapped,
        "returned_bytes": returned,
        "pass": alive.get("pass") if alive else None,
        "busy": alive.get("busy") if alive else None,
        "urgency": alive.get("urgency") if alive else None,
    }


def _parts(
    now: Snapshot, said: dict[str, Any] | None, reporting: ReportingState
) -> tuple[int, int, int | None, int | None]:
    trapped = None if now.trapped_bytes is None else trapped_bytes(now, said)
    return _live.parts(now, trapped, reporting.active)


def read_status(root: str) -> dict[str, Any] | None:
    """Read the agent's status file; return None if it does not exist or is not valid."""
    import json

    try:
        said = json.loads(files.read(root, status_file.STATUS_PATH, run_dir.FILE_LIMIT_BYTES))
    except (KernelFileError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def terms(root: str, said: dict[str, Any] | None, memory: MemInfo) -> CacheTerms:
    """Return the limits of a pass. `said`: the status of the running agent, None without one."""
    if said is None:
        return cold_survey.terms_alone(root)
    return cold_survey.terms_of(said, time.monotonic(), memory)


def summary(now: Snapshot, said: dict[str, Any] | None = None) -> dict[str, object]:
    """Return the guest's memory by use, in bytes. `said`: the status of the running agent."""
    memory = now.meminfo
    return {
        "mem_total_bytes": memory.mem_total_bytes,
        "remarks": list(memory.remarks),
        "non_free_bytes": memory.non_free_bytes,
        "free_bytes": memory.mem_free_bytes,
        "reportable_bytes": now.reportable_bytes,
        "small_free_bytes": now.trapped_bytes,
        "trapped_bytes": None if now.trapped_bytes is None else trapped_bytes(now, said),
        "report_order": now.report_order,
        "cache_bytes": now.cache_bytes,
        "cold_cache_bytes": now.cold_cache_bytes,
        "slab_reclaimable_bytes": memory.s_reclaimable_bytes,
        "dirty_bytes": memory.dirty_bytes,
        "anon_bytes": memory.anon_pages_bytes,
        "free_by_order": None if now.buddy is None else list(buddyinfo.by_order(now.buddy)),
        "vmstat": None if now.vmstat is None else as_dict(now.vmstat),
    }


def trapped_bytes(now: Snapshot, said: dict[str, Any] | None) -> int:
    """Return the bytes in small free blocks that no pass has reported; an upper limit."""
    reported = cold_survey.amount(said, "small_reported_bytes")
    return max(0, (now.trapped_bytes or 0) - reported)


def lines(
    pid: int | None,
    now: Snapshot,
    said: dict[str, Any] | None,
    windows: str | None,
    reporting: ReportingState,
    cold_bytes: int = 0,
    service: ServiceState = service_state.NOT_INSTALLED,
) -> list[str]:
    """Return the lines of the status.

    `cold_bytes`: the cache that a pass would reclaim. `service`: its state if no agent runs.
    """
    memory = now.meminfo
    out = [f"agent     {f'runs, pid {pid}' if pid else service.words}"]
    if said is not None and pid is not None:
        out.append(
            f"          mode {said.get('mode')}, guest is {_level_words(said)}, {_urgency_words(said)}"
        )
        out += _excluded_lines(said.get("exclude"))
    # As on the host, "in use" leaves out the cache.
    in_use, cache = (memory.non_free_bytes - now.cache_bytes) // MIB, now.cache_bytes // MIB
    total, free = memory.mem_total_bytes // MIB, memory.mem_free_bytes // MIB
    out.append(f"memory    {total} MiB: {max(0, in_use)} in use, {cache} cache, {free} free")
    out += [f"          {remark}" for remark in memory.remarks]
    alive = said if pid is not None else None
    out.append(f"free      {_free_words(now, reporting, alive)}")
    out.append(f"cache     {_cache_words(now, alive, cold_bytes)}")
    out.append(f"slab      {memory.s_reclaimable_bytes // MIB} MiB reclaimable")
    if windows is not None:
        out.append(f"windows   {windows}")
    return out + _busy_lines(alive) + _pass_lines(said)


def _level_words(said: dict[str, Any]) -> str:
    level = str(said.get("level"))
    return LEVELS.get(level, escape_for_terminal(level, 40))


def _urgency_words(said: dict[str, Any]) -> str:
    """Describe the urgency: its value, who set it, and for how long it still holds."""
    by, until_s = said.get("urgency_by"), said.get("urgency_until_s")
    words = f"urgency {said.get('urgency')}"
    if not isinstance(by, str) or not by or not isinstance(until_s, (int, float)):
        return f"{words} (the agent's own)"
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        return f"{words} (its time is over)"
    return f"{words}, set by {SETTERS.get(by, 'the host')}, {span(round(left_s))} left"


def _cache_words(now: Snapshot, said: dict[str, Any] | None, cold_bytes: int) -> str:
    cache_mib, cold_mib = now.cache_bytes // MIB, cold_bytes // MIB
    words = f"{cache_mib} MiB, {cold_mib} of it not used lately: a pass reclaims at most that"
    learned = cold_survey.amount(said, "learned_floor_bytes")
    if learned:
        words += f"; {learned // MIB} MiB more seem unused, but similar pages were read again"
    floor = cold_survey.amount(said, "cache_floor_bytes")
    return f"{words}; {floor // MIB} MiB always stay (cacheFloor)" if floor else words


def _busy_lines(said: dict[str, Any] | None) -> list[str]:
    """Describe the next small step in a busy guest, and why it waits; nothing in an idle guest."""
    busy = said.get("busy") if said else None
    if not isinstance(busy, dict) or not isinstance(busy.get("next_s"), (int, float)):
        return []
    in_s = max(0.0, busy["next_s"] - time.monotonic())
    due = (
        f"next step: {busy.get('next') or 'not chosen yet'}, in {span(round(in_s))} at the earliest"
    )
    waits = f"; why not sooner: {busy['waits']}" if busy.get("waits") else ""
    freed_mib = cold_survey.amount(busy, "freed_bytes") // MIB
    return [
        f"busy      {due}{waits}",
        f"          {busy.get('steps')} small steps so far: {freed_mib} MiB returned",
    ]


def _excluded_lines(exclude: object) -> list[str]:
    """Return the line about excluded cgroups."""
    if not isinstance(exclude, list) or not exclude:
        return []
    patterns = ", ".join([escape_for_terminal(str(one), 40) for one in exclude[:PATTERNS_SHOWN]])
    more = f" and {len(exclude) - PATTERNS_SHOWN} more" if len(exclude) > PATTERNS_SHOWN else ""
    return [f"          excluded from reclaim: {patterns}{more}"]


def _free_words(now: Snapshot, reporting: ReportingState, said: dict[str, Any] | None) -> str:
    """Describe which free memory goes back to the host, without numbers that are not known."""
    why_not = why_not_reported(reporting.active)
    if reporting.active is False:
        return f"none of it is reported to the host: {why_not} ({reporting.evidence})"
    if now.reportable_bytes is None or now.trapped_bytes is None:
        return "this user may not read the sizes of free blocks: run this as root"
    order = now.report_order
    words = f"{now.reportable_bytes // MIB} MiB in reported blocks (order {order} and above), "
    words += f"{now.trapped_bytes // MIB} MiB in small free blocks"
    trapped = trapped_bytes(now, said)
    if trapped != now.trapped_bytes:
        words += f" (all but {trapped // MIB} MiB of them reported by a pass)"
    return f"{words}; {why_not}" if why_not else words


def _pass_lines(said: dict[str, Any] | None) -> list[str]:
    """Describe the last passes. Invalid values in the status file must not end the command."""
    recent = said.get("last_passes") if said else None
    steps, freed = (said.get(n) if said else 0 for n in ("slack_steps", "slack_bytes"))
    small = []
    if isinstance(steps, int) and isinstance(freed, int) and steps:
        small = [f"between   {steps} small steps in the busy guest: {freed // MIB} MiB freed"]
    if not isinstance(recent, list) or not recent:
        return ["passes    none yet", *small]
    out = [*small, f"passes    {said.get('passes') if said else 0} in all; the last:"]
    for one in recent[-3:]:
        try:
            freed = one["freed_bytes"] // MIB
            ago, took = span(round(time.monotonic() - one["started_s"])), span(round(one["took_s"]))
            cpu = span(round(one["cpu_s"], 1))
            pieces = f"{one['small_after_bytes'] // MIB} MiB {_small_words(one)}"
            out.append(
                f"          {ago} ago, {took} long, {one['end']}: {freed} MiB freed, {pieces}, {cpu} of CPU"
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            continue
    return out


def _small_words(one: dict[str, Any]) -> str:
    """Describe the memory in small free blocks after a pass, in the words of the kernel log."""
    return (
        "in small blocks also reported"
        if one["small_reported"] is True
        else "left in small free blocks"
    )


def _windows(root: str, reporting: ReportingState) -> str | None:
    """Describe, under WSL 2, the VM's memory by Windows' count and a lack of reporting; else None."""
    host = load.detect_wsl(root)
    if host is None:
        return None
    from giveback_agent.wsl import windows_view

    advice = windows_view.missing_advice(host, reporting)
    side = windows_view.windows_side(root, host)
    if side.process is None:
        memory = f"the VM's memory on Windows is not known: {side.reason}"
    else:
        memory = f"{side.process.name} holds {side.process.working_set_bytes // MIB} MiB"
    return f"{memory}; {advice}" if advice else memory
