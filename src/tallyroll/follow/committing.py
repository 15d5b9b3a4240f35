"""Commits of positions to the log, now and then, beside the reading: a hint for whoever comes next, and nobody waits for the answer."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from typing import Final

from tallyroll.errors import LogError
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Clock, Subscription

_COMMIT_S: Final = 0.5  # how often positions are committed: a hint need not be newer


class Commits:
    """What was committed, and the commit that is under way, one at most. Used by the task of the loop, or in its stead while it waits."""

    def __init__(self, *, interval_s: float, clock: Clock) -> None:
        self._interval_s = max(interval_s, _COMMIT_S)
        self._clock = clock
        self._committed: dict[TopicPartition, int] = {}
        self._last_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self.failed = False
        """Whether the last commit has to be made again."""

    @property
    def due(self) -> bool:
        """Whether it is time to ``begin``. Raises what came of the commit before, where it may not pass; else it has ``failed``."""
        if self._task is not None and self._task.done():
            task, self._task = self._task, None
            try:
                task.result()
            except LogError as error:
                if not error.retriable:
                    raise
                self.failed = True
        return self._task is None and self._clock.monotonic() - self._last_s >= self._interval_s

    def begin(self, subscription: Subscription, positions: Mapping[TopicPartition, int]) -> None:
        """Commits these positions in a task of its own, when it is ``due``."""
        self.failed = False
        self._task = asyncio.create_task(self._commit(subscription, positions), name="commit")

    async def finish(self, subscription: Subscription | None, positions: Mapping[TopicPartition, int]) -> None:
        """Commits these positions, whatever became of what was under way; where the log does not answer they stay uncommitted."""
        await self.settled()
        if subscription is not None:
            with contextlib.suppress(LogError):
                await self._commit(subscription, positions)

    async def settled(self) -> None:
        """Waits for what is under way, whatever comes of it."""
        if (task := self._task) is not None:
            await asyncio.wait([task])
            self._task = None
            if not task.cancelled():
                task.exception()  # what was not committed is committed the next time

    def forget(self, partitions: Iterable[TopicPartition]) -> None:
        """Somebody else commits for them now."""
        for partition in partitions:
            self._committed.pop(partition, None)

    async def _commit(self, subscription: Subscription, positions: Mapping[TopicPartition, int]) -> None:
        self._last_s = self._clock.monotonic()
        news = {partition: offset for partition, offset in positions.items() if self._committed.get(partition) != offset}
        if news:
            self._committed.update(news)
            try:
                await subscription.commit(news)
            except BaseException:
                self.forget(news)
                raise
