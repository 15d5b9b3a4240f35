"""One event as one line for people, and as one JSON document for programs. Pure but for the colours."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import clip, paint, plain
from tallyroll.errors import Undecodable
from tallyroll.events.event import AgentEvent, iso
from tallyroll.follow.tail import SeenRecord

_FAMILY_STYLES: Final[Mapping[str, str]] = {
    "agent": "cyan",
    "task": "green",
    "tool": "yellow",
    "workflow": "magenta",
    "message": "blue",
    "performance": "dim",
    "resource": "dim",
}
_BAD_ENDINGS: Final = frozenset({"failed", "failure", "denied", "exhausted"})
_NAMES: Final = ("tool_name", "workflow_type", "step", "task_type", "metric", "recipient", "sender", "agent_type")
_SAID: Final = frozenset(
    {*_NAMES, "agent_id", "task_id", "workflow_id", "tokens", "input_tokens", "output_tokens", "cost", "duration_ms", "execution_time"}
)
_MAX_MEMBERS: Final = 3  # of a payload that has none of the known ones
_TYPE_COLUMNS: Final = 19
_WHO_COLUMNS: Final = 15


def to_document(seen: SeenRecord) -> dict[str, Any]:
    """The event as ``to_kafka_message()`` gives it, and its position; ``tallyroll import`` reads it back."""
    if isinstance(seen.event, Undecodable):
        return {"position": str(seen.position), "undecodable": seen.event.reason}
    return {**seen.event.to_kafka_message(), "position": str(seen.position)}


def style_of(event_type: str) -> str:
    """The colour of a type: by family, red for what went wrong."""
    if event_type.rpartition(".")[2] in _BAD_ENDINGS:
        return "red"
    return _FAMILY_STYLES.get(event_type.partition(".")[0], "bold")


def line_of(seen: SeenRecord, *, columns: int | None = None, when: str | None = None, with_agent: bool = True) -> str:
    """Time, type, whose deed, about what, and the facts that people look for; clipped to ``columns``."""
    event = seen.event
    if isinstance(event, Undecodable):
        return paint(clip(f"{'?':<15}  not readable: {event.reason} at {seen.position}", columns), "red")
    moment = clock_of(event.timestamp) if when is None else when
    kind = plain(event.event_type)
    who = f"{plain(event.agent_id or '-'):<{_WHO_COLUMNS}}  " if with_agent else ""
    about = "" if event.aggregate_type == "agent" else plain(event.aggregate_id)
    rest = "  ".join(filter(None, (about, " · ".join(facts(event)))))
    head = f"{moment}  {kind:<{_TYPE_COLUMNS}}  {who}"
    rest = clip(rest, None if columns is None else max(columns - len(head), 0))
    return f"{paint(moment, 'dim')}  {paint(f'{kind:<{_TYPE_COLUMNS}}', style_of(kind))}  {who}{rest}"


def clock_of(moment: datetime) -> str:
    """The time of day in UTC with milliseconds, for lines below the heading of a day."""
    return iso(moment)[11:23]


def facts(event: AgentEvent) -> list[str]:
    """What a person wants to know of a payload, shortly."""
    payload = event.payload
    said = [plain(payload[name]) for name in _NAMES if isinstance(payload.get(name), str)][:2]
    if event.event_type == "agent.heartbeat":
        said += [f"{name}={plain(payload[name])}" for name in ("status", "queue_depth") if name in payload]
    if event.event_type == "performance.metric":
        said.append(f"{payload.get('value')} {plain(payload.get('unit', ''))}".strip())
    if _is_number(payload.get("progress_percent")):
        said.append(f"{payload['progress_percent']:g} %")
    seconds = duration_s(payload)
    if seconds is not None:
        said.append(short_span(seconds))
    if isinstance(payload.get("tokens"), int):
        said.append(f"{payload['tokens']:,} tokens")
    if _is_number(payload.get("cost")):
        said.append(f"cost {payload['cost']:.4f}")
    trouble = next((payload[name] for name in ("error_type", "error", "reason") if isinstance(payload.get(name), str)), None)
    if trouble is not None:
        said.append(plain(trouble))
    elif not said:
        known = ((name, value) for name, value in payload.items() if name not in _SAID and isinstance(value, (str, int, float)))
        said += [f"{plain(name)}={plain(value)}" for name, value in known][:_MAX_MEMBERS]
    return said


def duration_s(payload: Mapping[str, Any]) -> float | None:
    """How long it took, in seconds, if the payload says so."""
    if _is_number(payload.get("duration_ms")):
        return float(payload["duration_ms"]) / 1_000
    return float(payload["execution_time"]) if _is_number(payload.get("execution_time")) else None


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
