"""Publishing only if nobody was quicker: with the version that the author of an event has seen. The log's order decides."""

from __future__ import annotations

import asyncio
from typing import Final, NamedTuple

from tallyroll.errors import InvalidEvent, SettingsError, SpanGone, VersionConflict
from tallyroll.events.batch import Batch
from tallyroll.events.event import AgentEvent
from tallyroll.events.expected import Expected
from tallyroll.events.partition import partition_for
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.topics import Catalogue, Topic
from tallyroll.events.types import AGENT_TOPIC, TASK_TOPIC, WORKFLOW_TOPIC
from tallyroll.ports import EventLog, Span
from tallyroll.publish.publisher import EventPublisher
from tallyroll.publish.receipt import Receipt

_OWN_TOPICS: Final = {"agent": AGENT_TOPIC, "task": TASK_TOPIC, "workflow": WORKFLOW_TOPIC}


class _Won(NamedTuple):
    """The newest event that took a version of an aggregate."""

    version: int
    event_id: str
    offset: int


class _Partition:
    """What is known of one partition: who won up to ``next``."""

    def __init__(self, log: EventLog, where: TopicPartition) -> None:
        self.where = where
        self.next: int | None = None
        self.won: dict[str, _Won] = {}
        self.waiting: dict[str, int | None] = {}  # events of ours, and where each has won
        self._log = log
        self._repeats = RepeatFilter()
        self._reading = asyncio.Lock()

    async def catch_up(self, end: int | None = None) -> int:
        """Reads up to an offset, or to the end as it is now; how far it has read. Raises LogUnavailable, SpanGone."""
        async with self._reading:
            if end is None:
                end = (await self._log.ends([self.where.topic]))[self.where]
            if self.next is None:
                await self._begin()
            try:
                return await self._read_to(end)
            except SpanGone:  # retention has passed us, and who has won meanwhile is not known any more
                await self._begin()
                return await self._read_to(end)

    async def _begin(self) -> None:
        self.next = (await self._log.starts([self.where.topic]))[self.where]
        self.won.clear()
        self._repeats = RepeatFilter()

    async def _read_to(self, end: int) -> int:
        start = self.next or 0
        if start < end:
            async for batch in self._log.read([Span(*self.where, start, end)]):
                self._read(batch)
            self.next = end
        return max(start, end)

    def _read(self, batch: Batch) -> None:
        heads, offsets = batch.readable()
        copies = self._repeats.copies(heads, offsets)
        for place, head in enumerate(heads):
            if head.expects and place not in copies and (expected := Expected.parse(head.expects)) is not None:
                self.won[f"{head.aggregatetype}:{head.aggregateid}"] = _Won(expected.version + 1, head.id, offsets[place])
                if head.id in self.waiting:
                    self.waiting[head.id] = offsets[place]
        self.next = batch.next_offset


class Versions:
    """The versions of aggregates, and events that are published for the next one. One per process; made by ``Roll``.

    The first question about a partition reads all of it, later ones what has come since. An aggregate's version counts
    those of its events in one topic that were published with an expected version, and no others: who writes it without
    one is not noticed. Needs the right to read the topics: those of the service ``deciding-publisher``.
    Not promised: versions older than the topic's retention; an aggregate of which nothing is left begins again at 0.
    """

    def __init__(self, log: EventLog, catalogue: Catalogue, publisher: EventPublisher, *, wait_for_ack: bool) -> None:
        self._log = log
        self._catalogue = catalogue
        self._publisher = publisher
        self._wait_for_ack = wait_for_ack
        self._partitions: dict[TopicPartition, _Partition] = {}

    async def current(self, aggregate_type: str, aggregate_id: str, *, topic: str | None = None) -> int:
        """As ``Roll.version``. Raises ValueError for a type without a topic of its own, LogUnavailable, SpanGone."""
        base = topic or _OWN_TOPICS.get(aggregate_type)
        if base is None:
            raise ValueError(f"expected the topic of {aggregate_type!r}; only {', '.join(_OWN_TOPICS)} have one of their own")
        key = f"{aggregate_type}:{aggregate_id}"
        partition = self._partition(self._catalogue[base], key)
        await partition.catch_up()
        return _version(partition, key)

    async def publish(self, event: AgentEvent, expected: int) -> Receipt:
        """Proof that the event is in the log and took the version after ``expected``; of any number of rivals one gets it.

        Idempotent: the same event object again, after PublishUncertain, gives the same receipt. Raises VersionConflict (the
        event does not count), ValueError for a negative version, SettingsError where nobody waits for the log, and as
        ``EventPublisher.publish``; after PublishUncertain with ``kept`` the event may still take the version.
        """
        if not isinstance(event, AgentEvent):
            raise InvalidEvent("event", f"expected AgentEvent, got {type(event).__name__}")
        if expected < 0:
            raise ValueError(f"expected_version: expected 0 or more, got {expected}")
        if not self._wait_for_ack:
            raise SettingsError("KAFKA_WAIT_FOR_ACK", "expected true: who does not wait for the log cannot know who was first")
        partition = self._partition(self._catalogue.for_type(event.event_type), event.key)
        as_of = await partition.catch_up()
        known = partition.won.get(event.key)
        if known is not None and known.event_id == event.event_id:
            return Receipt(event.event_id, Position(*partition.where, known.offset))
        if _version(partition, event.key) != expected:
            raise VersionConflict(event.key, expected=expected, actual=_version(partition, event.key))
        partition.waiting[event.event_id] = None
        try:
            receipt = await self._publisher.publish(event, expects=str(Expected(expected, as_of)))
            if receipt.position is not None:
                await partition.catch_up(receipt.position.offset + 1)
        finally:
            won_at = partition.waiting.pop(event.event_id, None)
        if won_at is None and (known := partition.won.get(event.key)) is not None and known.event_id == event.event_id:
            won_at = known.offset  # found by another call for the same event
        if won_at is None:
            raise VersionConflict(event.key, expected=expected, actual=_version(partition, event.key))
        self._publisher.tell_handlers(event)
        return Receipt(event.event_id, Position(*partition.where, won_at))

    def _partition(self, topic: Topic, key: str) -> _Partition:
        where = TopicPartition(topic.name, partition_for(key.encode(), topic.partitions))
        if where not in self._partitions:
            self._partitions[where] = _Partition(self._log, where)
        return self._partitions[where]


def _version(partition: _Partition, key: str) -> int:
    won = partition.won.get(key)
    return 0 if won is None else won.version
