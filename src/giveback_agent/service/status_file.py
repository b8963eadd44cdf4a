"""The service's status file, and what it says of the guest and of its passes."""

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
# A host may change its mind, and a guest its level, at every sample: what is published follows no faster.
URGENCY_PUBLISH_S = 1.0
LEVEL_PUBLISH_S = 30.0
JUDGED_GRAIN_BYTES = 16 * MIB
STATUS_PATH = run_dir.FOLDER + "/status.json"


class Published:
    """What was last published, and when: what changes all the time is not followed at every sample."""

    def __init__(self, now_s: float) -> None:
        self._urgent: object = None
        self._slow: object = None
        self.at_s = now_s

    def is_due(self, urgent: object, slow: object, now_s: float) -> bool:
        """Tell whether to publish again: what is `urgent` or `slow` has changed, and its time has come."""
        since_s = now_s - self.at_s
        is_urgent = urgent != self._urgent and since_s >= URGENCY_PUBLISH_S
        return is_urgent or (slow != self._slow and since_s >= LEVEL_PUBLISH_S)

    def note(self, urgent: object, slow: object, now_s: float) -> None:
        """Note what is being published."""
        self._urgent, self._slow, self.at_s = urgent, slow, now_s


def slow_changes(state: PolicyState, activity: Activity) -> tuple[object, ...]:
    """Return what `status` shows and no event tells."""
    busy, judged = state.busy, state.judged
    return (
        activity.level,
        0 if busy is None else busy.steps,
        state.floor.learned_bytes,
        0 if judged is None else judged.cache_bytes // JUDGED_GRAIN_BYTES,
    )


def seen(now: Snapshot | None, busy_percent: float, urgency: int) -> str:
    """Return in words the snapshot that caused a step."""
    if now is None:
        return ""
    memory = now.meminfo
    return (
        f" [free {memory.mem_free_bytes // MIB} MiB, trapped {(now.trapped_bytes or 0) // MIB}, "
        f"cache {now.cache_bytes // MIB}, slab {memory.s_reclaimable_bytes // MIB}, "
        f"busy {busy_percent:.0f} %, urgency {urgency}]"
    )


def log_fields(log: PassLog) -> dict[str, object]:
    """What `status` shows of the passes and of the small steps between them."""
    return {
        "passes": log.count,
        "slack_steps": log.small_steps,
        "slack_bytes": log.small_bytes,
        "small_reported_bytes": log.small_reported_bytes,
        "last_passes": [_as_dict(record) for record in log.ended],
    }


def terms_fields(
    settings: AgentSettings, cold_method: str, state: PolicyState
) -> dict[str, object]:
    """Return what decides how much of the cache a pass would take: `cold_survey.terms_of` reads it.

    `judged` is None where a host that wants cold cache gets it, however lately it was judged.
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
    """Return why a guest at work waits, its next step and when that is due, and what the steps freed.

    `next_s` are monotonic seconds, None where the guest is idle: then a pass comes, not a step.
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
    """Publish what the agent sees and did, for `status`; False where it could not be written."""
    return run_dir.write_file(root, STATUS_PATH, encode(status) + "\n")
