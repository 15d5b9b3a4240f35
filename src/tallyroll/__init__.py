"""Every thing an AI agent does, once, in order, on Apache Kafka or an embedded log; everything else is made from it."""

from tallyroll._api import (
    get_agent_performance_metrics,
    get_event_publisher,
    publish_agent_event,
    publish_task_event,
    replay_agent_state,
    replay_task_state,
)
from tallyroll._default import close_default, configure, current_roll, reset_defaults
from tallyroll.bridges.agents import EventSourcedAgentManager
from tallyroll.errors import (
    Backpressure,
    BrokenHistory,
    DocumentConflict,
    EventError,
    IncompatibleSchema,
    InvalidEvent,
    LogError,
    LogUnavailable,
    MissingExtra,
    NoHistory,
    PositionConflict,
    PublishRejected,
    PublishUncertain,
    ReducerFailed,
    ReplayCancelled,
    ReplayError,
    SegmentDamaged,
    SettingsError,
    SnapshotMismatch,
    SpanGone,
    StoreError,
    StoreUnavailable,
    TallyrollError,
    TopicConflict,
    Undecodable,
    UnknownSchema,
    VersionConflict,
    WorkerFailed,
)
from tallyroll.events.context import caused_by, event_context
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.position import Position
from tallyroll.events.types import EventType, register_event_type
from tallyroll.ports import Delivered, Outcome, Rejected, Unknown
from tallyroll.publish.publisher import EventPublisher
from tallyroll.publish.receipt import Receipt
from tallyroll.replay.kinds import StateType
from tallyroll.replay.plan import ReplayFilter, ReplayMode
from tallyroll.replay.projector import StateProjector
from tallyroll.roll import Roll
from tallyroll.settings import Settings

__all__ = [
    "AgentEvent",
    "Backpressure",
    "BrokenHistory",
    "Delivered",
    "DocumentConflict",
    "EventError",
    "EventMetadata",
    "EventPublisher",
    "EventSourcedAgentManager",
    "EventType",
    "IncompatibleSchema",
    "InvalidEvent",
    "LogError",
    "LogUnavailable",
    "MissingExtra",
    "NoHistory",
    "Outcome",
    "Position",
    "PositionConflict",
    "PublishRejected",
    "PublishUncertain",
    "Receipt",
    "ReducerFailed",
    "Rejected",
    "ReplayCancelled",
    "ReplayError",
    "ReplayFilter",
    "ReplayMode",
    "Roll",
    "SegmentDamaged",
    "Settings",
    "SettingsError",
    "SnapshotMismatch",
    "SpanGone",
    "StateProjector",
    "StateType",
    "StoreError",
    "StoreUnavailable",
    "TallyrollError",
    "TopicConflict",
    "Undecodable",
    "Unknown",
    "UnknownSchema",
    "VersionConflict",
    "WorkerFailed",
    "caused_by",
    "close_default",
    "configure",
    "current_roll",
    "event_context",
    "get_agent_performance_metrics",
    "get_event_publisher",
    "publish_agent_event",
    "publish_task_event",
    "register_event_type",
    "replay_agent_state",
    "replay_task_state",
    "reset_defaults",
]
