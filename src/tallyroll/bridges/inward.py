"""Messages of others into the log: from NATS. A message is acknowledged there only when the log has its event."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec

from tallyroll.bridges.forward import POSITION_HEADER
from tallyroll.errors import LogError, SettingsError, StoreUnavailable, TallyrollError
from tallyroll.events.event import AgentEvent
from tallyroll.events.types import type_info
from tallyroll.ports import Clock, Delivered, MessageSource, Outcome, Received, Rejected, Unknown
from tallyroll.telemetry import NATS_TAKEN_IN, Telemetry

log: Final = logging.getLogger("tallyroll.bridges")

PublishBatch = Callable[[Sequence[AgentEvent]], Awaitable[Sequence[Outcome]]]
"""Puts events into the log; one outcome each, as ``Roll.publish_batch``."""

_AT_ONCE: Final = 500
_WAIT_S: Final = 1.0
_AGAIN_S: Final = 1.0
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


def check_no_loop(inbound: str, outbound: str) -> None:
    """Raises SettingsError when messages that are forwarded could be taken in again: the roots of the subjects must differ.

    Both may hold wildcards, or fields of a template in braces.
    """
    ours, theirs = inbound.split(".", maxsplit=1)[0], outbound.split(".", maxsplit=1)[0]
    if ours == theirs or any(mark in ours + theirs for mark in "*>{"):
        raise SettingsError("TALLYROLL_NATS_SUBJECT", f"expected another root than that of what is taken in ({ours}); else events go round")


class Inward:
    """Takes events from a ``MessageSource`` into the log, until cancelled.

    The event keeps its id, so one that is delivered again, after a crash before the acknowledgement, is the same event. A
    message that some tallyroll has forwarded is dropped: it is in a log already, and would go round. So is one from which no
    event can be read, or that the log refuses; both are counted.
    Not promised: order of what is delivered again.
    """

    def __init__(self, source: MessageSource, publish: PublishBatch, *, clock: Clock, telemetry: Telemetry) -> None:
        self._source = source
        self._publish = publish
        self._clock = clock
        self._telemetry = telemetry

    async def run(self) -> None:
        """Runs until cancelled. While the source or the log is away it tries again."""
        while True:
            try:
                received = await self._source.receive(_AT_ONCE, _WAIT_S)
                if received:
                    await self._take(received)
            except (StoreUnavailable, LogError) as error:
                if not error.retriable:
                    raise
                log.warning("%s; trying again", error)
                await self._clock.sleep(_AGAIN_S)

    async def _take(self, received: Sequence[Received]) -> None:
        events: list[AgentEvent] = []
        owners: list[Received] = []
        dropped: list[Received] = []
        for one in received:
            event = None if POSITION_HEADER in one.headers else _event(one)
            if event is None:
                self._telemetry.count(NATS_TAKEN_IN, outcome="looped" if POSITION_HEADER in one.headers else "unreadable")
                dropped.append(one)
            else:
                events.append(event)
                owners.append(one)
        taken: list[Received] = []
        for one, outcome in zip(owners, await self._publish(events) if events else (), strict=True):
            if isinstance(outcome, Delivered) or (isinstance(outcome, Unknown) and outcome.kept):
                taken.append(one)
                self._telemetry.count(NATS_TAKEN_IN, outcome="taken")
            elif isinstance(outcome, Rejected) and not outcome.error.retriable:
                dropped.append(one)
                self._telemetry.count(NATS_TAKEN_IN, outcome="refused")
            # Otherwise nobody knows: it is not acknowledged, and comes again.
        await self._source.settle(taken, dropped)


def _event(received: Received) -> AgentEvent | None:
    """The event of a message, with the message's id where it brings none of its own."""
    try:
        data = _decode(received.body)
        event = AgentEvent.from_kafka_message({**data, "event_id": data.get("event_id") or received.id})
    except (msgspec.MsgspecError, TallyrollError, ValueError, TypeError, KeyError):
        return None
    return None if type_info(event.event_type) is None else event
