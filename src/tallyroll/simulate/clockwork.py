"""A discrete-event simulation: processes that sleep in simulated time, and the one place where they write events.

A process is a generator that yields how long it sleeps, in microseconds, or ``PARK`` to sleep until it is woken. Time only
moves forward, so events come out in the order of time. Pure: the only randomness is that of the given seed.
"""

from __future__ import annotations

from collections.abc import Generator
from hashlib import sha256
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, TypeAlias

from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.ids import id_at
from tallyroll.events.moments import EPOCH, moment_at
from tallyroll.events.types import EventType

Process: TypeAlias = Generator[int, None, None]
"""Yields how long to sleep: microseconds, or ``PARK``."""

PARK: Final = -1
SECOND: Final = 1_000_000
CHUNK: Final = 256  # events made at a time: enough to make the switch of context cheap, few enough to stay lazy
SOURCE: Final = "tallyroll/simulate"


class Clockwork:
    """Simulated time, the sleeping processes, the random numbers, and the events made so far.

    Not promised: fairness among processes that wake at one time, beyond the order in which they went to sleep.
    """

    def __init__(self, seed: str, start_us: int) -> None:
        self.now_us = start_us
        self.start_us = start_us
        self.random = Random(seed)  # noqa: S311  # a simulation has to be repeatable, not secret
        # Ids are drawn from a source of their own, so that a change in how ids are made does not change the story.
        self._id_bytes = Random(f"ids of {seed}").randbytes  # noqa: S311  # as above
        self.tag = sha256(seed.encode()).hexdigest()[:6]
        self._sleeping: list[tuple[int, int, Process]] = []
        self._order = 0
        self._made: list[AgentEvent] = []
        self._moment_us = -1
        self._moment = EPOCH
        self._names: dict[str, int] = {}

    def name(self, kind: str) -> str:
        """A new name such as ``task-3fa9c2-00017``; the tag keeps fleets of different seeds apart."""
        number = self._names[kind] = self._names.get(kind, 0) + 1
        return f"{kind}-{self.tag}-{number:05d}"

    def wake(self, process: Process, delay_us: int = 0) -> None:
        """Lets a new or parked process go on after the delay."""
        self._order += 1
        heappush(self._sleeping, (self.now_us + delay_us, self._order, process))

    def emit(  # noqa: PLR0913  # an event has that many parts
        self,
        event_type: EventType,
        aggregate: tuple[str, str],
        payload: dict[str, Any],
        *,
        correlation: str,
        cause: str | None = None,
        session: str | None = None,
    ) -> str:
        """Writes an event at the present moment; returns its id."""
        now_us = self.now_us
        if now_us != self._moment_us:
            self._moment_us = now_us
            self._moment = moment_at(now_us)
        moment = self._moment
        event_id = id_at(now_us, self._id_bytes(10))
        metadata = EventMetadata(correlation, cause, session, source=SOURCE, created_at=moment)
        self._made.append(AgentEvent(event_type, aggregate[1], aggregate[0], payload, metadata, event_id, moment))
        return event_id

    def advance(self) -> list[AgentEvent]:
        """The next events, at least 256; fewer only if no process is left."""
        made = self._made = []
        sleeping = self._sleeping
        while len(made) < CHUNK and sleeping:
            self.now_us, _, process = heappop(sleeping)
            delay = next(process, PARK)
            if delay >= 0:
                self._order += 1
                heappush(sleeping, (self.now_us + delay, self._order, process))
        return made

    def lognormal(self, median: float, sigma: float) -> float:
        """A draw around the median, in the unit of the median."""
        return median * self.random.lognormvariate(0.0, sigma)
