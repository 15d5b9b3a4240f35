"""What a caller gets for a published event, and what a call is worth while it is open."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from tallyroll.errors import LogUnavailable, PublishUncertain
from tallyroll.events.position import Position
from tallyroll.ports import Delivered, Outcome, Rejected, Unknown


class Receipt(NamedTuple):
    """Proof that an event was accepted: its id, and where it lies.

    ``position`` is None only when ``KAFKA_WAIT_FOR_ACK`` is off: then the event is in the spool on disk and on its way.
    """

    event_id: str
    position: Position | None


class Ticket:
    """One call's events and their outcomes, in the order given. Lives in one event loop."""

    __slots__ = ("_open", "deadline", "future", "outcomes")

    def __init__(self, count: int, deadline: float, future: asyncio.Future[None]) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.deadline = deadline
        self.future = future
        self._open = count

    @property
    def done(self) -> bool:
        """Whether every event has its outcome, or nobody waits any more."""
        return self.future.done()

    def fill(self, start: int, outcomes: Sequence[Outcome]) -> None:
        """Sets the outcomes from ``start`` on; the first outcome of an event stays."""
        slots = self.outcomes
        if len(outcomes) == len(slots) == self._open:
            self.outcomes = list(outcomes)
            self._open = 0
        else:
            for index, outcome in enumerate(outcomes, start):
                if slots[index] is None:
                    slots[index] = outcome
                    self._open -= 1
        if self._open == 0 and not self.future.done():
            self.future.set_result(None)

    def expire(self, reason: str, *, kept: bool) -> int:
        """The deadline has passed: what is open becomes Unknown. Returns how many that were."""
        unsettled = self._open
        unknown = Unknown(LogUnavailable("log", reason), kept)
        self.outcomes = [unknown if outcome is None else outcome for outcome in self.outcomes]
        self._open = 0
        if not self.future.done():
            self.future.set_result(None)
        return unsettled


class Tickets:
    """The tickets that are open, as they were given out: the first one is the first whose deadline passes."""

    def __init__(self, deadline_ms: int) -> None:
        self._deadline_s = deadline_ms / 1000
        self._open: deque[Ticket] = deque()

    def new(self, loop: asyncio.AbstractEventLoop, count: int, now_s: float) -> Ticket:
        """A ticket for so many events."""
        ticket = Ticket(count, now_s + self._deadline_s, loop.create_future())
        self._open.append(ticket)
        return ticket

    def expire(self, now_s: float, *, kept: bool) -> int:
        """Ends those whose deadline has passed; how many events have become unknown by that."""
        unknown, tickets = 0, self._open
        while tickets and (tickets[0].done or tickets[0].deadline <= now_s):
            ticket = tickets.popleft()
            if not ticket.done:
                unknown += ticket.expire(f"no answer within {self._deadline_s:g} s", kept=kept)
        return unknown

    def close(self, *, kept: bool) -> None:
        """Ends all of them."""
        for ticket in self._open:
            if not ticket.done:
                ticket.expire("closed before the log answered", kept=kept)


def receipt_of(event_id: str, outcome: Outcome | None) -> Receipt:
    """The receipt of a delivered event. Raises what the other outcomes mean to a caller."""
    if isinstance(outcome, Delivered):
        return Receipt(event_id, outcome.position)
    if isinstance(outcome, Rejected):
        raise outcome.error
    reason = outcome.error.reason if isinstance(outcome, Unknown) and isinstance(outcome.error, LogUnavailable) else "no answer"
    raise PublishUncertain(event_id, reason, kept=isinstance(outcome, Unknown) and outcome.kept)
