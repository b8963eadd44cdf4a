"""The API's requests, checked by their types; an error names every wrong field. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
)

from giveback.errors import InputError
from giveback.manager.model import URGENCIES
from giveback.manager.settings import errors
from giveback_kernel.units import SPAN_HINT, parse_span

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import TypeVar

    T = TypeVar("T")

WITHIN_S = 30.0
WITHIN_MOST_S = 3600.0
LEASE_S = 60.0
LEASE_MOST_S = 3600.0
VMS_MOST = 1000
SPAN_LEAST_S, SPAN_MOST_S = 1.0, 366 * 86400.0
SINCE_S = 7200.0
USAGE_SINCE_S = 30 * 86400.0
GOAL_LEAST_BYTES, GOAL_MOST_BYTES = 1 << 20, 1 << 60
_FAULTS_NAMED = 10
_STRICT = ConfigDict(extra="forbid")


def _span_of(text: object) -> float:
    found = parse_span(text) if isinstance(text, str) else None
    if found is None or not SPAN_LEAST_S <= found <= SPAN_MOST_S:
        raise ValueError(f"a span of time from 1 s to 366 d: {SPAN_HINT}")
    return found


_Whole = Field(strict=True)
_Seconds = Field(strict=True, gt=0, allow_inf_nan=False)
_Second = Annotated[int, Field(gt=0, lt=10**12)]
_Since = Annotated[float, BeforeValidator(_span_of, json_schema_input_type=str)]
_From = Annotated[_Second, Field(alias="from", description="Unix time, instead of `since`.")]
_To = Annotated[_Second, Field(description="Unix time; by default now.")]


@dataclass(frozen=True, slots=True)
class ReclaimBody:
    """The body of POST /v1/reclaim."""

    __pydantic_config__ = _STRICT
    goal_bytes: Annotated[int, _Whole, Field(ge=GOAL_LEAST_BYTES, le=GOAL_MOST_BYTES)]
    """At least 1 MiB: a smaller number most likely lacks its unit."""
    within_s: Annotated[float, _Seconds, Field(le=WITHIN_MOST_S)] = WITHIN_S
    vms: Annotated[
        tuple[str, ...],
        Field(max_length=VMS_MOST, description="Names or keys; an empty list means all VMs."),
        AfterValidator(lambda vms: tuple(dict.fromkeys(vms))),
    ] = ()
    dry_run: Annotated[
        bool, Field(strict=True, description="Only report which VMs would be asked for how much.")
    ] = False


@dataclass(frozen=True, slots=True)
class UrgencyBody:
    """The body of POST /v1/vms/KEY/urgency."""

    __pydantic_config__ = _STRICT
    urgency: Annotated[int, _Whole, Field(ge=URGENCIES[0], le=URGENCIES[-1])]
    lease_s: Annotated[float, _Seconds, Field(le=LEASE_MOST_S)] = LEASE_S


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """The query of GET /v1/history, as it is in the URL."""

    __pydantic_config__ = _STRICT
    since: Annotated[
        _Since, Field(description="How far back: 90s, 15m, 2h, 7d; by default two hours.")
    ] = SINCE_S
    from_: _From = 0
    to: _To = 0
    vm: Annotated[str, Field(description="A VM's name or key: its rows are in `samples`.")] = ""


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """The query of GET /v1/usage, as it is in the URL."""

    __pydantic_config__ = _STRICT
    since: Annotated[_Since, Field(description="How far back: 12h, 7d; by default 30 days.")] = (
        USAGE_SINCE_S
    )
    from_: _From = 0
    to: _To = 0


@dataclass(frozen=True, slots=True)
class FrameQuery:
    """The query of GET /v1/history/frame, as it is in the URL."""

    __pydantic_config__ = _STRICT
    at: Annotated[
        _Second, Field(description="Unix time: `at_s` of one of the host's records in /v1/history.")
    ]


@dataclass(frozen=True, slots=True)
class TimeSpan:
    """The span of a GET /v1/history or /v1/usage, in Unix seconds, and its VM."""

    from_s: int
    to_s: int
    vm: str | None

    @staticmethod
    def of(
        query: Mapping[str, str], now_s: float, kind: type[HistoryQuery | UsageQuery] = HistoryQuery
    ) -> TimeSpan:
        """Return the span of `since=2h`, or of `from=` and `to=` in Unix time. Raises InputError."""
        asked = checked(kind, query)
        if "since" in query and "from" in query:
            raise InputError("since, from: give one of the two")
        to_s = asked.to or int(now_s) + 1
        from_s = asked.from_ or to_s - int(asked.since)
        if not 0 < to_s - from_s <= SPAN_MOST_S:
            raise InputError("from, to: `to` must be after `from`, by at most 366 days")
        vm = asked.vm if isinstance(asked, HistoryQuery) else ""
        return TimeSpan(from_s, to_s, vm or None)


_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    model: TypeAdapter(model)
    for model in (ReclaimBody, UrgencyBody, HistoryQuery, UsageQuery, FrameQuery)
}


def checked(model: type[T], said: object) -> T:
    """Return one of the requests above, made from a JSON value or a query. Raises InputError."""
    try:
        found: T = _ADAPTERS[model].validate_python(said)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[:_FAULTS_NAMED]
        lines = [errors.line_of(detail, model, "key") for detail in wrong]
        raise InputError("; ".join(lines)) from error
    return found
