"""What happens to an event before it is encoded: steps of one signature, in the order given."""

from __future__ import annotations

from collections.abc import Callable

from tallyroll.errors import InvalidEvent, UnknownSchema
from tallyroll.events.event import AgentEvent
from tallyroll.events.schema import SCHEMAS

Processor = Callable[[AgentEvent], AgentEvent]
"""One step: returns the event or another one in its place; raises InvalidEvent to refuse it. What else it raises refuses it as well."""


def processed(processor: Processor, event: AgentEvent) -> AgentEvent:
    """What the processor makes of the event. Raises what it raises, and InvalidEvent where it gives something else than an event."""
    made: object = processor(event)
    if not isinstance(made, AgentEvent):
        name = getattr(processor, "__qualname__", type(processor).__name__)
        raise InvalidEvent("event", f"the processor {name} returned {type(made).__name__}, and has to return an AgentEvent")
    return made


def check_version(event: AgentEvent) -> AgentEvent:
    """The event, if followers of this version can read its schema version; they would put any other one aside."""
    try:
        SCHEMAS.number(event.event_type, event.schema_version)
    except UnknownSchema as error:
        raise InvalidEvent("schema_version", str(error)) from None
    return event
