"""The built-in views: what each kind of state is made of.

===========  ==================================================  ==========================================================
view         reads                                               owner
===========  ==================================================  ==========================================================
agent        ``agent-events``, ``task-events``,                  the aggregate if it is an agent, else ``payload.agent_id``
             ``workflow-events``
task         ``task-events``, ``workflow-events``                the aggregate; a task event filed under an agent counts for
                                                                 that agent and not for the task
workflow     ``workflow-events``                                 the aggregate
system       ``system-events``                                   the aggregate of any type, as ``type:id``
audit        ``system-events``: who proved who they are, what    the same
             was allowed, read, configured
performance  ``performance-events``                              the same
===========  ==================================================  ==========================================================

Every built-in event type of these topics that names the owner counts into ``version``, also where it changes no field.
Tokens and cost are summed over every event that tells them: an event reports what it used itself, never a total of
earlier ones.
The audit view counts what an auditor asks for and says where to look; it verifies nothing. ``audit-events`` is not read: it
holds only sealed entries, whose format does not exist yet. Windows and percentiles of metrics belong to analytics; the
performance view has counts, sums and extremes.
"""

from __future__ import annotations

from typing import Final

from tallyroll.events.schema import SCHEMAS
from tallyroll.events.types import AGENT_TOPIC, PERFORMANCE_TOPIC, SYSTEM_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC, EventType, type_info
from tallyroll.replay.by_name import CountBy, CountTypes, LastBy, LastSeen, SummaryBy
from tallyroll.replay.fields import Count, First, Last, Sum
from tallyroll.replay.fold import Fold, View
from tallyroll.replay.open_set import OpenSet
from tallyroll.replay.values import (
    AGENT_ID,
    COST,
    DURATION,
    ERROR,
    EVENT_TIME,
    SAMPLE,
    SETTING,
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
_SYSTEM_TYPES: Final = _types(SYSTEM_TOPIC)
_PERFORMANCE_TYPES: Final = _types(PERFORMANCE_TOPIC)
_AUDITED: Final = {
    "auth.success": "AUTHENTICATION",
    "auth.failure": "AUTHENTICATION",
    "authz.granted": "AUTHORIZATION",
    "authz.denied": "AUTHORIZATION",
    "data.accessed": "DATA_ACCESS",
    "configuration.changed": "CONFIGURATION_CHANGE",
}
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

SYSTEM: Final = View(
    "system",
    version=1,
    owner="aggregate",
    topics=(SYSTEM_TOPIC,),
    types=_SYSTEM_TYPES,
    fields={
        "events": CountTypes(_SYSTEM_TYPES),
        "configuration": Last({"configuration.changed": opaque("configuration")}),
        "settings": LastBy(("configuration.changed",), SETTING),
        "last_state": Last({"state.changed": opaque("new_state")}),
        "anomalies": CountBy(("anomaly.detected",), text("severity")),
        "last_anomaly": Last({"anomaly.detected": text("metric_name")}),
        "configured_at_us": Last({"configuration.changed": EVENT_TIME}),
    },
)

AUDIT: Final = View(
    "audit",
    version=1,
    owner="aggregate",
    topics=(SYSTEM_TOPIC,),
    types=tuple(_AUDITED),
    fields={
        "authentications": Count(("auth.success",)),
        "authentication_failures": Count(("auth.failure",)),
        "authorizations": Count(("authz.granted",)),
        "authorization_denials": Count(("authz.denied",)),
        "data_accesses": Count(("data.accessed",)),
        "configuration_changes": Count(("configuration.changed",)),
        "resources": CountBy(("authz.granted", "authz.denied", "data.accessed"), text("resource")),
        "last_seen": LastSeen(_AUDITED),
        "last_refused": LastSeen({"auth.failure": "AUTHENTICATION", "authz.denied": "AUTHORIZATION"}),
    },
)

PERFORMANCE: Final = View(
    "performance",
    version=1,
    owner="aggregate",
    topics=(PERFORMANCE_TOPIC,),
    types=_PERFORMANCE_TYPES,
    fields={
        "metrics": SummaryBy(("performance.metric",), SAMPLE),
        "samples": Count(("performance.metric",)),
        "allocated": CountBy(("resource.allocated",), text("resource_type")),
        "released": CountBy(("resource.released",), text("resource_type")),
        "exhausted": CountBy(("resource.exhausted",), text("resource_type")),
    },
)

VIEWS: Final = (AGENT, TASK, WORKFLOW, SYSTEM, AUDIT, PERFORMANCE)
FOLD: Final = Fold(VIEWS, SCHEMAS)
"""The fold that the state follower and replays use unless told otherwise."""
