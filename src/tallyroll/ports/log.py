"""The log: what goes in, what comes out, who shares it, its topics."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from tallyroll.errors import LogError
from tallyroll.events.batch import Batch
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.topics import Topic, TopicState

# Structs the garbage collector need not look at: there are many of them at a time, and they form no cycles.


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """One record on its way into the log: the partition is chosen, the bytes are final, also for every re-send."""

    event_id: str
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """The record is in the log, at this position, as durably as the log's settings promise."""

    position: Position


class Rejected(NamedTuple):
    """The record is not in the log and will not be."""

    error: LogError


class Unknown(NamedTuple):
    """The record may be in the log, now or later. ``kept``: this process goes on sending it under the same id."""

    error: LogError
    kept: bool = False


Outcome = Delivered | Rejected | Unknown


class Pending(Protocol):
    """Records handed to the log and not all settled yet."""

    @property
    def outcomes(self) -> Sequence[Outcome | None]:
        """One per record in the order given; None while it is open. Filled from another thread."""

    async def settled(self) -> Sequence[Outcome]:
        """Waits until every record has its outcome. Waits for ever if the log never answers: deadlines are the caller's."""


class Span(NamedTuple):
    """A half-open run of offsets of one partition: ``start`` is read, ``end`` is not."""

    topic: str
    partition: int
    start: int
    end: int


class AssignmentListener(Protocol):
    """Told by a subscription when partitions come and go. Each call is awaited before the group moves on."""

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where to start reading each partition that is now ours.

        One left out starts at its committed offset, else, or where that cannot be had now, at its start.
        """

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """They are still ours until this returns: flush and commit now."""

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """They already belong to somebody else: forget what is not flushed, commit nothing."""


class Subscription(Protocol):
    """Membership in a group that shares the partitions of some topics.

    Not promised: that a partition is never held by two members for a moment. Followers fence by position.
    """

    async def poll(self, timeout_ms: int) -> Sequence[Batch]:
        """What has arrived: at most one batch per partition, contiguous in offset order with what came before it.

        Returns early when something is there, else empty after the time-out. Rebalances happen inside. Raises
        LogUnavailable (try again), SpanGone when the wanted offset no longer exists.
        """

    def pause(self, partition: TopicPartition) -> None:
        """Stops batches of one partition; its neighbours go on. Takes effect before the next poll returns."""

    def resume(self, partition: TopicPartition) -> None:
        """Lets a paused partition go on where it stopped."""

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next batch of the partition starts at ``offset``."""

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Stores the next offset to read per partition in the log. A hint: what a follower stores with its results wins."""

    async def close(self) -> None:
        """Leaves the group; ``revoked`` is called first for what is held."""


class EventLog(Protocol):
    """An append-only log of partitioned topics: Apache Kafka, or SQLite on one host.

    Not promised: order between partitions; that an appended record has been seen by anybody.
    """

    @property
    def durable_spool_needed(self) -> bool:
        """Whether the log can be away while this process lives, so that a spool before it makes sense."""

    def append(self, records: Sequence[Encoded]) -> Pending:
        """Hands records over in order, without blocking; within one partition they are appended in the order of the calls.

        Durability: a Delivered record survives what the log's settings say (see the adapter). Raises Backpressure when the
        client's buffer is full; then none of these records was taken. Call it from one thread.
        """

    def read(self, spans: Sequence[Span], *, max_records: int = 500) -> AsyncIterator[Batch]:
        """Every record of the spans: per partition in offset order, partitions in any order; joins no group, commits nothing.

        Ends when each span's end is reached, also where transaction markers or compaction left holes. Raises SpanGone if
        a start no longer exists, LogUnavailable.
        """

    async def subscribe(self, group: str, topics: Sequence[str], listener: AssignmentListener, *, max_records: int = 500) -> Subscription:
        """Joins the group and shares the topics' partitions with its other members, in this and other processes.

        A poll gives ``max_records`` at the most, all partitions together.
        """

    async def starts(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """The first offset that still exists, per partition."""

    async def ends(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """One past the last readable offset, per partition."""

    async def positions_at(self, topics: Sequence[str], timestamp_ms: int) -> Mapping[TopicPartition, int]:
        """Per partition the first offset whose record timestamp is at or after the moment; the end if there is none.

        A bound for reading, not a cut: record timestamps need not rise with offsets.
        """

    async def committed(self, group: str, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """What the group has committed; partitions without a commit are left out."""

    def drain(self, timeout_s: float) -> int:
        """Blocks the calling thread until everything appended is settled, at most so long; returns how many are not.

        For the end of the process only; usable from any thread and from a signal handler's helper thread.
        """

    async def close(self) -> None:
        """Ends the client. What is not settled becomes Unknown."""


class TopicAdmin(Protocol):
    """Creates and alters topics. Needs the rights of the operations principal; services never use it.

    Not promised: that a change is visible to every client at once.
    """

    async def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """The topics that exist, out of ``names``."""

    async def create(self, topic: Topic, *, replication: int, config: Mapping[str, str]) -> None:
        """Creates one topic; one that exists already is left as it is."""

    async def set_config(self, name: str, config: Mapping[str, str]) -> None:
        """Sets the given configuration entries and leaves the others."""

    async def broker_count(self) -> int:
        """How many brokers are alive, which bounds replication."""
