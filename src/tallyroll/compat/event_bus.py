"""Events as messages for others, under the name that users of ``utils.event_bus`` know."""

from tallyroll.bridges.forward import KafkaNATSBridge

__all__ = ["KafkaNATSBridge"]
