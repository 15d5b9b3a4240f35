"""Reading spans of a Kafka topic without a group: assign, read to the end, commit nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message
from confluent_kafka import TopicPartition as ClientPartition

from tallyroll.adapters.kafka.batches import to_batches
from tallyroll.adapters.kafka.outcomes import reason_of, unavailable
from tallyroll.errors import LogUnavailable, SettingsError, SpanGone
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Span

log: Final = logging.getLogger("tallyroll.kafka")

_LOOK_S: Final = 0.1  # how long one look waits for records before positions are checked
_SILENCE_S: Final = 30.0  # no record and no progress for so long: the log is away


class SpanReader:
    """Reads spans to their ends, as batches.

    Ends are judged by the consumer's position, not by "last offset + 1": transaction markers and compaction leave
    holes, also at the very end of a partition.
    """

    def __init__(self, config: Mapping[str, Any], spans: Sequence[Span], *, max_records: int) -> None:
        self._config = {**config, "enable.partition.eof": False}
        self._servers = config["bootstrap.servers"]
        self._open = {TopicPartition(span.topic, span.partition): span for span in spans if span.start < span.end}
        self._max_records = max_records

    async def batches(self) -> AsyncIterator[Batch]:
        """The records of every span. Raises SpanGone, LogUnavailable."""
        if not self._open:
            return
        loop = asyncio.get_running_loop()
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tallyroll-kafka-read")
        consumer = await loop.run_in_executor(executor, self._start)
        try:
            last_progress = loop.time()
            while self._open:
                batches, finished = await loop.run_in_executor(executor, self._look, consumer)
                for batch in batches:
                    last_progress = loop.time()
                    span = self._open.get(batch.topic_partition)
                    inside = _before(batch, span.end) if span is not None else None
                    if inside is not None:
                        yield inside
                if finished:
                    for partition in finished:
                        del self._open[partition]
                    last_progress = loop.time()
                    await loop.run_in_executor(executor, self._unassign, consumer, finished)
                if loop.time() - last_progress > _SILENCE_S:
                    raise LogUnavailable(f"Kafka at {self._servers}", f"gave no records for {_SILENCE_S:.0f} s")
        finally:
            await asyncio.shield(loop.run_in_executor(executor, consumer.close))
            executor.shutdown(wait=False)

    def _start(self) -> Consumer:
        consumer = Consumer(dict(self._config))
        consumer.assign([ClientPartition(span.topic, span.partition, span.start) for span in self._open.values()])
        return consumer

    def _look(self, consumer: Consumer) -> tuple[list[Batch], list[TopicPartition]]:
        """The next records, and the partitions that were read to their ends."""
        try:
            first = consumer.poll(_LOOK_S)
            messages = [first, *consumer.consume(self._max_records - 1, 0.0)] if first is not None and self._max_records > 1 else []
            if first is not None and not messages:
                messages = [first]
            if any(map(Message.error, messages)):
                messages = [message for message in messages if self._is_record(consumer, message)]
            batches = to_batches(messages)
            # As long as records come in plenty, none of them an end, nobody has to ask where the others are: it costs a tenth.
            if len(messages) == self._max_records and not any(map(self._ends, batches)):
                return batches, []
            positions = consumer.position([ClientPartition(*partition) for partition in self._open])
        except KafkaException as failed:
            raise unavailable(self._servers, failed) from None
        finished = []
        for item in positions:
            partition = TopicPartition(item.topic, item.partition)
            if item.offset >= self._open[partition].end:
                finished.append(partition)
        return batches, finished

    def _ends(self, batch: Batch) -> bool:
        span = self._open.get(batch.topic_partition)
        return span is not None and batch.next_offset >= span.end

    def _is_record(self, consumer: Consumer, message: Message) -> bool:
        """Whether it is one; false for an error that passes. Raises for any other."""
        error = message.error()
        if error is not None:
            self._raise_for(consumer, message, error)
        return error is None

    def _raise_for(self, consumer: Consumer, message: Message, error: KafkaError) -> None:
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):  # noqa: SLF001
            low, _ = consumer.get_watermark_offsets(ClientPartition(str(message.topic()), message.partition() or 0), timeout=10)
            raise SpanGone({f"{message.topic()}/{message.partition()}": low})
        if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
            raise SettingsError("KAFKA_SASL_USERNAME", f"this principal may not read {message.topic()}; see tallyroll topics acls")
        if error.code() in (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION) or error.fatal():  # noqa: SLF001
            raise LogUnavailable(f"Kafka at {self._servers}", reason_of(error))

    def _unassign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        consumer.incremental_unassign([ClientPartition(*partition) for partition in partitions])


def _before(batch: Batch, end: int) -> Batch | None:
    if batch.offsets[-1] < end:
        return batch
    inside = sum(offset < end for offset in batch.offsets)
    return batch.slice(0, inside) if inside else None
