"""How states are shown to callers: times as text, money and durations with units, and what the answer rests on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, cast

import msgspec

from tallyroll.events.event import iso
from tallyroll.events.moments import moment_at
from tallyroll.events.position import TopicPartition
from tallyroll.replay.fold import State, View
from tallyroll.replay.plan import Coverage
from tallyroll.replay.values import MICRO
from tallyroll.replay.views import AGENT, AUDIT, PERFORMANCE, SYSTEM, TASK


class _Answer(TypedDict):
    """What every shown state says besides: how many events it is made of, and of which span of the log."""

    last_updated: str  # event time of the newest event, ISO 8601, UTC
    version: int  # events applied
    events_applied: int  # the same
    coverage: Coverage
    as_of: dict[str, int]  # topic/partition -> next offset that was not read


class AgentState(_Answer):
    """An agent as its events tell it. Times are ISO 8601, UTC; ``started_at`` and ``stopped_at`` are the latest ones."""

    agent_id: str
    status: str | None  # created, running, stopped, failed; None: only events that say nothing about it
    agent_type: str | None
    capabilities: Any  # as published, a list of names as a rule; [] if none
    configuration: Any  # as published, an object as a rule; {} if none
    active_tasks: list[str]  # ids, sorted
    tasks_started: int
    tasks_completed: int
    tasks_failed: int
    tasks_cancelled: int
    tools: dict[str, int]  # name -> calls
    tool_calls: int
    tool_failures: int
    messages_sent: int
    messages_received: int
    tokens: int
    cost_micro: int  # millionths of the currency unit
    execution_time_us: int  # of completed and failed tasks that say how long they took
    last_error: str | None  # at most 500 characters
    created_at: str | None
    started_at: str | None
    stopped_at: str | None


class TaskState(_Answer):
    """A task as its events tell it. Times are ISO 8601, UTC."""

    task_id: str
    status: str | None  # created, assigned (also: to be tried again), running, completed, failed, cancelled
    agent_id: str | None
    task_type: str | None
    attempts: int  # how often it was started
    progress_percent: float | None
    tools: dict[str, int]  # name -> calls
    tool_calls: int
    tool_failures: int
    messages_sent: int
    messages_received: int
    tokens: int
    cost_micro: int  # millionths of the currency unit
    last_error: str | None  # at most 500 characters
    created_at: str | None
    started_at: str | None  # the first start
    ended_at: str | None
    duration_ms: float | None  # as reported at the end, else from first start to end by event time


class WorkflowState(_Answer):
    """A workflow as its events tell it. Times are ISO 8601, UTC."""

    workflow_id: str
    status: str | None  # running, completed, failed
    workflow_type: str | None
    steps: int | None  # as announced
    steps_completed: int
    last_step: str | None
    messages_sent: int
    messages_failed: int
    tokens: int
    cost_micro: int  # millionths of the currency unit
    last_error: str | None  # at most 500 characters
    started_at: str | None
    ended_at: str | None
    duration_ms: float | None  # as reported at the end, else from start to end by event time


class MetricSummary(TypedDict):
    """The samples of one metric; ``*_micro`` in millionths of the metric's unit, the mean in the unit itself."""

    count: int
    sum_micro: int | None  # None: beyond 64 bits
    min_micro: int
    max_micro: int
    mean: float | None  # None with the sum


class Seen(TypedDict):
    """Where and when an event is."""

    position: str  # topic/partition/offset
    at: str  # event time


class SystemState(_Answer):
    """What the system's events tell of one aggregate: configuration, states, anomalies."""

    aggregate: str  # as TYPE:ID
    events: dict[str, int]  # event type -> how many
    configuration: Any  # the whole configuration as last published, an object as a rule; {} if none
    settings: dict[str, Any]  # name -> value as last changed; of a very long one the beginning of its JSON text
    last_state: Any  # as last published; None if none
    anomalies: dict[str, int]  # severity -> how many
    last_anomaly: str | None  # of which metric
    configured_at: str | None


class AuditState(_Answer):
    """What one aggregate did of the things that auditors ask for. Counts; it is no verification, and knows no sealed entry.

    The categories are AUTHENTICATION, AUTHORIZATION, DATA_ACCESS and CONFIGURATION_CHANGE.
    """

    aggregate: str  # as TYPE:ID
    categories: dict[str, int]  # how many, of each
    authentications: int  # that succeeded
    authentication_failures: int
    authorizations: int  # that were granted
    authorization_denials: int
    data_accesses: int
    configuration_changes: int
    resources: dict[str, int]  # name -> how often a right to it or its data was asked for
    last_seen: dict[str, Seen]  # category -> its newest event; only what there was
    last_refused: dict[str, Seen]  # the same of failures and denials


class PerformanceState(_Answer):
    """What one aggregate measured, and which resources it was given."""

    aggregate: str  # as TYPE:ID
    metrics: dict[str, MetricSummary]
    samples: int
    allocated: dict[str, int]  # type of resource -> how often
    released: dict[str, int]
    exhausted: dict[str, int]


def owner_name(view: View) -> str:
    """Under which name a shown state says whose it is."""
    return "aggregate" if view.owner == "aggregate" else f"{view.name}_id"


def show(view: View, owner: str, state: State, *, coverage: Coverage, as_of: Mapping[TopicPartition, int]) -> dict[str, Any]:
    """A joined state for callers, such as an AgentState; of a view that is not built in the fields as they are."""
    shown = _shown(state)
    special = _SPECIAL.get(view.name)
    if special is not None:
        special(shown, state)
    span = {"coverage": coverage, "as_of": {str(partition): offset for partition, offset in sorted(as_of.items())}}
    return {owner_name(view): owner, **shown, "events_applied": state["version"], **span}


def _agent(shown: dict[str, Any], state: State) -> None:
    for name, empty in (("capabilities", "[]"), ("configuration", "{}")):
        shown[name] = msgspec.json.decode(state[name] or empty)


def _task(shown: dict[str, Any], _state: State) -> None:
    progress = shown.pop("progress_micro_percent")
    shown["progress_percent"] = None if progress is None else progress / MICRO


def _system(shown: dict[str, Any], state: State) -> None:
    shown["configuration"] = msgspec.json.decode(state["configuration"] or "{}")
    shown["last_state"] = msgspec.json.decode(state["last_state"] or "null")
    shown["settings"] = {name: msgspec.json.decode(value) for name, value in state["settings"].items()}


def _audit(shown: dict[str, Any], state: State) -> None:
    shown["categories"] = {
        "AUTHENTICATION": state["authentications"] + state["authentication_failures"],
        "AUTHORIZATION": state["authorizations"] + state["authorization_denials"],
        "DATA_ACCESS": state["data_accesses"],
        "CONFIGURATION_CHANGE": state["configuration_changes"],
    }
    for name in ("last_seen", "last_refused"):
        shown[name] = {category: Seen(position=where, at=iso(moment_at(time_us))) for category, (where, time_us) in state[name].items()}


def _performance(shown: dict[str, Any], state: State) -> None:
    shown["metrics"] = {
        name: MetricSummary(
            count=count, sum_micro=total, min_micro=low, max_micro=high, mean=None if total is None else total / count / MICRO
        )
        for name, (count, total, low, high) in state["metrics"].items()
    }


_SPECIAL = {AGENT.name: _agent, TASK.name: _task, SYSTEM.name: _system, AUDIT.name: _audit, PERFORMANCE.name: _performance}


def _shown(state: State) -> dict[str, Any]:
    shown = {name: value for name, value in state.items() if not name.endswith("_us") or name == "execution_time_us"}
    for name in ("created_at", "started_at", "stopped_at", "ended_at", "configured_at", "last_updated"):
        if f"{name}_us" in state:
            moment = state[f"{name}_us"]
            shown[name] = None if moment is None else iso(moment_at(moment))
    if "reported_duration_us" in state:
        shown["duration_ms"] = _duration_ms(state)
    return shown


def _duration_ms(state: State) -> float | None:
    if state["ended_at_us"] is None:
        return None
    duration = state["reported_duration_us"]
    if duration is None and state["started_at_us"] is not None:
        duration = state["ended_at_us"] - state["started_at_us"]
    return None if duration is None else cast("int", duration) / 1_000
