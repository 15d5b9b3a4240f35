"""All members of a process read the log together, as long as they can; each of them gets what it would have read by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest
from confluent_kafka import TopicPartition as ClientPartition
from confluent_kafka.admin import AdminClient
from tests.patience import PATIENCE_S
from tests.servers.faulting import create_topics

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import SpanGone
from tallyroll.events.topics import Catalogue
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.builders import numbered
from tallyroll.testing.contract import Member, until

pytestmark = pytest.mark.server

SMALL = 60_000
"""Bytes that are kept for those who are behind: some fifty of the records here."""


class Watched:
    """A subscription, or a log that gives such ones; batches are kept as they come."""

    def __init__(self, inner, batches):
        self._inner, self._batches = inner, batches

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def subscribe(self, *args, **kwargs):
        return Watched(await self._inner.subscribe(*args, **kwargs), self._batches)

    async def poll(self, timeout_ms):
        batches = await self._inner.poll(timeout_ms)
        self._batches += batches
        return batches


class Keeps(Member):
    """Keeps the batches as they came."""

    def __init__(self, name, **kwargs):
        super().__init__(name, **kwargs)
        self.batches = []

    async def join(self, log, group, *topics, max_records=500):
        return await super().join(Watched(log, self.batches), group, *topics, max_records=max_records)


@pytest.fixture
async def catalogue(kafka_settings: Settings) -> Catalogue:
    return await create_topics(kafka_settings)


@pytest.fixture
async def log(kafka_settings: Settings, catalogue: Catalogue) -> AsyncIterator[KafkaLog]:
    log = await KafkaLog.open(kafka_settings, catalogue, clock=SystemClock(), telemetry=Counters(), feed_bytes=SMALL)
    yield log
    await log.close()


@pytest.fixture
async def both(log, catalogue, prefix):
    """Two members of groups of their own, who stand at the end of an empty topic; closed at the end."""
    topic = catalogue["task-events"].name
    partitions = catalogue.partitions(["task-events"])
    members = [await Keeps(name, starts=dict.fromkeys(partitions, 0)).join(log, prefix + name, topic) for name in "ab"]
    await all_of(lambda: all(one.held == {*partitions} for one in members), *members)
    yield members
    for one in members:
        await one.subscription.close()


async def all_of(condition, *members):
    await until(condition, *members, timeout_s=PATIENCE_S, what="what was waited for")


async def send(log, catalogue, count, first=0):
    await log.append(numbered(catalogue, count, first=first, timestamp_ms=SystemClock().now_us() // 1_000)).settled()


def shared(one, other):
    """How many batches both have got, the very same ones."""
    return len({id(batch) for batch in one.batches} & {id(batch) for batch in other.batches})


async def test_members_of_one_process_get_the_same_batches(log, catalogue, both):
    one, other = both
    await send(log, catalogue, 300)
    await all_of(lambda: len(one.numbers) == len(other.numbers) == 300, one, other)
    assert shared(one, other) == len(one.batches) == len(other.batches)


async def test_who_stays_away_reads_by_himself_until_he_is_there_again(log, catalogue, both):
    one, other = both
    await send(log, catalogue, 20)
    await all_of(lambda: len(one.numbers) == len(other.numbers) == 20, one, other)
    for first in range(20, 1_020, 100):  # ten times what is kept; the other one is not asked meanwhile
        await send(log, catalogue, 100, first)
        await all_of(lambda end=first + 100: len(one.numbers) == end, one)
    other.batches.clear()
    await all_of(lambda: len(other.numbers) == 1_020, one, other)
    assert shared(one, other) < len(other.batches)
    assert {*other.numbers} == {*range(1_020)}
    # Both stand at the end now, and each record makes a batch of its own.
    one.batches.clear()
    other.batches.clear()
    sent = 1_020
    while not shared(one, other):
        await send(log, catalogue, 10, sent)
        sent += 10
        await all_of(lambda: len(one.numbers) == len(other.numbers) == sent, one, other)  # noqa: B023  # of this round


async def test_under_a_backlog_that_no_window_holds_nobody_misses_anything(log, catalogue, both, prefix):
    """Members check themselves that nothing is left out: partitions fall out of what is kept while others are handed back."""
    chance, topic = Random(5), catalogue["task-events"].name  # noqa: S311  # the same each time
    partitions = catalogue.partitions(["task-events"])
    third = await Keeps("c", starts=dict.fromkeys(partitions, 0)).join(log, prefix + "c", topic, max_records=40)
    members = [*both, third]
    sent = 0
    for _ in range(5):
        await send(log, catalogue, 500, sent)
        sent += 500
        for _ in range(20):
            await asyncio.gather(*[member.step() for member in members if chance.random() < 0.6])
            one, where = chance.choice(members), chance.choice(partitions)
            if where in one.held and chance.random() < 0.2:
                (one.subscription.pause if chance.random() < 0.5 else one.subscription.resume)(where)
    for member in members:
        for where in partitions:
            member.subscription.resume(where)
    await all_of(lambda: all(len(member.numbers) == sent for member in members), *members)
    await third.subscription.close()


async def test_a_partition_of_which_nobody_knows_the_start_keeps_no_other_waiting(log, catalogue, prefix):
    topic, partitions = catalogue["task-events"].name, catalogue.partitions(["task-events"])
    starts = dict.fromkeys(partitions[1:], 0)  # the first one begins where the log does, and stays empty
    members = [await Keeps(name, starts=starts).join(log, prefix + name, topic) for name in "ab"]
    await all_of(lambda: all(one.held == {*partitions} for one in members), *members)
    records = [
        record for place in partitions[1:] for record in numbered(catalogue, 20, first=20 * place.partition, partition=place.partition)
    ]
    await log.append(records).settled()
    await all_of(lambda: all(len(one.numbers) == len(records) for one in members), *members)
    for one in members:
        await one.subscription.close()


async def test_who_goes_back_far_gets_what_is_there_and_the_other_one_goes_on(log, catalogue, both):
    one, other = both
    await send(log, catalogue, 400)
    await all_of(lambda: len(one.numbers) == len(other.numbers) == 400, one, other)
    where = max(catalogue.partitions(["task-events"]), key=lambda one_of: one.next_in(one_of) or 0)
    again = one.next_in(where)
    await one.seek(where, 0)
    await send(log, catalogue, 100, 400)
    await all_of(lambda: len(one.numbers) == 500 + again and len(other.numbers) == 500, one, other)


async def test_the_last_one_goes_on_by_himself(log, catalogue, both):
    one, other = both
    await send(log, catalogue, 50)
    await all_of(lambda: len(one.numbers) == len(other.numbers) == 50, one, other)
    await send(log, catalogue, 50, 50)
    await other.subscription.close()
    await send(log, catalogue, 50, 100)
    await all_of(lambda: len(one.numbers) == 150, one)
    assert sorted(one.numbers) == [*range(150)]


async def test_what_retention_takes_is_told_to_each(log, catalogue, both, kafka):
    one, other = both
    await send(log, catalogue, 100)
    await all_of(lambda: len(one.numbers) == len(other.numbers) == 100, one, other)
    place = max(catalogue.partitions(["task-events"]), key=lambda one_of: one.next_in(one_of) or 0)
    await send(log, catalogue, 200, 100)
    await asyncio.to_thread(_delete_everything, kafka, place)
    for member in both:
        await member.seek(place, 0)
        with pytest.raises(SpanGone):
            await all_of(lambda: False, member)


def _delete_everything(kafka, place):
    client = AdminClient({"bootstrap.servers": kafka})
    for future in client.delete_records([ClientPartition(*place, -1)]).values():
        future.result(PATIENCE_S)
