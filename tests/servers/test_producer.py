"""The producing half of the Kafka log: outcomes, several event loops, and the end of the process."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace

import msgspec
import pytest
from tests.patience import PATIENCE_S
from tests.servers.faulting import CLOCK, create_topics, until

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.errors import Backpressure
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered, Rejected, Unknown
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.builders import numbered

pytestmark = pytest.mark.server


@pytest.fixture
async def catalogue(kafka_settings: Settings) -> Catalogue:
    return await create_topics(kafka_settings)


@pytest.fixture
async def log(kafka_settings: Settings, catalogue: Catalogue):
    log = await KafkaLog.open(kafka_settings, catalogue, clock=CLOCK, telemetry=Counters())
    yield log
    await log.close()


async def test_a_record_that_the_broker_refuses_is_rejected_and_its_neighbours_are_delivered(log, catalogue):
    sent = numbered(catalogue, 3, partition=0)
    sent[1] = msgspec.structs.replace(sent[1], partition=4_000)
    outcomes = await log.append(sent).settled()
    assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Delivered]


async def test_a_record_above_the_limit_is_rejected_and_its_neighbours_are_delivered(log, catalogue):
    sent = numbered(catalogue, 3, partition=0)
    sent[1] = msgspec.structs.replace(sent[1], value=b"x" * 3_000_000)
    outcomes = await log.append(sent).settled()
    assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Delivered]


async def test_drain_in_another_thread_waits_for_all(log, catalogue):
    pending = log.append(numbered(catalogue, 2_000))
    assert await asyncio.to_thread(log.drain, PATIENCE_S) == 0
    assert all(isinstance(outcome, Delivered) for outcome in pending.outcomes)


async def test_a_full_queue_is_back_pressure_and_takes_nothing(kafka_settings, catalogue):
    log = await KafkaLog.open(replace(kafka_settings, max_in_flight=50), catalogue, clock=CLOCK, telemetry=Counters())
    with pytest.raises(Backpressure):
        log.append(numbered(catalogue, 101))
    assert await log.append(numbered(catalogue, 10)).settled()
    assert sum((await log.ends([catalogue["task-events"].name])).values()) == 10
    await log.close()


async def test_what_is_open_at_the_end_is_unknown(tmp_path):
    settings = Settings(url="kafka://127.0.0.1:1", data_dir=tmp_path)
    catalogue = Catalogue()
    log = await KafkaLog.open(settings, catalogue, clock=CLOCK, telemetry=Counters())
    pending = log.append(numbered(catalogue, 5))
    waiting = asyncio.ensure_future(pending.settled())
    await asyncio.sleep(0)  # noqa: TID251  # lets it wait
    await log.close()
    outcomes = await asyncio.wait_for(waiting, PATIENCE_S)
    assert [type(outcome) for outcome in outcomes] == [Unknown] * 5


async def test_outcomes_wake_event_loops_of_several_threads(log, catalogue):
    found: list[list[object]] = []

    def other_thread() -> None:
        async def wait() -> None:
            found.append(list(await pending.settled()))

        asyncio.run(wait())

    pending = log.append(numbered(catalogue, 100))
    threads = [threading.Thread(target=other_thread) for _ in range(2)]
    for thread in threads:
        thread.start()
    found.append(list(await pending.settled()))
    await until(lambda: len(found) == 3, "both threads are told")
    assert found[0] == found[1] == found[2]
    for thread in threads:
        thread.join()
