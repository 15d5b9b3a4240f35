"""Events to subscribers of this process and to NATS, under the names that users of ``utils.event_bus`` know."""

from tallyroll._api import get_event_bus
from tallyroll.bridges.bus import EventBus
from tallyroll.bridges.forward import KafkaNATSBridge
from tallyroll.bridges.hybrid import HybridEventSystem

__all__ = ["EventBus", "HybridEventSystem", "KafkaNATSBridge", "get_event_bus"]
