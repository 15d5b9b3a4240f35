"""Sealed records on their way: durable first, sent again as they are until it is certain what became of them, counted if lost."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from tallyroll.errors import LogError
from tallyroll.events.topics import Topic
from tallyroll.ports import Clock, Delivered, Outcome, Rejected, Unknown
from tallyroll.publish.load import Body
from tallyroll.publish.publisher import EventPublisher
from tallyroll.publish.receipt import Ticket
from tallyroll.telemetry import AUDIT_LOST, Telemetry
from tallyroll.waiting import ends_within

log: Final = logging.getLogger("tallyroll.audit")

_PAUSES_S: Final = (0.05, 0.2, 1.0)  # before sealed bytes are sent again; then the caller is told
_MAX_UNSENT: Final = 10_000  # records that are only in memory, some 20 MB; more are given up
T = TypeVar("T")


class Sending:
    """Hands sealed records to a publisher, and does not let go of them. Used from one event loop.

    ``unsent`` are those of which nobody knows, and that nobody else sends; ``send_again`` does. Not promised: their order.
    """

    def __init__(self, publisher: EventPublisher, topic: Topic, *, clock: Clock, telemetry: Telemetry, stall_ms: int) -> None:
        self._publisher = publisher
        self._topic = topic
        self._clock = clock
        self._telemetry = telemetry
        self._stall_s = stall_ms / 1_000
        self._tasks: set[asyncio.Task[Any]] = set()
        self._away = False
        self.unsent: list[Body] = []

    def begin(self) -> None:
        """In a new event loop: what another one has left open, the publisher carries over."""
        self._tasks = set()

    async def room(self, size_bytes: int) -> None:
        """As ``EventPublisher.room``: before something is sealed."""
        await self._publisher.room(size_bytes)

    def send(self, bodies: Sequence[Body]) -> tuple[asyncio.Task[list[Outcome]], asyncio.Task[list[Outcome] | None]]:
        """Accepts records, one at least, in their order, at once.

        Gives what becomes of them, and the same or None as soon as they are durable here. Both tasks go on whoever waits.
        A log without a spool before it is itself what is durable.
        """
        ticket = self._publisher.hand_over(bodies)
        settled = self._track(self._settle(bodies, ticket))
        if not self._publisher.writes_ahead(self._topic):
            return settled, settled
        return settled, self._track(self._keep_ahead(ticket, settled))

    def send_again(self) -> None:
        """What is in memory only, the same bytes under the same ids."""
        if self.unsent:
            unsent, self.unsent = self.unsent, []
            self.send(unsent)

    async def close(self, last: Sequence[Body], grace_s: float) -> None:
        """Sends the last records and what is unsent, and waits so long until everything is durable."""
        if bodies := [*last, *self.unsent]:
            with contextlib.suppress(LogError):
                self.send(bodies)
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=grace_s)

    async def _keep_ahead(self, ticket: Ticket, settled: asyncio.Task[list[Outcome]]) -> list[Outcome] | None:
        """Once the bodies are on disk it is enough, if the log does not answer soon."""
        await self._publisher.on_disk()
        patience_s = 0 if self._away else self._stall_s
        is_there = not any(isinstance(outcome, Rejected) for outcome in ticket.outcomes)
        if is_there and not await ends_within(self._clock, patience_s, settled):
            self._away = True  # until something is delivered nobody else waits so long
            return None
        return await asyncio.shield(settled)

    async def _settle(self, bodies: Sequence[Body], ticket: Ticket) -> list[Outcome]:
        """What became of sealed records. Sends again what may not have arrived, and counts what is lost."""
        await ticket.future
        outcomes: list[Outcome] = [outcome for outcome in ticket.outcomes if outcome is not None]
        for pause_s in _PAUSES_S:
            again = [index for index, outcome in enumerate(outcomes) if _is_open(outcome)]
            if not again:
                break
            await self._clock.sleep(pause_s)
            with contextlib.suppress(LogError):
                second = self._publisher.hand_over([bodies[index] for index in again])
                await second.future
                for index, outcome in zip(again, second.outcomes, strict=True):
                    outcomes[index] = _of_tries(outcomes[index], outcome)
        self._away = self._away and not any(isinstance(outcome, Delivered) for outcome in outcomes)
        for body, outcome in zip(bodies, outcomes, strict=True):
            if isinstance(outcome, Rejected):
                self._lose(body, type(outcome.error).__name__)
            elif isinstance(outcome, Unknown) and not outcome.kept:
                self._keep(body)
        return outcomes

    def _keep(self, body: Body) -> None:
        if len(self.unsent) >= _MAX_UNSENT:
            self._lose(body, "too many wait in memory")
        else:
            self.unsent.append(body)

    def _lose(self, body: Body, reason: str) -> None:
        self._telemetry.count(AUDIT_LOST)
        log.error("sealed record %s of partition %d is lost (%s): its number stays a gap", body.event_id, body.partition, reason)

    def _track(self, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _is_open(outcome: Outcome) -> bool:
    """Whether the same bytes are sent again: nobody else does, and it may help."""
    return (isinstance(outcome, Unknown) and not outcome.kept) or (isinstance(outcome, Rejected) and outcome.error.retriable)


def _of_tries(first: Outcome, second: Outcome | None) -> Outcome:
    """What two tries say together: a refusal now says nothing of an earlier try that nobody heard of."""
    if second is None or (isinstance(first, Unknown) and isinstance(second, Rejected)):
        return first
    return second
