"""Events to subscribers of this process and to NATS, under the names that users of ``utils.event_bus`` know."""

from tallyroll._api import HybridEventSystem, KafkaNATSBridge, get_event_bus
from tallyroll.bridges.bus import EventBus

__all__ = ["EventBus", "HybridEventSystem", "KafkaNATSBridge", "get_event_bus"]
