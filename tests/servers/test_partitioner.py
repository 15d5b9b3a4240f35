"""Our partitions are those of Kafka's own Java client and of librdkafka, on a real broker."""

from __future__ import annotations

import asyncio
import subprocess

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from services.install import kafka_kit
from tests.patience import PATIENCE_S

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.system import SystemClock
from tallyroll.events.partition import partition_for
from tallyroll.events.topics import catalogue_of
from tallyroll.ports import Span
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

pytestmark = [pytest.mark.server, pytest.mark.slow]

KEYS = [f"task:task-{number}-{'x' * (number % 7)}é" for number in range(60)]


@pytest.fixture
def topic(kafka: str, kafka_settings: Settings) -> str:
    task_events = catalogue_of(kafka_settings)["task-events"]
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics([NewTopic(task_events.name, task_events.partitions, 1)]).values():
        future.result()
    return task_events.name


async def where_keys_lie(settings: Settings, topic: str) -> dict[str, int]:
    log = await KafkaLog.open(settings, catalogue_of(settings), clock=SystemClock(), telemetry=Counters())
    try:
        ends = await log.ends([topic])
        found = {}
        async for batch in log.read([Span(*partition, 0, end) for partition, end in ends.items()]):
            found.update({key.decode(): batch.partition for key in batch.keys})
        return found
    finally:
        await log.close()


async def test_the_java_client_puts_keys_where_we_do(kafka, kafka_settings, topic):
    kit = kafka_kit()
    command = [
        str(kit.java), "-Xmx128m", "-Dfile.encoding=UTF-8", "-cp", ":".join(map(str, kit.jars)), "org.apache.kafka.tools.ConsoleProducer",
        "--bootstrap-server", kafka, "--topic", topic, "--reader-property", "parse.key=true", "--reader-property", "key.separator=|",
    ]  # fmt: skip
    lines = "".join(f"{key}|value\n" for key in KEYS)
    done = await asyncio.to_thread(
        subprocess.run, command, input=lines, capture_output=True, text=True, encoding="utf-8", timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stderr
    assert await where_keys_lie(kafka_settings, topic) == {key: partition_for(key.encode(), 8) for key in KEYS}


async def test_librdkafka_puts_keys_where_we_do_only_with_the_murmur2_partitioner(kafka, kafka_settings, topic):
    producer = Producer({"bootstrap.servers": kafka, "partitioner": "murmur2_random"})
    for key in KEYS:
        producer.produce(topic, b"value", key.encode())
    producer.flush(PATIENCE_S)
    ours = {key: partition_for(key.encode(), 8) for key in KEYS}
    assert await where_keys_lie(kafka_settings, topic) == ours
    other = Producer({"bootstrap.servers": kafka})
    for key in KEYS:
        other.produce(topic, b"value", key.encode())
    other.flush(PATIENCE_S)
    assert await where_keys_lie(kafka_settings, topic) != ours  # what its own default does: the control
