"""Bad records on a real broker: each ends in the dead letters as it was, and its partition goes on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from confluent_kafka import Producer
from tests.flows.following import SqliteAccountant
from tests.patience import PATIENCE_S
from tests.servers.faulting import CLOCK, create_topics, until

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.events.position import Position, TopicPartition
from tallyroll.follow.deadletter import DeadLetters, read_letters
from tallyroll.follow.loop import FollowLoop
from tallyroll.settings import Settings
from tallyroll.telemetry import DEAD_LETTERS, Counters
from tallyroll.testing.builders import records
from tallyroll.testing.poison import POISON

pytestmark = [pytest.mark.server, pytest.mark.slow]
_PARTITION = 3
_LETTER_ROOM = 900_000  # of value, key and header


def poison_and_good(settings: Settings, topic: str, good: bytes) -> int:
    """Every bad value, each followed by a good one, as another program would write them; gives how many."""
    producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "message.max.bytes": 2_000_000, "enable.idempotence": True})
    for index, bad in enumerate(POISON):
        producer.produce(topic, bad.value, f"k{index}".encode(), _PARTITION, headers=[("n", str(index).encode()), ("none", None)])
        producer.produce(topic, good, None, _PARTITION)
        assert producer.flush(PATIENCE_S) == 0
    return len(POISON) * 2


async def test_each_poison_ends_in_the_dead_letters_and_the_partition_goes_on(kafka_settings: Settings, tmp_path: Path):
    catalogue, telemetry = await create_topics(kafka_settings), Counters()
    topic = catalogue["task-events"].name
    good = next(record for record in records(catalogue, 50) if record.topic == topic)
    count = await asyncio.to_thread(poison_and_good, kafka_settings, topic, good.value)
    log = await KafkaLog.open(kafka_settings, catalogue, clock=CLOCK, telemetry=telemetry)
    letters = DeadLetters(log, catalogue, clock=CLOCK, telemetry=telemetry, max_record_bytes=_LETTER_ROOM)
    follower = SqliteAccountant(tmp_path / "effects.db")
    loop = FollowLoop(
        log, [follower], catalogue, kafka_settings, group=kafka_settings.group("f"), dead_letters=letters, clock=CLOCK, telemetry=telemetry
    )
    loop.start()
    await until(lambda: loop.flushed["accountant"].get(TopicPartition(topic, _PARTITION)) == count, "the end of the partition")
    await loop.stop()
    found = {letter.position: letter async for letter in read_letters(log, catalogue)}
    await follower.close()
    await log.close()
    assert len(found) == telemetry.value(DEAD_LETTERS) == len(POISON)
    for index, bad in enumerate(POISON):
        letter = found[Position(topic, _PARTITION, index * 2)]
        assert letter.key == f"k{index}".encode()
        assert letter.info.reason.removesuffix(",bytes_left_in_source") == bad.reason, bad.name
        if len(bad.value or b"") < _LETTER_ROOM - 1_000:
            assert letter.value == bad.value, bad.name
            assert list(letter.batch().headers(0)) == [("n", str(index).encode()), ("none", None)]
        else:
            assert letter.info.reason.endswith(",bytes_left_in_source")
