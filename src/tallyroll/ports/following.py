"""What the loop drives: offered by features, implemented by no adapter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that a follower could not apply: where it lies in the batch, a fixed reason code, the error's class."""

    index: int
    reason: str
    error: str


class Follower(Protocol):
    """A fold that runs for ever: applies batches, and keeps its results together with the position they belong to.

    Effects happen once because results and positions are written in one transaction, and a batch that was applied
    before is dropped. Implemented by features, driven by the loop and by nobody else. While ``flush`` is under way, ``apply``
    and ``wants_flush`` are called, and nothing else is; otherwise there is one call at a time.
    Not promised: batches of other topics.
    """

    @property
    def name(self) -> str:
        """Names the follower in metrics, dead letters and the store."""

    @property
    def topics(self) -> Sequence[str]:
        """Base names of the topics it reads."""

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The next offset to apply, as stored with the results; partitions never seen are left out."""

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """Folds a batch into memory, all of it; returns the records that could not be applied and had no effect.

        Batches of a partition come in order, without overlap. Raising means that nothing of the batch was applied:
        a retriable error is tried again, any other makes the loop offer the records one by one.
        """

    def wants_flush(self, *, interval_over: bool) -> bool:
        """Whether to flush now. Asked some 10 ms after a batch at the latest, and again and again until it is flushed.

        ``interval_over``: something is not flushed for as long as the settings say, or there is much of it. Who has no
        reason of its own returns that. When somebody waits, or a partition is given up, the loop flushes without asking.
        """

    async def flush(self) -> Mapping[TopicPartition, int]:
        """Writes results and positions in one transaction; durable when it returns. Gives the stored next offsets.

        An offset beyond what was applied says that the results up to there came from elsewhere: reading goes on from there.
        What is written is what has been applied when it is called: it is taken before anything is awaited. What comes while
        it is being written belongs to the next flush.
        Raises StoreUnavailable (nothing was written, try again) or PositionConflict (another writer is at work).
        """

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        """Forgets what is not flushed, and everything cached, of these partitions."""

    async def close(self) -> None:
        """Closes what the follower opened. Does not flush."""


@runtime_checkable
class LooksFirst(Protocol):
    """A follower of which ``positions`` means that it is going to hold the partitions, and ``stored`` only asks.

    Who has no ``stored`` is asked with ``positions`` about partitions that another member of the group holds, maybe in the
    moment in which it gets them: then ``positions`` must change nothing.
    Not promised: that the answer still holds a moment later, when that member has gone on.
    """

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As ``Follower.positions``; changes nothing."""
