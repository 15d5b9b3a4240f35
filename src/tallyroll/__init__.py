"""Every thing an AI agent does, once, in order, on Apache Kafka or an embedded log; everything else is made from it."""

from tallyroll._api import get_event_publisher, publish_agent_event, publish_task_event, replay_agent_state, replay_task_state
from tallyroll._default import close_default, configure, current_roll, reset_defaults
from tallyroll.errors import (
    Backpressure,
    EventError,
    IncompatibleSchema,
    InvalidEvent,
    LogError,
    LogUnavailable,
    MissingExtra,
    PositionConflict,
    PublishRejected,
    PublishUncertain,
    ReplayError,
    SettingsError,
    SpanGone,
    StoreError,
    StoreUnavailable,
    TallyrollError,
    TopicConflict,
    Undecodable,
    UnknownSchema,
)
from tallyroll.events.context import caused_by, event_context
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.position import Position
from tallyroll.events.types import EventType, register_event_type
from tallyroll.ports import Delivered, Outcome, Rejected, Unknown
from tallyroll.publish.publisher import EventPublisher
from tallyroll.publish.receipt import Receipt
from tallyroll.roll import Roll
from tallyroll.settings import Settings

__all__ = [
    "AgentEvent",
    "Backpressure",
    "Delivered",
    "EventError",
    "EventMetadata",
    "EventPublisher",
    "EventType",
    "IncompatibleSchema",
    "InvalidEvent",
    "LogError",
    "LogUnavailable",
    "MissingExtra",
    "Outcome",
    "Position",
    "PositionConflict",
    "PublishRejected",
    "PublishUncertain",
    "Receipt",
    "Rejected",
    "ReplayError",
    "Roll",
    "Settings",
    "SettingsError",
    "SpanGone",
    "StoreError",
    "StoreUnavailable",
    "TallyrollError",
    "TopicConflict",
    "Undecodable",
    "Unknown",
    "UnknownSchema",
    "caused_by",
    "close_default",
    "configure",
    "current_roll",
    "event_context",
    "get_event_publisher",
    "publish_agent_event",
    "publish_task_event",
    "register_event_type",
    "replay_agent_state",
    "replay_task_state",
    "reset_defaults",
]
