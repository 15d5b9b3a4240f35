"""The built-in views: what the state of an agent, a task and a workflow is made of, and how it is shown.

========  ==================================================  ==========================================================
view      reads                                               owner
========  ==================================================  ==========================================================
agent     ``agent-events``, ``task-events``,                  the aggregate if it is an agent, else ``payload.agent_id``
          ``workflow-events``
task      ``task-events``, ``workflow-events``                the aggregate; a task event filed under an agent counts for
                                                              that agent and not for the task
workflow  ``workflow-events``                                 the aggregate
========  ==================================================  ==========================================================

Every built-in event type of these topics that names the owner counts into ``version``, also where it changes no field.
Tokens and cost are summed over every event that tells them: an event reports what it used itself, never a total of
earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypedDict, cast

import msgspec

from tallyroll.events.codec import moment_at
from tallyroll.events.event import iso
from tallyroll.events.position import TopicPartition
from tallyroll.events.schema import SCHEMAS
from tallyroll.events.types import AGENT_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC, EventType, type_info
from tallyroll.replay.fields import Count, CountBy, First, Last, OpenSet, Sum
from tallyroll.replay.fold import Fold, State, View
from tallyroll.replay.plan import Coverage
from tallyroll.replay.values import (
    AGENT_ID,
    COST,
    DURATION,
    ERROR,
    EVENT_TIME,
    MICRO,
    TASK_ID,
    TOKENS,
    micros,
    opaque,
    text,
    whole,
)


def _types(*topics: str) -> tuple[str, ...]:
    return tuple(member.value for member in EventType if (info := type_info(member.value)) is not None and info.topic in topics)


_AGENT_TYPES: Final = _types(AGENT_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC)
_MESSAGE_TYPES: Final = tuple(name for name in _types(WORKFLOW_TOPIC) if name.startswith("message."))
_TASK_TYPES: Final = (*_types(TASK_TOPIC), *_MESSAGE_TYPES)
_WORKFLOW_TYPES: Final = _types(WORKFLOW_TOPIC)
_TASK_OWN: Final = tuple(name for name in _TASK_TYPES if name.startswith("task."))
_TASK_TYPED: Final = ("task.created", "task.started", "task.completed", "task.failed")
_TASK_ENDS: Final = ("task.completed", "task.failed", "task.cancelled")
_DESCRIBED: Final = ("agent.created", "agent.registered", "agent.started")

AGENT: Final = View(
    "agent",
    version=1,
    owner="agent",
    topics=(AGENT_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC),
    types=_AGENT_TYPES,
    fields={
        "status": Last(
            {
                "agent.created": "created",
                "agent.started": "running",
                "task.started": "running",
                "agent.stopped": "stopped",
                "agent.failed": "failed",
            }
        ),
        "agent_type": Last(dict.fromkeys(_DESCRIBED, text("agent_type"))),
        "capabilities": Last(dict.fromkeys(_DESCRIBED, opaque("capabilities"))),
        "configuration": Last(dict.fromkeys(_DESCRIBED, opaque("configuration"))),
        "active_tasks": OpenSet(TASK_ID, opens=("task.started",), closes=_TASK_ENDS),
        "tasks_started": Count(("task.started",)),
        "tasks_completed": Count(("task.completed",)),
        "tasks_failed": Count(("task.failed",)),
        "tasks_cancelled": Count(("task.cancelled",)),
        "tools": CountBy(("tool.invoked",), text("tool_name")),
        "tool_calls": Count(("tool.invoked",)),
        "tool_failures": Count(("tool.failed",)),
        "messages_sent": Count(("message.sent",)),
        "messages_received": Count(("message.received",)),
        "tokens": Sum(_AGENT_TYPES, TOKENS),
        "cost_micro": Sum(_AGENT_TYPES, COST),
        "execution_time_us": Sum(("task.completed", "task.failed"), DURATION),
        "last_error": Last(dict.fromkeys(("agent.failed", "task.failed", "tool.failed", "message.failed"), ERROR)),
        "created_at_us": First({"agent.created": EVENT_TIME}),
        "started_at_us": Last({"agent.started": EVENT_TIME}),
        "stopped_at_us": Last({"agent.stopped": EVENT_TIME, "agent.failed": EVENT_TIME}),
    },
)

TASK: Final = View(
    "task",
    version=1,
    owner="task",
    topics=(TASK_TOPIC, WORKFLOW_TOPIC),
    types=_TASK_TYPES,
    fields={
        "status": Last(
            {
                "task.created": "created",
                "task.assigned": "assigned",
                "task.started": "running",
                "task.progressed": "running",
                "task.completed": "completed",
                "task.failed": "failed",
                "task.cancelled": "cancelled",
                "task.retry": "assigned",
            }
        ),
        "agent_id": Last(dict.fromkeys(_TASK_OWN, AGENT_ID)),
        "task_type": Last(dict.fromkeys(_TASK_TYPED, text("task_type"))),
        "attempts": Count(("task.started",)),
        "progress_micro_percent": Last({"task.progressed": micros("progress_percent")}),
        "tools": CountBy(("tool.invoked",), text("tool_name")),
        "tool_calls": Count(("tool.invoked",)),
        "tool_failures": Count(("tool.failed",)),
        "messages_sent": Count(("message.sent",)),
        "messages_received": Count(("message.received",)),
        "tokens": Sum(_TASK_TYPES, TOKENS),
        "cost_micro": Sum(_TASK_TYPES, COST),
        "last_error": Last(dict.fromkeys(("task.failed", "task.retry", "tool.failed"), ERROR)),
        "created_at_us": First({"task.created": EVENT_TIME}),
        "started_at_us": First({"task.started": EVENT_TIME}),
        "ended_at_us": Last(dict.fromkeys(_TASK_ENDS, EVENT_TIME)),
        "reported_duration_us": Last(dict.fromkeys(_TASK_ENDS, DURATION)),
    },
)

WORKFLOW: Final = View(
    "workflow",
    version=1,
    owner="workflow",
    topics=(WORKFLOW_TOPIC,),
    types=_WORKFLOW_TYPES,
    fields={
        "status": Last(
            {
                "workflow.started": "running",
                "workflow.step.completed": "running",
                "workflow.completed": "completed",
                "workflow.failed": "failed",
            }
        ),
        "workflow_type": Last({"workflow.started": text("workflow_type")}),
        "steps": Last({"workflow.started": whole("steps")}),
        "steps_completed": Count(("workflow.step.completed",)),
        "last_step": Last({"workflow.step.completed": text("step")}),
        "messages_sent": Count(("message.sent",)),
        "messages_failed": Count(("message.failed",)),
        "tokens": Sum(_WORKFLOW_TYPES, TOKENS),
        "cost_micro": Sum(_WORKFLOW_TYPES, COST),
        "last_error": Last(dict.fromkeys(("workflow.failed", "message.failed"), ERROR)),
        "started_at_us": First({"workflow.started": EVENT_TIME}),
        "ended_at_us": Last(dict.fromkeys(("workflow.completed", "workflow.failed"), EVENT_TIME)),
        "reported_duration_us": Last(dict.fromkeys(("workflow.completed", "workflow.failed"), DURATION)),
    },
)

VIEWS: Final = (AGENT, TASK, WORKFLOW)
FOLD: Final = Fold(VIEWS, SCHEMAS)
"""The fold that the state follower and replays use unless told otherwise."""


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


def show(view: View, owner: str, state: State, *, coverage: Coverage, as_of: Mapping[TopicPartition, int]) -> dict[str, Any]:
    """A joined state for callers: an AgentState, TaskState or WorkflowState; of another view the fields as they are."""
    shown = _shown(state)
    if view.name == AGENT.name:
        for name, empty in (("capabilities", "[]"), ("configuration", "{}")):
            shown[name] = msgspec.json.decode(state[name] or empty)
    if view.name == TASK.name:
        progress = shown.pop("progress_micro_percent")
        shown["progress_percent"] = None if progress is None else progress / MICRO
    span = {"coverage": coverage, "as_of": {str(partition): offset for partition, offset in sorted(as_of.items())}}
    return {f"{view.name}_id": owner, **shown, "events_applied": state["version"], **span}


def _shown(state: State) -> dict[str, Any]:
    shown = {name: value for name, value in state.items() if not name.endswith("_us") or name == "execution_time_us"}
    for name in ("created_at", "started_at", "stopped_at", "ended_at", "last_updated"):
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
