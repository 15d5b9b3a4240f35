"""What waits to be tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tallyroll.backoff import Backoff
from tallyroll.errors import TallyrollError
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Follower


class Held:
    """A batch that could not be applied yet: its partition is paused until it is."""

    __slots__ = ("backoff", "batch", "due", "first_us", "follower")

    def __init__(self, follower: Follower, batch: Batch, due: float, first_us: int) -> None:
        self.follower = follower
        self.batch = batch
        self.backoff = Backoff()
        self.due = due
        self.first_us = first_us


class Unbegun:
    """Partitions that came while a store was away: it is not known yet where to begin with them."""

    __slots__ = ("_backoff", "_due", "_partitions", "_unable")

    def __init__(self) -> None:
        self._partitions: set[TopicPartition] = set()
        self._backoff = Backoff()
        self._due = 0.0
        self._unable: BaseException | None = None

    def failed(self, partitions: Iterable[TopicPartition], error: BaseException, now: float) -> None:
        """They have to be begun with later. Raises what does not pass, here and in ``due``: a group may not hand it on."""
        passes = isinstance(error, TallyrollError) and error.retriable
        if not passes and not isinstance(error, asyncio.CancelledError):
            self._unable = error
        else:
            self._partitions.update(partitions)
            self._due = now  # they are paused and tried again at once
        if not passes:
            raise error

    def due(self, now: float) -> list[TopicPartition]:
        """Those to try again now; after that they rest for a while. Raises why others cannot be begun with at all."""
        if self._unable is not None:
            raise self._unable
        if not self._partitions or now < self._due:
            return []
        self._due = now + self._backoff.next_s()
        return sorted(self._partitions)

    def discard(self, partitions: Iterable[TopicPartition]) -> None:
        """They have been begun with, or are somebody else's."""
        self._partitions.difference_update(partitions)
        if not self._partitions:
            self._backoff.reset()
