"""A member of a Kafka group waits for nobody without an end: not for its own commits in a rebalance, nor for a broker that is frozen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from services import KafkaCluster
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S, SESSION_MS
from tests.servers.faulting import create_topics

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import LogUnavailable
from tallyroll.events.ids import new_id
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.builders import numbered

pytestmark = [pytest.mark.server, pytest.mark.fault]

TOPIC = "task-events"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with KafkaCluster(Path(tmp_path_factory.mktemp("groups"))) as cluster:
        yield cluster


@pytest.fixture
async def log(cluster: KafkaCluster, tmp_path: Path) -> AsyncIterator[KafkaLog]:
    prefix = f"g{new_id()[-8:]}."
    settings = Settings(url=f"kafka://{cluster.bootstrap}", data_dir=tmp_path, topic_prefix=prefix, session_timeout_ms=SESSION_MS)
    log = await KafkaLog.open(settings, await create_topics(settings), clock=SystemClock(), telemetry=Counters())
    yield log
    await log.close()


class Listener:
    """Has what it holds; before it gives something up it waits for ``pending``, and knows whether it had to."""

    def __init__(self):
        self.held = set()
        self.pending = None
        self.waited = False

    async def assigned(self, partitions):
        self.held |= set(partitions)
        return {}

    async def revoked(self, partitions):
        if self.pending is not None:
            self.waited = not self.pending.done()
            await self.pending
        self.held -= set(partitions)

    async def lost(self, partitions):
        self.held -= set(partitions)


def topic_of(log):
    return next(topic.name for topic in log._catalogue.topics if topic.base == TOPIC)


async def joined(log, listener):
    topic = topic_of(log)
    subscription = await log.subscribe(topic, [topic], listener)
    async with asyncio.timeout(PATIENCE_S):
        while not listener.held:
            await subscription.poll(50)
    return subscription, topic


async def test_a_commit_under_way_does_not_hold_up_the_rebalance_that_waits_for_it(log, caplog):
    listener, other, topic = Listener(), Listener(), topic_of(log)
    subscription = await log.subscribe(topic, [topic], listener)
    polling = asyncio.create_task(subscription.poll(SESSION_MS))  # one call up to the end: what is to be committed cannot be sent
    async with asyncio.timeout(PATIENCE_S):
        while not listener.held:
            await breathe()
        position = {min(listener.held): 0}  # the topic is empty
        listener.pending = asyncio.create_task(subscription.commit(position))
        another, _ = await joined(log, other)
    assert listener.waited
    # Nothing waits for ever: a commit fails in the end, and a rebalance is told of and goes on. Neither was needed.
    await listener.pending
    assert [line.getMessage() for line in caplog.records if line.name == "tallyroll.kafka"] == []
    assert dict(await log.committed(topic, [topic])) == position
    await log.append(numbered(log._catalogue, 1, partition=min(listener.held).partition)).settled()
    assert sum(map(len, await polling)) == 1
    await asyncio.gather(subscription.close(), another.close())


async def test_while_the_broker_is_frozen_a_member_polls_on_and_its_commit_ends(cluster, log):
    listener = Listener()
    subscription, topic = await joined(log, listener)
    place = min(listener.held)
    await subscription.commit({place: 5})
    cluster.freeze(1)
    try:
        async with asyncio.timeout(PATIENCE_S):
            committing = asyncio.create_task(subscription.commit({place: 6}))
            while not committing.done():
                assert await subscription.poll(50) == []
            with pytest.raises(LogUnavailable):
                await committing
            await subscription.close()
    finally:
        cluster.thaw(1)
    # The broker may have taken what it has not confirmed, or not; nothing else has become of it.
    assert dict(await log.committed(topic, [topic])) in ({place: 5}, {place: 6})


async def test_what_comes_while_a_commit_is_waited_for_is_given_as_many_at_a_time_as_was_asked_for(cluster, log):
    listener, topic = Listener(), topic_of(log)
    await log.append(numbered(log._catalogue, 200, partition=0)).settled()
    subscription = await log.subscribe(topic, [topic], listener, max_records=5)
    given = []

    async def take():
        batches = await subscription.poll(50)
        assert sum(map(len, batches)) <= 5
        given.extend(offset for batch in batches for offset in batch.offsets)

    async with asyncio.timeout(PATIENCE_S):
        while not given:
            await take()
        cluster.freeze(1)
        try:
            with pytest.raises(LogUnavailable):
                await subscription.commit({min(listener.held): 1})
        finally:
            cluster.thaw(1)
        while len(given) < 200:
            await take()
    assert given == list(range(200))
    await subscription.close()
