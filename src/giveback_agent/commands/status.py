"""Show what the agent sees, what it did, and what came of it."""

from __future__ import annotations

import time

from giveback_agent.cgroups import survey, table
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

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from giveback_agent.install.service_state import ServiceState
    from giveback_agent.policy.observation import Snapshot
    from giveback_agent.release.cache.cold_survey import CacheTerms
    from giveback_kernel.meminfo import MemInfo
    from giveback_kernel.page_reporting import ReportingState

# More of them would fill the screen.
PATTERNS_SHOWN = 8
RUNNING = "running"
# Who may have set the urgency: the host names itself, the guest's own are in service/host_need.py.
SETTERS = {
    "host": "the host",
    "reclaim": "`giveback reclaim` on the host",
    "manual": "an operator on the host",
    "command": "`giveback-agent urgency`",
    "signal": "SIGUSR1",
}
HELP = "what the agent sees, what it did, and what came of it"


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """`--json` for programs."""
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Print the status; returns 0 where an agent runs, 3 where none does (as `systemctl status`)."""
    import json

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
        shares = table.lines(survey.survey(args.root))
        shown = lines(pid, now, said, windows, reporting, cold_bytes, service)
        print("\n".join([*shown, *shares]))
    return 0 if pid is not None else 3


def read_status(root: str) -> dict[str, Any] | None:
    """What the agent last wrote, or None where there is nothing, or nothing that can be read."""
    import json

    try:
        said = json.loads(files.read(root, status_file.STATUS_PATH, run_dir.FILE_LIMIT_BYTES))
    except (KernelFileError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def terms(root: str, said: dict[str, Any] | None, memory: MemInfo) -> CacheTerms:
    """Return what decides how much a pass would take. `said`: the running agent's status."""
    if said is None:
        return cold_survey.terms_alone(root)
    return cold_survey.terms_of(said, time.monotonic(), memory)


def summary(now: Snapshot, said: dict[str, Any] | None = None) -> dict[str, object]:
    """The guest's memory by what could become of it, in bytes. `said`: the running agent's status."""
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
    """Return what is free in small blocks and was not reported by a pass of the agent's, at most."""
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
    """The status in words. `cold_bytes`: what a pass would take of the cache. `service`: where none runs."""
    memory = now.meminfo
    out = [f"agent     {f'runs, pid {pid}' if pid else service.words}"]
    if said is not None and pid is not None:
        out.append(
            f"          mode {said.get('mode')}, guest is {said.get('level')}, {_urgency_words(said)}"
        )
        out += _excluded_lines(said.get("exclude"))
    used, free = memory.non_free_bytes // MIB, memory.mem_free_bytes // MIB
    out.append(f"memory    {memory.mem_total_bytes // MIB} MiB: {used} in use, {free} free")
    out += [f"          {remark}" for remark in memory.remarks]
    alive = said if pid is not None else None
    out.append(f"free      {_free_words(now, reporting, alive)}")
    out.append(f"cache     {_cache_words(now, alive, cold_bytes)}")
    out.append(f"slab      {memory.s_reclaimable_bytes // MIB} MiB reclaimable")
    if windows is not None:
        out.append(f"windows   {windows}")
    return out + _busy_lines(alive) + _pass_lines(said)


def _urgency_words(said: dict[str, Any]) -> str:
    """Return the urgency, who set it, and for how long it still holds."""
    by, until_s = said.get("urgency_by"), said.get("urgency_until_s")
    words = f"urgency {said.get('urgency')}"
    if not isinstance(by, str) or not by or not isinstance(until_s, (int, float)):
        return f"{words} (the agent's own)"
    left_s = until_s - time.monotonic()
    if left_s <= 0:
        return f"{words} (its time is over)"
    return f"{words}, set by {SETTERS.get(by, 'the host')}, {left_s:.0f} s left"


def _cache_words(now: Snapshot, said: dict[str, Any] | None, cold_bytes: int) -> str:
    cache_mib, cold_mib = now.cache_bytes // MIB, cold_bytes // MIB
    words = f"{cache_mib} MiB, {cold_mib} of it not used lately: a pass takes that at most"
    learned = cold_survey.amount(said, "learned_floor_bytes")
    if learned:
        words += f"; {learned // MIB} MiB more look so, but were read again"
    floor = cold_survey.amount(said, "cache_floor_bytes")
    return f"{words}; {floor // MIB} MiB stay in any case" if floor else words


def _busy_lines(said: dict[str, Any] | None) -> list[str]:
    """Why a guest at work waits, and its next step; nothing in an idle one."""
    busy = said.get("busy") if said else None
    if not isinstance(busy, dict) or not isinstance(busy.get("next_s"), (int, float)):
        return []
    in_s = max(0.0, busy["next_s"] - time.monotonic())
    due = f"next {busy.get('next') or 'step'} in {in_s:.0f} s at the earliest"
    waits = f"; it waits: {busy['waits']}" if busy.get("waits") else ""
    freed_mib = cold_survey.amount(busy, "freed_bytes") // MIB
    return [
        f"at work   {due}{waits}",
        f"          {busy.get('steps')} steps so far: {freed_mib} MiB returned",
    ]


def _excluded_lines(exclude: object) -> list[str]:
    """What the agent takes nothing from."""
    if not isinstance(exclude, list) or not exclude:
        return []
    patterns = ", ".join([escape_for_terminal(str(one), 40) for one in exclude[:PATTERNS_SHOWN]])
    more = f" and {len(exclude) - PATTERNS_SHOWN} more" if len(exclude) > PATTERNS_SHOWN else ""
    return [f"          takes nothing from {patterns}{more}"]


def _free_words(now: Snapshot, reporting: ReportingState, said: dict[str, Any] | None) -> str:
    """What of the free memory goes back to the host; a number that is not known is not told."""
    why_not = why_not_reported(reporting.active)
    if reporting.active is False:
        return f"none of it is reported to the host: {why_not} ({reporting.evidence})"
    if now.reportable_bytes is None or now.trapped_bytes is None:
        return "in blocks that this user may not see"
    order = now.report_order
    words = f"{now.reportable_bytes // MIB} MiB in reported blocks (order {order} and above), "
    trapped = trapped_bytes(now, said)
    if trapped == now.trapped_bytes:
        words += f"{trapped // MIB} MiB trapped below"
    else:
        words += f"{now.trapped_bytes // MIB} MiB in smaller ones: all but {trapped // MIB} MiB reported, too"
    return f"{words}; {why_not}" if why_not else words


def _pass_lines(said: dict[str, Any] | None) -> list[str]:
    """The last passes. The file is the agent's own, but a status must not die of it."""
    recent = said.get("last_passes") if said else None
    steps, gained = (said.get(n) if said else 0 for n in ("slack_steps", "slack_bytes"))
    small = []
    if isinstance(steps, int) and isinstance(gained, int) and steps:
        small = [f"between   {steps} small steps in a guest at work: {gained // MIB} MiB freed"]
    if not isinstance(recent, list) or not recent:
        return ["passes    none yet", *small]
    out = [*small, f"passes    {said.get('passes') if said else 0} in all; the last:"]
    for one in recent[-3:]:
        try:
            freed = one["freed_bytes"] // MIB
            ago_s = time.monotonic() - one["started_s"]
            out.append(
                f"          {ago_s:.0f} s ago, {one['took_s']:.0f} s long, {one['end']}: {freed} MiB freed, "
                f"{one['small_after_bytes'] // MIB} MiB {_small_words(one)}, {one['cpu_s']:.1f} s of CPU"
            )
        except (KeyError, TypeError):
            continue
    return out


def _small_words(one: dict[str, Any]) -> str:
    """What a pass has left in small free blocks: in the words of the kernel log."""
    return (
        "in small pieces reported, too" if one["small_reported"] is True else "left in small pieces"
    )


def _windows(root: str, reporting: ReportingState) -> str | None:
    """Under WSL 2: what Windows says its VM holds, and whether reporting is missing; else None."""
    host = load.detect_wsl(root)
    if host is None:
        return None
    from giveback_agent.wsl import windows_view

    advice = windows_view.missing_advice(host, reporting)
    side = windows_view.windows_side(root, host)
    if side.process is None:
        told = f"its VM's memory is not known: {side.reason}"
    else:
        told = f"{side.process.name} holds {side.process.working_set_bytes // MIB} MiB"
    return f"{told}; {advice}" if advice else told
