"""What surrounds a process: time, spans, and further processes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from tallyroll.events.batch import Batch
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position


class TracedEvents:
    """Events as they are to be published, and where they came to lie: who publishes sets ``positions``, None for not delivered."""

    __slots__ = ("events", "positions")

    def __init__(self, events: Sequence[AgentEvent]) -> None:
        self.events = events
        self.positions: Sequence[Position | None] = ()


class Tracing(Protocol):
    """Where spans of publishing and following go: one per call and one per batch, not one per event.

    Both contexts end with what happened inside them; neither raises anything of its own, blocks, or keeps an event back.
    Not promised: that a span arrives anywhere.
    """

    def publishing(self, events: Sequence[AgentEvent]) -> AbstractContextManager[TracedEvents]:
        """A span around publishing these; gives the events with the trace in them by which followers find it."""

    def applying(self, follower: str, batch: Batch) -> AbstractContextManager[None]:
        """A span around what a follower does with a batch, in the traces that its events carry or linked to them."""

    async def close(self) -> None:
        """Sends what waits. Safe to call twice."""


class Workers(Protocol):
    """Processes that each do one job of a parallel replay, with a log and an archive of their own.

    Not promised: that they are of this host's Python alone; jobs and messages are bytes for that reason.
    """

    def run(self, jobs: Sequence[bytes]) -> AsyncGenerator[tuple[int, bytes], None]:
        """The messages of each job, with its number, as they come. Leaving the iteration early ends every process.

        Raises WorkerFailed for a process that ended without its last message.
        """


class Clock(Protocol):
    """Time, as an argument. Not promised: that ``now_us`` never goes back; ``monotonic`` does not."""

    def now_us(self) -> int:
        """Wall clock, microseconds since 1970, UTC."""

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward."""

    async def sleep(self, seconds: float) -> None:
        """Waits that long on this clock."""
