"""One call for both: subscribers of this process at once, and the log where the event says so."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from difflib import get_close_matches
from typing import Any

from tallyroll.bridges.bus import EventBus
from tallyroll.errors import InvalidEvent, PublishUncertain
from tallyroll.events.event import AgentEvent
from tallyroll.events.types import EventType, known_types

Publish = Callable[[AgentEvent], Awaitable[Any]]
"""Puts an event into the log; returns when it is there, as ``Roll.publish``."""


class HybridEventSystem:
    """Publishes dicts to a bus, and those with ``persist: True`` to the log as well.

    ::

        system = HybridEventSystem(get_event_bus(), roll.publish)
        await system.publish_event({"event": "task.started", "agent_id": "planner", "persist": True})

    Not promised: that subscribers of durability ``local`` saw nothing of an event that the log then refused; nor that those
    of ``durable`` hear of one whose outcome was uncertain at its deadline and that came into the log later.
    """

    def __init__(self, bus: EventBus, publish: Publish) -> None:
        self._bus = bus
        self._publish = publish

    async def publish_event(self, event_data: Mapping[str, Any]) -> str | None:
        """The event's id once the log has it; None for an event that is not to be persisted, which may be any dict.

        A persisted one needs ``event``, the name or value of an event type, and ``agent_id`` or else ``task_id``, whose
        agent event it becomes, with the whole dict as its payload. Raises InvalidEvent before anything has happened, and
        what publishing raises, when local subscribers have seen it and ``durable`` ones have not. Backpressure with nothing in
        the log when a local subscriber of policy ``block`` stayed full.
        """
        if not isinstance(event_data, Mapping):
            raise InvalidEvent("event_data", f"expected a dict, got {type(event_data).__name__}")
        persist = event_data.get("persist", False)
        if not isinstance(persist, bool):
            raise InvalidEvent("persist", f"expected true or false, got {type(persist).__name__}")
        event = _event(event_data) if persist else None
        told = dict(event_data)
        await self._bus.publish(told)
        if event is None:
            return None
        try:
            await self._publish(event)
        except PublishUncertain as error:
            if error.kept:  # it lies on disk and goes out by itself
                self._bus.publish(event.payload, durability="accepted")
            raise
        # Not awaited: a full queue is no reason to tell the caller that an event failed which is in the log.
        self._bus.publish(event.payload, durability="accepted")
        self._bus.publish(event.payload, durability="durable")
        return event.event_id


def _event(data: Mapping[str, Any]) -> AgentEvent:
    owner = data.get("agent_id") or data.get("task_id")
    if not isinstance(owner, str):
        raise InvalidEvent("agent_id", "expected the id of an agent, or a task_id, in an event that is to be persisted")
    return AgentEvent(_type_named(data.get("event")), owner, "agent", dict(data))


def _type_named(name: object) -> str:
    known = [info.name for info in known_types()]
    if isinstance(name, str):
        for value in (name, getattr(EventType, name.upper().replace(".", "_"), None)):
            if value in known:
                return str(value)
    near = get_close_matches(str(name).lower(), known, n=3)
    raise InvalidEvent("event", f"expected an event type{'; did you mean ' + ', '.join(near) + '?' if near else ''}")
