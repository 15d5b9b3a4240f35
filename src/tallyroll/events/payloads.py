"""What the payload of each built-in event type holds: names, types and units that readers may rely on.

These describe; they refuse nothing. An event is published whether or not its payload has these fields, and readers ignore
fields they do not know. A field is required only where the event says nothing without it. The JSON Schemas under
``schemas/`` are made from here, and a change has to be one that ``schema_check`` allows.

Units: ``*_ms`` milliseconds, ``execution_time`` seconds, ``*_bytes`` bytes, ``*_percent`` 0 to 100, ``cost`` units of
``currency`` (a number, or decimal text for those who count exactly), tokens and counts whole numbers.
"""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from tallyroll.events.types import EventType

Number = int | float
Milliseconds = Annotated[int | float, Meta(extra_json_schema={"unit": "ms"})]
Seconds = Annotated[int | float, Meta(extra_json_schema={"unit": "s"})]
Bytes = Annotated[int, Meta(extra_json_schema={"unit": "bytes"})]
Percent = Annotated[int | float, Meta(extra_json_schema={"unit": "percent"})]
Money = Annotated[int | float | str, Meta(extra_json_schema={"unit": "currency"})]
Moment = Annotated[str, Meta(extra_json_schema={"unit": "ISO 8601 with a zone"})]


class Payload(Struct, kw_only=True, omit_defaults=True):
    """What any payload may say: whose deed it was and for which task. ``agent_id`` is read only where the aggregate is not the agent."""

    agent_id: str | None = None
    task_id: str | None = None


class Usage(Payload):
    """What something took: time, tokens, money. ``duration_ms`` wins over ``execution_time`` where both are given."""

    duration_ms: Milliseconds | None = None
    execution_time: Seconds | None = None
    tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost: Money | None = None
    currency: str | None = None
    model: str | None = None


class Failure(Payload):
    """Why something failed: free text, a class of errors to group by, and whether trying again may help."""

    error: Any = None
    error_type: str | None = None
    reason: str | None = None
    retriable: bool | None = None


class FailedWork(Usage):
    """As Failure, with what was used up before it."""

    error: Any = None
    error_type: str | None = None
    reason: str | None = None
    retriable: bool | None = None


class AgentDescribed(Payload):
    """What an agent is, said when it is created, started or registered."""

    agent_type: str | None = None
    capabilities: list[str] | None = None
    configuration: dict[str, Any] | None = None
    model: str | None = None
    version: str | None = None
    parent_agent_id: str | None = None
    created_by: str | None = None
    host: str | None = None


class AgentEnded(Payload):
    """An agent stopped or left."""

    reason: str | None = None
    uptime_ms: Milliseconds | None = None
    exit_code: int | None = None


class AgentFailed(Failure):
    """An agent can no longer do its work."""

    uptime_ms: Milliseconds | None = None
    exit_code: int | None = None


class AgentHeartbeat(Payload):
    """An agent is alive, and how it is doing."""

    status: str | None = None
    active_tasks: int | None = None
    cpu_percent: Percent | None = None
    memory_bytes: Bytes | None = None
    uptime_ms: Milliseconds | None = None


class TaskCreated(Payload):
    """A task exists, with what is to be done and who asked for it."""

    task_type: str | None = None
    task_description: str | None = None
    agent_type: str | None = None
    created_by: str | None = None
    parent_task_id: str | None = None
    workflow_id: str | None = None
    priority: int | str | None = None
    depends_on: list[str] | None = None
    deadline: Moment | None = None


class TaskAssigned(Payload):
    """A task has an agent."""

    assigned_by: str | None = None
    reason: str | None = None


class TaskStarted(Payload):
    """An agent began a task."""

    task_type: str | None = None
    attempt: int | None = None


class TaskProgressed(Payload):
    """A task got further."""

    progress_percent: Percent | None = None
    step: str | None = None
    message: str | None = None


class TaskCompleted(Usage):
    """A task reached its end. ``success`` false, or a ``status`` that says so, means: ended, but not as wished."""

    task_type: str | None = None
    result: Any = None
    output: Any = None
    status: str | None = None
    success: bool | None = None
    attempt: int | None = None


class TaskFailed(FailedWork):
    """A task ended without its result."""

    task_type: str | None = None
    attempt: int | None = None


class TaskCancelled(Usage):
    """A task was called off."""

    reason: str | None = None
    cancelled_by: str | None = None


class TaskRetry(Failure):
    """A task will be tried again."""

    attempt: int | None = None
    max_attempts: int | None = None
    delay_ms: Milliseconds | None = None


class ToolInvoked(Payload):
    """An agent called a tool. ``invocation_id`` joins the call with its end."""

    tool_name: str | None = None
    invocation_id: str | None = None
    arguments: Any = None


class ToolCompleted(Usage):
    """A tool answered."""

    tool_name: str | None = None
    invocation_id: str | None = None
    result: Any = None
    output: Any = None
    status: str | None = None


class ToolFailed(FailedWork):
    """A tool did not answer, or with an error."""

    tool_name: str | None = None
    invocation_id: str | None = None


class WorkflowStarted(Payload):
    """A workflow began."""

    workflow_id: str | None = None
    workflow_type: str | None = None
    created_by: str | None = None
    steps: int | None = None


class WorkflowStepCompleted(Usage):
    """A workflow passed one step."""

    workflow_id: str | None = None
    step: str | None = None
    step_number: int | None = None
    result: Any = None
    status: str | None = None


class WorkflowCompleted(Usage):
    """A workflow reached its end."""

    workflow_id: str | None = None
    result: Any = None
    output: Any = None
    status: str | None = None
    success: bool | None = None


class WorkflowFailed(FailedWork):
    """A workflow ended without its result."""

    workflow_id: str | None = None
    step: str | None = None


class Message(Payload):
    """A message from one agent to another was sent or received."""

    message_id: str | None = None
    message_type: str | None = None
    from_agent: str | None = None
    to_agent: str | None = None
    channel: str | None = None
    size_bytes: Bytes | None = None
    content: Any = None


class MessageFailed(Message):
    """A message did not arrive."""

    error: Any = None
    error_type: str | None = None
    reason: str | None = None
    retriable: bool | None = None


class PerformanceMetric(Payload):
    """One measurement."""

    metric_name: str
    value: Number | str
    unit: str | None = None
    labels: dict[str, Any] | None = None


class Resource(Payload):
    """A resource was given, given back, or ran out."""

    resource_type: str | None = None
    resource_id: str | None = None
    amount: Number | str | None = None
    limit: Number | str | None = None
    unit: str | None = None
    reason: str | None = None


class Authentication(Payload):
    """Somebody proved, or failed to prove, who they are."""

    user_id: str | None = None
    method: str | None = None
    provider: str | None = None
    ip_address: str | None = None
    reason: str | None = None


class Authorization(Payload):
    """A right was granted or denied."""

    user_id: str | None = None
    resource: str | None = None
    action: str | None = None
    permission: str | None = None
    policy: str | None = None
    reason: str | None = None


class StateChanged(Payload):
    """Something passed from one state to another."""

    state_type: str | None = None
    old_state: Any = None
    new_state: Any = None
    reason: str | None = None


class StateStored(Payload):
    """A state was written to a place, or read back from it."""

    state_type: str | None = None
    location: str | None = None
    checksum: str | None = None
    size_bytes: Bytes | None = None
    duration_ms: Milliseconds | None = None


class ConfigurationChanged(Payload):
    """A setting got another value, or the whole configuration did."""

    setting: str | None = None
    old_value: Any = None
    new_value: Any = None
    configuration: dict[str, Any] | None = None
    changed_by: str | None = None
    reason: str | None = None


class AnomalyDetected(Payload):
    """A measurement left what is usual for it."""

    metric_name: str | None = None
    anomaly_type: str | None = None
    severity: str | None = None
    value: Number | None = None
    expected: Number | None = None
    deviation: Number | None = None
    threshold: Number | None = None
    window: str | None = None
    message: str | None = None


class DataAccessed(Payload):
    """Somebody read or changed data that is worth a trace."""

    user_id: str | None = None
    resource: str | None = None
    data_type: str | None = None
    data_subject_id: str | None = None
    action: str | None = None
    purpose: str | None = None
    legal_basis: str | None = None
    record_count: int | None = None


PAYLOADS: dict[str, type[Payload]] = {
    EventType.AGENT_CREATED: AgentDescribed,
    EventType.AGENT_STARTED: AgentDescribed,
    EventType.AGENT_STOPPED: AgentEnded,
    EventType.AGENT_FAILED: AgentFailed,
    EventType.AGENT_HEARTBEAT: AgentHeartbeat,
    EventType.AGENT_REGISTERED: AgentDescribed,
    EventType.AGENT_DEREGISTERED: AgentEnded,
    EventType.TASK_CREATED: TaskCreated,
    EventType.TASK_ASSIGNED: TaskAssigned,
    EventType.TASK_STARTED: TaskStarted,
    EventType.TASK_PROGRESSED: TaskProgressed,
    EventType.TASK_COMPLETED: TaskCompleted,
    EventType.TASK_FAILED: TaskFailed,
    EventType.TASK_CANCELLED: TaskCancelled,
    EventType.TASK_RETRY: TaskRetry,
    EventType.TOOL_INVOKED: ToolInvoked,
    EventType.TOOL_COMPLETED: ToolCompleted,
    EventType.TOOL_FAILED: ToolFailed,
    EventType.WORKFLOW_STARTED: WorkflowStarted,
    EventType.WORKFLOW_STEP_COMPLETED: WorkflowStepCompleted,
    EventType.WORKFLOW_COMPLETED: WorkflowCompleted,
    EventType.WORKFLOW_FAILED: WorkflowFailed,
    EventType.MESSAGE_SENT: Message,
    EventType.MESSAGE_RECEIVED: Message,
    EventType.MESSAGE_FAILED: MessageFailed,
    EventType.PERFORMANCE_METRIC: PerformanceMetric,
    EventType.RESOURCE_ALLOCATED: Resource,
    EventType.RESOURCE_RELEASED: Resource,
    EventType.RESOURCE_EXHAUSTED: Resource,
    EventType.AUTHENTICATION_SUCCESS: Authentication,
    EventType.AUTHENTICATION_FAILURE: Authentication,
    EventType.AUTHORIZATION_GRANTED: Authorization,
    EventType.AUTHORIZATION_DENIED: Authorization,
    EventType.STATE_CHANGED: StateChanged,
    EventType.STATE_PERSISTED: StateStored,
    EventType.STATE_RESTORED: StateStored,
    EventType.CONFIGURATION_CHANGED: ConfigurationChanged,
    EventType.ANOMALY_DETECTED: AnomalyDetected,
    EventType.DATA_ACCESS: DataAccessed,
}
