"""A member of a Kafka group waits for nobody without an end: not for its own commits in a rebalance, nor for a broker that is frozen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from services import KafkaCluster
from tests.servers.faulting import create_topics

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.system import SystemClock
from tallyroll.errors import LogUnavailable
from tallyroll.events.ids import new_id
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

pytestmark = [pytest.mark.server, pytest.mark.fault]

PATIENCE_S = 30
TOPIC = "task-events"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with KafkaCluster(Path(tmp_path_factory.mktemp("groups"))) as cluster:
        yield cluster


@pytest.fixture
async def log(cluster: KafkaCluster, tmp_path: Path) -> AsyncIterator[KafkaLog]:
    settings = Settings(url=f"kafka://{cluster.bootstrap}", data_dir=tmp_path, topic_prefix=f"g{new_id()[-8:]}.", session_timeout_ms=6_000)
    log = await KafkaLog.open(settings, await create_topics(settings), clock=SystemClock(), telemetry=Counters())
    yield log
    await log.close()


class Listener:
    """Has what it holds; before it gives something up it waits for ``pending``."""

    def __init__(self):
        self.held = set()
        self.pending = None

    async def assigned(self, partitions):
        self.held |= set(partitions)
        return {}

    async def revoked(self, partitions):
        if self.pending is not None:
            await self.pending
        self.held -= set(partitions)

    async def lost(self, partitions):
        self.held -= set(partitions)


async def joined(log, listener):
    topic = next(topic.name for topic in log._catalogue.topics if topic.base == TOPIC)
    subscription = await log.subscribe("g", [topic], listener)
    async with asyncio.timeout(PATIENCE_S):
        while not listener.held:
            await subscription.poll(50)
    return subscription, topic


async def test_a_commit_under_way_does_not_hold_up_the_rebalance_that_waits_for_it(log):
    listener, other = Listener(), Listener()
    subscription, topic = await joined(log, listener)
    polling = asyncio.create_task(subscription.poll(60_000))
    position = {min(listener.held): 0}  # the topic is empty
    listener.pending = asyncio.create_task(subscription.commit(position))
    try:
        async with asyncio.timeout(PATIENCE_S):
            joining = asyncio.create_task(joined(log, other))
            while not other.held:
                await asyncio.wait({polling, joining}, timeout=0.1)
                if polling.done():
                    polling = asyncio.create_task(subscription.poll(50))
        assert dict(await log.committed("g", [topic])) == position
    finally:
        await asyncio.gather(subscription.close(), (await joining)[0].close())


async def test_while_the_broker_is_frozen_a_member_polls_on_and_its_commit_ends(cluster, log):
    listener = Listener()
    subscription, topic = await joined(log, listener)
    await subscription.commit({min(listener.held): 5})
    cluster.freeze(1)
    try:
        async with asyncio.timeout(PATIENCE_S):
            committing = asyncio.create_task(subscription.commit({min(listener.held): 6}))
            while not committing.done():
                assert await subscription.poll(50) == []
            with pytest.raises(LogUnavailable):
                await committing
            await subscription.close()
    finally:
        cluster.thaw(1)
    assert set((await log.committed("g", [topic])).values()) <= {5, 6}
