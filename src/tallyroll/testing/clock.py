"""Time that passes only when a test says so."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from datetime import UTC, datetime
from typing import Final

from tallyroll.events.moments import moment_at, us_of

T0: Final = datetime(2026, 1, 1, tzinfo=UTC)


class FakeClock:
    """Implements ``ports.Clock``; stands still until ``advance`` or ``set_wall_clock``.

    ``start`` is an aware datetime. ``now_us`` and ``monotonic`` may be read from any thread, the rest belongs to the
    event loop. Not promised: that a woken task sees the moment it asked for; it sees the one that was advanced to.
    """

    def __init__(self, start: datetime = T0) -> None:
        self._wall_us = us_of(start)
        self._monotonic_us = 0
        self._order = itertools.count()
        self._sleepers: list[tuple[int, int, asyncio.Future[None]]] = []
        self._asleep = asyncio.Condition()

    def now_us(self) -> int:
        return self._wall_us

    def monotonic(self) -> float:
        return self._monotonic_us / 1_000_000

    @property
    def now(self) -> datetime:
        """The wall clock as an aware datetime."""
        return moment_at(self._wall_us)

    @property
    def sleepers(self) -> int:
        """How many tasks sleep on this clock."""
        return sum(1 for _, _, future in self._sleepers if not future.done())

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic_us + round(seconds * 1_000_000), next(self._order), future))
        async with self._asleep:
            self._asleep.notify_all()
        await future

    async def until_asleep(self, count: int = 1) -> None:
        """Waits until so many tasks sleep: what a test awaits before it advances."""
        async with self._asleep:
            await self._asleep.wait_for(lambda: self.sleepers >= count)

    def advance(self, seconds: float) -> None:
        """Lets time pass: both clocks go on, and whoever is due wakes, in the order of their times."""
        if seconds < 0:
            raise ValueError("time does not go back; set_wall_clock moves the wall clock alone")
        passed_us = round(seconds * 1_000_000)
        self._wall_us += passed_us
        self._monotonic_us += passed_us
        while self._sleepers and self._sleepers[0][0] <= self._monotonic_us:
            future = heapq.heappop(self._sleepers)[2]
            if not future.done():
                future.set_result(None)

    def set_wall_clock(self, moment: datetime) -> None:
        """Moves the wall clock as an operator or a time server does, also back. Nobody wakes."""
        self._wall_us = us_of(moment)
