"""Apache Kafka as the log, through confluent-kafka (librdkafka)."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Any, Final

from confluent_kafka import OFFSET_INVALID, Consumer, IsolationLevel, KafkaError, KafkaException
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from tallyroll.adapters.kafka.config import client_config, consumer_config, producer_config
from tallyroll.adapters.kafka.feed import MOST_BYTES, Feed
from tallyroll.adapters.kafka.outcomes import unavailable
from tallyroll.adapters.kafka.producer import KafkaProducer, PendingRecords
from tallyroll.adapters.kafka.reader import SpanReader
from tallyroll.adapters.kafka.subscription import KafkaSubscription
from tallyroll.adapters.kafka.tls import probe_tls
from tallyroll.errors import LogUnavailable, TopicConflict
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import AssignmentListener, Clock, Encoded, Span
from tallyroll.settings import Settings
from tallyroll.telemetry import Telemetry

log: Final = logging.getLogger("tallyroll.kafka")

_LOOK_S: Final = 2.0  # how long an opening process waits for a broker; it goes on without one
_REQUEST_S: Final = 5.0  # one administrative request; a healthy broker answers in milliseconds
_COORDINATOR_S: Final = 0.1  # between two questions while a group's coordinator moves
_MOVING: Final = frozenset((KafkaError.NOT_COORDINATOR, KafkaError.COORDINATOR_NOT_AVAILABLE, KafkaError.COORDINATOR_LOAD_IN_PROGRESS))
_STALE: Final = frozenset(
    {
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError._NOENT,  # noqa: SLF001  # it was looking for leaders when a broker did not answer
    }
)
_QUEUE_SLACK: Final = 2  # the client's queue holds twice what the publisher keeps in flight, so it is never the one that is full


class KafkaLog:
    """Implements ``ports.EventLog`` on Apache Kafka 4.x.

    Durability: with ``acks=all`` (the default) a Delivered record is on every in-sync replica; that is replication, not
    fsync. Ordering: per partition, in the order of ``append``, also over re-sends (idempotent producer).
    Not promised: anything of that with ``acks`` 0 or 1; survival of all replicas losing power at once.
    """

    def __init__(
        self, settings: Settings, catalogue: Catalogue, *, clock: Clock, telemetry: Telemetry, feed_bytes: int = MOST_BYTES
    ) -> None:
        self._settings = settings
        self._feed_bytes = feed_bytes
        self._catalogue = catalogue
        self._producer = KafkaProducer(
            producer_config(settings), clock=clock, telemetry=telemetry, max_records=settings.max_in_flight * _QUEUE_SLACK
        )
        self._admin: AdminClient | None = None
        self._feed: Feed | None = None
        self._askers: dict[str, Consumer] = {}
        self._asking = threading.Lock()
        self._closed = False

    @classmethod
    async def open(
        cls, settings: Settings, catalogue: Catalogue, *, clock: Clock, telemetry: Telemetry, feed_bytes: int = MOST_BYTES
    ) -> KafkaLog:
        """Checks TLS, and the topics if a broker answers within two seconds. ``feed_bytes``: see ``Feed``.

        Raises SettingsError, and TopicConflict for a topic with another partition count than the catalogue's: keys would
        lie elsewhere than readers look. Never LogUnavailable: a broker may come later.
        """
        await asyncio.to_thread(probe_tls, settings)
        opened = cls(settings, catalogue, clock=clock, telemetry=telemetry, feed_bytes=feed_bytes)
        await asyncio.to_thread(opened._check_topics)
        return opened

    @property
    def durable_spool_needed(self) -> bool:
        return True

    def append(self, records: Sequence[Encoded]) -> PendingRecords:
        return self._producer.append(records)

    def drain(self, timeout_s: float) -> int:
        return self._producer.drain(timeout_s)

    def read(self, spans: Sequence[Span], *, max_records: int = 500) -> AsyncIterator[Batch]:
        return SpanReader(consumer_config(self._settings, None), spans, max_records=max_records).batches()

    async def subscribe(
        self, group: str, topics: Sequence[str], listener: AssignmentListener, *, max_records: int = 500
    ) -> KafkaSubscription:
        if self._feed is None or not self._feed.is_here:
            self._feed = Feed(consumer_config(self._settings, None, follows=True), max_records=max_records, most_bytes=self._feed_bytes)
        subscription = KafkaSubscription(consumer_config(self._settings, group), topics, listener, self._feed, max_records=max_records)
        await subscription.start()
        return subscription

    async def starts(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._offsets(topics, OffsetSpec.earliest())  # type: ignore[no-untyped-call]  # the client has no types there

    async def ends(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        return await self._offsets(topics, OffsetSpec.latest())  # type: ignore[no-untyped-call]  # the client has no types there

    async def positions_at(self, topics: Sequence[str], timestamp_ms: int) -> Mapping[TopicPartition, int]:
        found = await self._offsets(topics, OffsetSpec.for_timestamp(timestamp_ms))
        ends = await self.ends(topics)
        return {partition: offset if offset >= 0 else ends[partition] for partition, offset in found.items()}

    async def committed(self, group: str, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        try:
            found = await asyncio.to_thread(self._committed, group, [ClientPartition(*partition) for partition in self._partitions(topics)])
        except KafkaException as error:
            raise self._translated(error) from None
        return {TopicPartition(item.topic, item.partition): item.offset for item in found if item.offset >= 0}

    def _committed(self, group: str, wanted: list[ClientPartition]) -> list[ClientPartition]:
        """Asked by a consumer that joins no group.

        The same question of the admin client aborts the process where the coordinator's connection breaks meanwhile (librdkafka #3663).
        """
        with self._asking:
            if self._closed:  # who asked is gone: its thread has waited for another one
                raise KafkaException(KafkaError(KafkaError._DESTROY))  # noqa: SLF001  # as the client says it
            if group not in self._askers:
                self._askers[group] = Consumer(consumer_config(self._settings, group))
            asker = self._askers[group]
            asker.poll(0)  # what it has to say goes to its logger
            until = time.monotonic() + _REQUEST_S
            while True:
                try:
                    return _answers(asker.committed(wanted, timeout=_REQUEST_S))
                except KafkaException as error:
                    if not _is_one_of(_MOVING, error) or time.monotonic() > until:
                        raise
                asker.poll(_COORDINATOR_S)  # the client looks for the new one meanwhile

    async def close(self) -> None:
        await asyncio.to_thread(self._producer.close)
        self._admin = None
        await asyncio.to_thread(self._close_askers)

    def _close_askers(self) -> None:
        with self._asking:
            self._closed = True
            while self._askers:
                self._askers.popitem()[1].close()

    def _check_topics(self) -> None:
        try:
            found = self._client().list_topics(timeout=_LOOK_S).topics
        except KafkaException:
            return  # away, or not to be asked: the first publish or read will say
        for topic in self._catalogue.topics:
            metadata = found.get(topic.name)
            if metadata is None:
                log.warning("topic %s is not there, or may not be seen; see: tallyroll topics plan", topic.name)
            elif metadata.error is None and len(metadata.partitions) < topic.partitions:
                raise TopicConflict(topic.name, f"has {len(metadata.partitions)} partitions, the catalogue says {topic.partitions}")
            elif metadata.error is None and len(metadata.partitions) > topic.partitions:
                log.warning("topic %s has more partitions than the catalogue's %d; keys stay in those", topic.name, topic.partitions)

    def _client(self) -> AdminClient:
        if self._admin is None:
            self._admin = AdminClient(client_config(self._settings))
        return self._admin

    def _partitions(self, topics: Sequence[str]) -> list[TopicPartition]:
        result = []
        for name in topics:
            topic = self._catalogue.named(name)
            if topic is None:
                raise TopicConflict(name, "is not in the catalogue")
            result += [TopicPartition(name, partition) for partition in range(topic.partitions)]
        return result

    async def _offsets(self, topics: Sequence[str], spec: Any) -> dict[TopicPartition, int]:  # noqa: ANN401
        request = {ClientPartition(*partition): spec for partition in self._partitions(topics)}
        if not request:
            return {}
        found = await self._list_offsets(request)
        if isinstance(found, KafkaException) and _is_one_of(_STALE, found):
            found = await self._list_offsets(request)
        if isinstance(found, KafkaException):
            raise self._translated(found)
        return found

    async def _list_offsets(self, request: dict[ClientPartition, Any]) -> dict[TopicPartition, int] | KafkaException:
        """An error is returned, not raised: its traceback would hold the client.

        A client that could not tell is not asked again. It may go on asking the leaders that it knew (as librdkafka #4620), or
        wait for an answer that was lost, for ever; a new one looks for itself.
        """
        client = self._client()  # held until its futures are done: without it they fail with _DESTROY
        futures = client.list_offsets(request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=_REQUEST_S)
        answers: list[Any] = await asyncio.gather(*map(asyncio.wrap_future, futures.values()), return_exceptions=True)
        failed = next((answer for answer in answers if isinstance(answer, BaseException)), None)
        if failed is None and any(answer.offset == OFFSET_INVALID for answer in answers):  # the leader that was asked is gone
            failed = KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        if failed is None:
            return {TopicPartition(where.topic, where.partition): answer.offset for where, answer in zip(futures, answers, strict=True)}
        if not isinstance(failed, KafkaException):
            raise failed
        if self._admin is client:
            self._admin = None
        retired = [client]
        del client, futures
        await asyncio.to_thread(retired.clear)  # the last one who asked it waits for its threads
        return failed

    def _translated(self, error: KafkaException) -> LogUnavailable | TopicConflict:
        inner = error.args[0] if error.args else None
        unknown = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001
        if isinstance(inner, KafkaError) and inner.code() in unknown:
            return TopicConflict("of the catalogue", "does not exist in the cluster; run tallyroll topics apply")
        return unavailable(self._settings.bootstrap_servers, error)


def _answers(found: list[ClientPartition]) -> list[ClientPartition]:
    """What was found of each partition. Raises KafkaException for the first of which nothing was."""
    failed = next((item.error for item in found if item.error is not None), None)
    if failed is not None:
        raise KafkaException(failed)
    return found


def _is_one_of(codes: Collection[int], error: KafkaException) -> bool:
    inner = error.args[0] if error.args else None
    return isinstance(inner, KafkaError) and inner.code() in codes
