"""Telling this process's own code of delivered events. What it raises is counted and logged, never passed on."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from tallyroll.errors import Undecodable
from tallyroll.events.codec import decode, decode_head
from tallyroll.events.event import AgentEvent
from tallyroll.ports import Delivered, Encoded, Outcome
from tallyroll.telemetry import CALLBACK_ERRORS, Telemetry

log: Final = logging.getLogger("tallyroll.publish")

Handler = Callable[[AgentEvent], Awaitable[None] | None]
"""Told of an event after it was delivered. Its exceptions are counted and logged, never raised."""


class Handlers:
    """Handlers by event type, each call in a task of its own. Not promised: that calls end in the order of delivery."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._by_type: dict[str, list[Handler]] = defaultdict(list)
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, event_type: str, handler: Handler) -> None:
        """From now on ``handler`` is told of such events."""
        self._by_type[event_type].append(handler)

    def tell(self, records: Sequence[Encoded], outcomes: Sequence[Outcome]) -> None:
        """Starts the handlers of what was delivered. Costs nothing while there are none."""
        if not self._by_type:
            return
        for record, outcome in zip(records, outcomes, strict=True):
            event = _event_in(record) if isinstance(outcome, Delivered) else None
            if event is not None and event.event_type in self._by_type and not decode_head(record.value).expects:
                self.tell_of(event)  # of the others it is not known yet whether they count

    def tell_of(self, event: AgentEvent) -> None:
        """Starts the handlers of one event."""
        for handler in self._by_type.get(event.event_type, ()):
            task = asyncio.get_running_loop().create_task(self._call(handler, event))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _call(self, handler: Handler, event: AgentEvent) -> None:
        try:
            result = handler(event)
            if inspect.isawaitable(result):
                await result
        except Exception:
            self._telemetry.count(CALLBACK_ERRORS)
            log.exception("an event handler failed; the event is published all the same")


def _event_in(record: Encoded) -> AgentEvent | None:
    """None for a record that is no event: an entry of the audit ledger."""
    try:
        return decode(record.value)
    except Undecodable:
        return None
