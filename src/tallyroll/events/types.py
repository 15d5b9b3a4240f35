"""The kinds of events: the built-in ones, and the registry in which users declare their own.

A type's value is its name on the wire. Which topic it goes to follows from the type alone, so that all events of one
kind have one retention and one set of readers.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from tallyroll.errors import InvalidEvent
from tallyroll.events.names import name_problem


class EventType(StrEnum):
    """Every built-in event type. Values are the names on the wire."""

    AGENT_CREATED = "agent.created"
    AGENT_STARTED = "agent.started"
    AGENT_STOPPED = "agent.stopped"
    AGENT_FAILED = "agent.failed"
    AGENT_HEARTBEAT = "agent.heartbeat"
    AGENT_REGISTERED = "agent.registered"
    AGENT_DEREGISTERED = "agent.deregistered"

    TASK_CREATED = "task.created"
    TASK_ASSIGNED = "task.assigned"
    TASK_STARTED = "task.started"
    TASK_PROGRESSED = "task.progressed"
    TASK_COMPLETED = "task.completed"
    TASK_FAILED = "task.failed"
    TASK_CANCELLED = "task.cancelled"
    TASK_RETRY = "task.retry"
    TOOL_INVOKED = "tool.invoked"
    TOOL_COMPLETED = "tool.completed"
    TOOL_FAILED = "tool.failed"

    WORKFLOW_STARTED = "workflow.started"
    WORKFLOW_STEP_COMPLETED = "workflow.step.completed"
    WORKFLOW_COMPLETED = "workflow.completed"
    WORKFLOW_FAILED = "workflow.failed"
    MESSAGE_SENT = "message.sent"
    MESSAGE_RECEIVED = "message.received"
    MESSAGE_FAILED = "message.failed"

    PERFORMANCE_METRIC = "performance.metric"
    RESOURCE_ALLOCATED = "resource.allocated"
    RESOURCE_RELEASED = "resource.released"
    RESOURCE_EXHAUSTED = "resource.exhausted"

    AUTHENTICATION_SUCCESS = "auth.success"
    AUTHENTICATION_FAILURE = "auth.failure"
    AUTHORIZATION_GRANTED = "authz.granted"
    AUTHORIZATION_DENIED = "authz.denied"
    STATE_CHANGED = "state.changed"
    STATE_PERSISTED = "state.persisted"
    STATE_RESTORED = "state.restored"
    CONFIGURATION_CHANGED = "configuration.changed"
    ANOMALY_DETECTED = "anomaly.detected"
    DATA_ACCESS = "data.accessed"


AGENT_TOPIC: Final = "agent-events"
TASK_TOPIC: Final = "task-events"
WORKFLOW_TOPIC: Final = "workflow-events"
PERFORMANCE_TOPIC: Final = "performance-events"
SYSTEM_TOPIC: Final = "system-events"

_TOPIC_BY_FAMILY: Final = {
    "agent": AGENT_TOPIC,
    "task": TASK_TOPIC,
    "tool": TASK_TOPIC,
    "workflow": WORKFLOW_TOPIC,
    "message": WORKFLOW_TOPIC,
    "performance": PERFORMANCE_TOPIC,
    "resource": PERFORMANCE_TOPIC,
}


@dataclass(frozen=True, slots=True)
class TypeInfo:
    """What is known of one event type: its wire name, the base name of its topic, and where it came from."""

    name: str
    topic: str
    builtin: bool


_BUILT_IN: Final = {
    member.value: TypeInfo(member.value, _TOPIC_BY_FAMILY.get(member.value.partition(".")[0], SYSTEM_TOPIC), builtin=True)
    for member in EventType
}
_registered: dict[str, TypeInfo] = dict(_BUILT_IN)
_OWN: Final = {name: TypeInfo(name, SYSTEM_TOPIC, builtin=True) for name in ("compliance.violation", "audit.finding.recorded")}
"""Types that only services publish, so that they stand in no list of what a user may."""


def register_event_type(name: str, *, topic: str) -> str:
    """Makes an own event type known to this process and returns its name; needed before such an event is built.

    The name is dotted, lower-case, hierarchical, and ends in the past tense: ``invoice.line.approved``. ``topic`` is the
    base name of a catalogued topic other than ``audit-events`` and ``dead-letters``. Registering the same pair again
    changes nothing. Raises InvalidEvent for a bad name, a foreign topic, or a name that already has another topic.
    """
    if problem := name_problem(name):
        raise InvalidEvent("event_type", problem)
    if topic not in USER_TOPICS:
        raise InvalidEvent("topic", f"own event types go to one of {', '.join(sorted(USER_TOPICS))}")
    known = _registered.setdefault(name, TypeInfo(name, topic, builtin=False))
    if known.topic != topic:
        raise InvalidEvent("event_type", f"{name} is already registered for topic {known.topic}")
    return name


USER_TOPICS: Final = frozenset({AGENT_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC, PERFORMANCE_TOPIC, SYSTEM_TOPIC})


def type_info(name: str) -> TypeInfo | None:
    """What is known of a type, or None."""
    return _registered.get(name) or _OWN.get(name)


def known_types() -> tuple[TypeInfo, ...]:
    """All types this process knows, built-in ones first, in order of definition."""
    return tuple(_registered.values())


def forget_registered_types() -> None:
    """Back to the built-in types; what ``reset_defaults()`` calls between tests."""
    _registered.clear()
    _registered.update(_BUILT_IN)
