"""One broker is killed, frozen or away while events are published: none acknowledged is lost, none overtakes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from services import KafkaCluster
from tests.servers.faulting import CLOCK, Beat, Desk, create_topics, in_thread, publishing, until

from tallyroll.errors import LogUnavailable
from tallyroll.events.ids import new_id
from tallyroll.ports import Delivered, Unknown
from tallyroll.settings import Settings
from tallyroll.telemetry import CLIENT_RESTARTS, LANES_SPOOLING, SPOOL_DEPTH

pytestmark = [pytest.mark.server, pytest.mark.fault]
AWAY_S = 30.0
_WAITED_MS = AWAY_S * 1000 / 10  # a host that waits for its broker waits all the while


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaCluster]:
    with KafkaCluster(Path(tmp_path_factory.mktemp("broken"))) as cluster:
        yield cluster


@pytest.fixture
async def desk(cluster: KafkaCluster, tmp_path: Path) -> AsyncIterator[Desk]:
    settings = Settings(
        url=f"kafka://{cluster.bootstrap}", data_dir=tmp_path, topic_prefix=f"f{new_id()[-8:]}.", stall_ms=600, publish_deadline_ms=2_000
    )
    catalogue = await create_topics(settings)
    async with publishing(settings, catalogue) as desk:
        yield desk


async def test_a_broker_killed_and_restarted_under_load_costs_nothing(cluster, desk):
    async with desk.load() as answered:
        await until(lambda: answered() >= 30, "load before the fault")
        await in_thread(cluster.kill, 1)
        await in_thread(cluster.restart, 1)
        before = answered()
        await until(lambda: answered() >= before + 60, "load after the fault")
    report = await desk.judge()
    assert report.clean, str(report)


async def test_a_broker_frozen_past_stall_and_deadline_leaves_only_uncertainty(cluster, desk):
    async with desk.load() as answered:
        await until(lambda: answered() >= 30, "load before the fault")
        cluster.freeze(1)
        try:
            await until(lambda: any(isinstance(outcome, Unknown) for outcome in desk.outcomes), "a deadline passes")
            assert desk.publisher.spool_depth > 0
        finally:
            cluster.thaw(1)
        before = answered()
        await until(lambda: answered() >= before + 60, "load after the fault")
    assert {type(outcome) for outcome in desk.outcomes} == {Delivered, Unknown}
    assert all(outcome.kept for outcome in desk.outcomes if isinstance(outcome, Unknown))
    report = await desk.judge()
    assert report.clean, str(report)


async def test_while_the_broker_is_away_the_spool_grows_and_the_host_is_not_blocked(cluster, desk):
    await desk.send("task-warm", 0, 10)
    await in_thread(cluster.kill, 1)
    beat, back_at = Beat(), time.monotonic() + AWAY_S
    async with desk.load(batch=50):
        await until(lambda: desk.publisher.spool_depth >= 600, "the spool grows")
        await until(lambda: time.monotonic() >= back_at, "the time that the broker is away", AWAY_S + 10)
        blocked_ms = beat.stop()
        await in_thread(cluster.restart, 1)
        await until(lambda: desk.publisher.spool_depth == 0, "the spool drains")
    await until(lambda: desk.telemetry.value(LANES_SPOOLING) == 0 and desk.telemetry.value(SPOOL_DEPTH) == 0, "lanes go direct again")
    assert blocked_ms < _WAITED_MS
    assert desk.telemetry.value(CLIENT_RESTARTS) == 0
    report = await desk.judge()
    assert report.clean, str(report)


async def test_who_asks_on_while_the_broker_is_frozen_is_answered_afterwards(cluster, desk):
    thawed = False

    async def ask_on(topics):
        while True:
            try:
                await desk.log.ends(topics)
            except LogUnavailable:
                await CLOCK.sleep(0.1)
            else:
                if thawed:
                    return

    every = [topic.name for topic in desk.catalogue.topics]
    await desk.log.ends(every)
    before = _clients()
    asking = [asyncio.create_task(ask_on(topics)) for topics in (every, *([topic] for topic in every))]
    cluster.freeze(1)
    try:
        with pytest.raises(LogUnavailable):
            await desk.log.ends(every)
        with pytest.raises(LogUnavailable):  # the client is looking for leaders now
            await desk.log.ends(every)
    finally:
        cluster.thaw(1)
    thawed = True
    await until(lambda: all(one.done() for one in asking), "everybody is answered")
    await asyncio.gather(*asking)
    assert _clients() <= before, "those that could not tell are gone"


def _clients() -> int:
    """How many clients of Kafka this process has: each has one thread of that name."""
    return sum(thread.read_text() == "rdk:main\n" for thread in Path("/proc/self/task").glob("*/comm"))
