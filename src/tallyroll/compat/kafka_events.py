"""Publishing events, under the names that users of ``utils.kafka_events`` know."""

from tallyroll._api import EventSourcedAgentManager, PrivacyCompliantEvent, get_event_publisher, publish_agent_event, publish_task_event
from tallyroll.adapters.extras import KAFKA_AVAILABLE
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.types import EventType
from tallyroll.publish.publisher import EventPublisher
from tallyroll.publish.publisher import EventPublisher as KafkaEventPublisher

__all__ = [
    "KAFKA_AVAILABLE",
    "AgentEvent",
    "EventMetadata",
    "EventPublisher",
    "EventSourcedAgentManager",
    "EventType",
    "KafkaEventPublisher",
    "PrivacyCompliantEvent",
    "get_event_publisher",
    "publish_agent_event",
    "publish_task_event",
]
