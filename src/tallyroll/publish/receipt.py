"""What a caller gets for a published event, and what a call is worth while it is open."""

from __future__ import annotations

import asyncio
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


def receipt_of(event_id: str, outcome: Outcome | None) -> Receipt:
    """The receipt of a delivered event. Raises what the other outcomes mean to a caller."""
    if isinstance(outcome, Delivered):
        return Receipt(event_id, outcome.position)
    if isinstance(outcome, Rejected):
        raise outcome.error
    reason = outcome.error.reason if isinstance(outcome, Unknown) and isinstance(outcome.error, LogUnavailable) else "no answer"
    raise PublishUncertain(event_id, reason, kept=isinstance(outcome, Unknown) and outcome.kept)
