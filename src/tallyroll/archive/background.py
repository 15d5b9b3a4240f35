"""Seals while following goes on: one at a time, in a worker thread, when a tail is long, large or old."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final

from tallyroll.archive.sealing import Sealer, SealLimits
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import SpanGone, StoreError
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Clock, Tail
from tallyroll.telemetry import ARCHIVE_SEAL_FAILURES, ARCHIVE_SEALED, Telemetry
from tallyroll.waiting import within

log: Final = logging.getLogger("tallyroll.archive")

_LOOK_S: Final = 60.0  # between two looks at the age of tails, which is measured in hours; a wall clock may be moved
_RETRY_S: Final = 30.0  # after a seal that failed, most likely for want of room: each attempt builds the whole file anew
_FULL: Final = 2  # times the limits: then following waits, so that a tail is bounded however slowly it is sealed


@dataclass(frozen=True, slots=True, eq=False)
class _Waiting:
    """What is known of a partition's tail; another object as soon as there is news. ``retry_at``: not before, monotonic."""

    tail: Tail
    retry_at: float = 0.0


class BackgroundSeals:
    """Has partitions sealed that are due, also silent ones, without being asked again. Used from one event loop.

    A seal that fails leaves the records in the tail, is logged and counted, and is tried again half a minute later.
    Not promised: that a tail is sealed the moment it is due; one is built after the other.
    """

    def __init__(self, store: ArchiveStore, sealer: Sealer, limits: SealLimits, *, clock: Clock, telemetry: Telemetry) -> None:
        self._store = store
        self._sealer = sealer
        self._limits = limits
        self._full = replace(limits, records=_FULL * limits.records, raw_bytes=_FULL * limits.raw_bytes, age_us=2**62)
        self._clock = clock
        self._telemetry = telemetry
        self._waiting: dict[TopicPartition, _Waiting] = {}
        self._under_way: TopicPartition | None = None
        self._news = asyncio.Event()
        self._turn = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None
        self._closing = False

    def note(self, partition: TopicPartition, tail: Tail) -> None:
        """What waits in a partition now; sealed when it is due, from then on. Raises what no seal should have raised."""
        known = self._waiting.get(partition)
        self._waiting[partition] = _Waiting(tail, known.retry_at if known is not None else 0.0)
        if self._task is None and not self._closing:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="seal")
        elif self._task is not None and self._task.done():
            self._task.result()
        if self._is_due(partition):
            self._news.set()

    def forget(self, partitions: Collection[TopicPartition]) -> None:
        """Somebody else looks after them now; a seal under way goes on, and whoever seals them too is fenced by it."""
        for partition in partitions:
            self._waiting.pop(partition, None)

    async def ease(self, partition: TopicPartition) -> None:
        """Waits while a tail is twice as long as it should be and is going to be sealed."""
        async with self._turn:
            await self._turn.wait_for(lambda: not (self._is_due(partition) and self._limit_is(self._full, partition)))

    async def settled(self) -> None:
        """Waits until nothing is due and nothing under way; a partition whose seal has failed waits for its next attempt."""
        async with self._turn:
            await self._turn.wait_for(lambda: self._under_way is None and not any(map(self._is_due, self._waiting)))

    async def close(self) -> None:
        """Ends it, after the seal that is under way."""
        self._closing = True
        self._news.set()
        if self._task is not None:
            await self._task

    def cancel(self) -> None:
        """Ends it at once; a seal that is under way goes on in its thread, and comes to nothing if the store is closed."""
        self._closing = True
        if self._task is not None and not self._task.done():
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._seal_what_is_due()
        finally:
            self._waiting.clear()
            self._under_way = None
            async with self._turn:
                self._turn.notify_all()

    async def _seal_what_is_due(self) -> None:
        while not self._closing:
            due = next(filter(self._is_due, list(self._waiting)), None)
            if due is None:
                self._news.clear()
                await self._wait()
                continue
            before = self._waiting[due]
            self._under_way = due
            after = await asyncio.to_thread(self._seal, due)
            self._under_way = None
            if self._waiting.get(due) is before:  # else there is news of a tail that was longer meanwhile: looked at again
                self._waiting[due] = after
            elif due in self._waiting:
                self._waiting[due] = replace(self._waiting[due], retry_at=after.retry_at)
            async with self._turn:
                self._turn.notify_all()

    async def _wait(self) -> None:
        """Until there is news, or a tail is due by its age, or may be tried again."""
        now, now_us = self._clock.monotonic(), self._clock.now_us()
        ages = [(one.tail.since_us + self._limits.age_us - now_us) / 1e6 for one in self._waiting.values() if one.tail.since_us is not None]
        retries = [one.retry_at - now for one in self._waiting.values() if one.retry_at > now]
        with suppress(TimeoutError):
            await within(self._clock, min([_LOOK_S, *(one for one in ages if one > 0), *retries]), self._news.wait())

    def _is_due(self, partition: TopicPartition) -> bool:
        waiting = self._waiting.get(partition)
        return waiting is not None and waiting.retry_at <= self._clock.monotonic() and self._limit_is(self._limits, partition)

    def _limit_is(self, limits: SealLimits, partition: TopicPartition) -> bool:
        return limits.is_due(self._waiting[partition].tail, self._clock.now_us())

    def _seal(self, partition: TopicPartition) -> _Waiting:
        """Seals if it is still due, and gives what waits then. Blocks."""
        index, retry_at = self._store.made(partition), 0.0
        try:
            if self._limits.is_due(index.tail(), self._clock.now_us()) and self._sealer.seal(partition) is not None:
                self._telemetry.count(ARCHIVE_SEALED, topic=partition.topic)
            return _Waiting(index.tail())
        except (StoreError, SpanGone) as error:  # gone where somebody prunes at the same moment
            # The records are safe in the tail; a flush that failed would offer them again.
            log.warning("%s; the seal is tried again", error, extra=partition._asdict())
            self._telemetry.count(ARCHIVE_SEAL_FAILURES, topic=partition.topic)
            retry_at = self._clock.monotonic() + _RETRY_S
        with suppress(StoreError):
            return _Waiting(index.tail(), retry_at)
        return _Waiting(Tail(self._limits.records, 0, None), retry_at)
