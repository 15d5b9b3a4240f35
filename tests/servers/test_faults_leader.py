"""Three brokers, two of which must have a record: the leader dies under load, and nothing acknowledged with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from services import KafkaCluster
from tests.servers.faulting import create_topics, in_thread, publishing, until

from tallyroll.events.ids import new_id
from tallyroll.events.partition import partition_for
from tallyroll.settings import Settings
from tallyroll.telemetry import CLIENT_RESTARTS

pytestmark = [pytest.mark.server, pytest.mark.fault]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with KafkaCluster(Path(tmp_path_factory.mktemp("three")), brokers=3) as cluster:
        yield cluster


async def test_the_leader_dies_under_load_and_nothing_acknowledged_is_lost(cluster, tmp_path):
    settings = Settings(
        url=f"kafka://{cluster.bootstrap}", data_dir=tmp_path, topic_prefix=f"f{new_id()[-8:]}.", stall_ms=1_000, publish_deadline_ms=5_000
    )
    catalogue = await create_topics(settings, replication=3, min_in_sync=2)
    topic = catalogue["task-events"]
    partition = partition_for(b"task:task-0", topic.partitions)
    async with publishing(settings, catalogue) as desk:
        async with desk.load() as answered:
            await until(lambda: answered() >= 60, "load before the fault")
            leader = (await in_thread(cluster.partition, topic.name, partition)).leader
            await in_thread(cluster.kill, leader)
            await until(lambda: cluster.partition(topic.name, partition).leader not in (leader, -1), "another leader")
            before = answered()
            await until(lambda: answered() >= before + 120, "load after the fault")
        assert desk.telemetry.value(CLIENT_RESTARTS) == 0
        report = await desk.judge()
        assert report.clean, str(report)
        await in_thread(cluster.restart, leader)
