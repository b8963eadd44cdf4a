"""The service's status file: its fields about the guest and about passes."""

from __future__ import annotations

from giveback_agent.host_link.json_lines import encode
from giveback_agent.policy.activity import idleness
from giveback_agent.policy.observation import NO_METHOD, URGENCY_ALONE
from giveback_agent.runtime import run_dir

TYPE_CHECKING = False
if TYPE_CHECKING:
    from giveback_agent.policy.activity.idleness import Activity
    from giveback_agent.policy.adaptive import PolicyState
    from giveback_agent.policy.busy_steps import BusySteps
    from giveback_agent.policy.observation import Snapshot
    from giveback_agent.service.pass_log import PassLog, PassRecord
    from giveback_agent.settings.table import AgentSettings

MIB = 1 << 20
# The host's urgency and the guest's level may change at every sample; the file is written no more often.
URGENCY_PUBLISH_S = 1.0
LEVEL_PUBLISH_S = 30.0
JUDGED_GRAIN_BYTES = 16 * MIB
STATUS_PATH = run_dir.FOLDER + "/status.json"


class Published:
    """The last published values and their time, so that frequent changes are not written at once."""

    def __init__(self, now_s: float) -> None:
        self._urgent: object = None
        self._slow: object = None
        self.at_s = now_s

    def is_due(self, urgent: object, slow: object, now_s: float) -> bool:
        """Tell whether to publish: `urgent` or `slow` values changed, and their period is over."""
        since_s = now_s - self.at_s
        is_urgent = urgent != self._urgent and since_s >= URGENCY_PUBLISH_S
        return is_urgent or (slow != self._slow and since_s >= LEVEL_PUBLISH_S)

    def note(self, urgent: object, slow: object, now_s: float) -> None:
        """Record the values that are published now."""
        self._urgent, self._slow, self.at_s = urgent, slow, now_s


def slow_changes(state: PolicyState, activity: Activity) -> tuple[object, ...]:
    """Return the values of `status` whose changes cause no event."""
    busy, judged = state.busy, state.judged
    return (
        activity.level,
        0 if busy is None else busy.steps,
        state.floor.learned_bytes,
        0 if judged is None else judged.cache_bytes // JUDGED_GRAIN_BYTES,
    )


def seen(now: Snapshot | None, busy_percent: float, urgency: int) -> str:
    """Describe, for the log line of a step, the snapshot that caused it."""
    if now is None:
        return ""
    memory = now.meminfo
    return (
        f" [free {memory.mem_free_bytes // MIB} MiB, trapped {(now.trapped_bytes or 0) // MIB}, "
        f"cache {now.cache_bytes // MIB}, slab {memory.s_reclaimable_bytes // MIB}, "
        f"busy {busy_percent:.0f} %, urgency {urgency}]"
    )


def log_fields(log: PassLog) -> dict[str, object]:
    """Return the fields about passes and about the small steps between them."""
    return {
        "passes": log.count,
        "pass": running_fields(log),
        "slack_steps": log.small_steps,
        "slack_bytes": log.small_bytes,
        "small_reported_bytes": log.small_reported_bytes,
        "last_passes": [_as_dict(record) for record in log.ended],
    }


def running_fields(log: PassLog) -> dict[str, object] | None:
    """Return the pass under way with its steps so far, and the step that runs now; None between passes."""
    if log.begin is None:
        return None
    return {
        "started_s": log.begin.monotonic_s,
        "why": log.why,
        "doing": log.doing,
        "steps": [{n: getattr(s, n) for n in s._fields} for s in log.steps],
    }


def changes(
    need: dict[str, object], log: PassLog, state: PolicyState, activity: Activity
) -> tuple[object, object]:
    """Return the values that are published within URGENCY_PUBLISH_S, and those within LEVEL_PUBLISH_S."""
    urgent = (need, log.begin is None, log.doing, len(log.steps))
    return urgent, slow_changes(state, activity)


def terms_fields(
    settings: AgentSettings, cold_method: str, state: PolicyState
) -> dict[str, object]:
    """Return the fields that limit a pass, which `cold_survey.terms_of` reads.

    `judged` is None if the next pass would reclaim cold cache however recently it was judged.
    """
    judged = state.judged
    if judged is not None and state.after_pass_urgency < URGENCY_ALONE:
        judged = None
    takes = settings.mode != "disabled" and not settings.dry_run
    return {
        "exclude": settings.exclude,
        "cold_method": cold_method if takes else NO_METHOD,
        "cache_floor_bytes": settings.cache_floor_bytes,
        "learned_floor_bytes": state.floor.learned_bytes,
        "judged": None if judged is None else {n: getattr(judged, n) for n in judged._fields},
    }


def busy_fields(state: BusySteps | None, activity: Activity) -> dict[str, object]:
    """Return the fields about small steps: why the next waits, which it is, when, and the bytes freed.

    `next_s` is in monotonic seconds; None if the guest is idle, as a pass comes then.
    """
    waits = next_step = ""
    next_s: float | None = None
    if activity.level != idleness.IDLE:
        waits, next_s = idleness.why_no_step(activity), activity.at_s or 0.0
        if state is not None:
            waits, next_step, next_s = waits or state.why, state.coming, state.next_s
    return {
        "waits": waits,
        "next": next_step,
        "next_s": next_s,
        "steps": 0 if state is None else state.steps,
        "freed_bytes": 0 if state is None else state.freed_bytes,
    }


def _as_dict(record: PassRecord) -> dict[str, object]:
    shown: dict[str, object] = {n: getattr(record, n) for n in record._fields if n != "steps"}
    shown["small_reported"] = record.small_reported
    # `gain_bytes` is an older name of `freed_bytes`, which readers of the file may still use.
    shown["steps"] = [
        {**{n: getattr(s, n) for n in s._fields}, "gain_bytes": s.freed_bytes} for s in record.steps
    ]
    return shown


def write_status(root: str, status: dict[str, object]) -> bool:
    """Write the status file; return whether it could be written."""
    return run_dir.write_file(root, STATUS_PATH, encode(status) + "\n")
