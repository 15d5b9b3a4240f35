"""Acknowledgements that get lost on the way: no repeat with our producer, and a check that would see one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from confluent_kafka import Producer
from services import KafkaCluster, KafkaProxy
from services.proxy import PRODUCE
from tests.flows.publishing import seen_in
from tests.patience import PATIENCE_S
from tests.servers.faulting import CLOCK, Desk, create_topics, in_thread, publishing, until

from tallyroll.events.ids import new_id
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered
from tallyroll.settings import Settings
from tallyroll.testing.builders import records
from tallyroll.testing.checker import check
from tallyroll.testing.history import Entry, Invoke, Ok, Poll, Read

pytestmark = [pytest.mark.server, pytest.mark.fault]
OFFSET_FETCH = 9


@pytest.fixture(scope="module")
def proxied(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KafkaCluster, KafkaProxy]]:
    folder = Path(tmp_path_factory.mktemp("proxied"))
    with KafkaProxy() as proxy, KafkaCluster(folder, advertised_ports={1: proxy.port}) as cluster:
        proxy.connect(cluster.listen_port(1))
        yield cluster, proxy


@pytest.fixture
async def settings(proxied, tmp_path: Path) -> Settings:
    # No stall: what is sent again here is sent by the client, not by us.
    return Settings(url=f"kafka://{proxied[0].bootstrap}", data_dir=tmp_path, topic_prefix=f"f{new_id()[-8:]}.", stall_ms=60_000)


@pytest.fixture
async def catalogue(settings: Settings) -> Catalogue:
    return await create_topics(settings)


@pytest.fixture
async def desk(settings: Settings, catalogue: Catalogue) -> AsyncIterator[Desk]:
    async with publishing(settings, catalogue) as desk:
        yield desk


async def test_lost_acknowledgements_leave_no_repeat(proxied, desk):
    proxy = proxied[1]
    async with desk.load() as answered:
        for drops in (1, 3):
            before, lost = answered(), proxy.counts().dropped_responses
            await until(lambda before=before: answered() >= before + 10, "load before the fault")
            proxy.drop_responses(drops)
            await in_thread(proxy.wait_until, lambda counts, lost=lost, drops=drops: counts.dropped_responses == lost + drops)
    assert all(isinstance(outcome, Delivered) for outcome in desk.outcomes)
    report = await desk.judge(repeats_allowed=False)
    assert report.clean, str(report)


async def test_lost_requests_change_no_order(proxied, desk):
    proxy = proxied[1]
    async with desk.load() as answered:
        await until(lambda: answered() >= 10, "load before the fault")
        proxy.drop_requests(2, cut=True)
        await in_thread(proxy.wait_until, lambda counts: counts.dropped_requests >= 2)
    report = await desk.judge(repeats_allowed=False)
    assert report.clean, str(report)


async def test_slow_answers_change_nothing_but_time(proxied, desk):
    proxy = proxied[1]
    proxy.delay_responses(30, jitter_ms=60, seed=1)
    try:
        async with desk.load() as answered:
            await until(lambda: answered() >= 30, "load while answers are slow")
    finally:
        proxy.delay_responses(0)
    report = await desk.judge(repeats_allowed=False)
    assert report.clean, str(report)


async def test_control_without_idempotence_the_check_finds_repeats(proxied, desk, catalogue):
    cluster, proxy = proxied
    sent = [record for record in records(catalogue, 400) if record.topic == catalogue["task-events"].name]
    history: list[Entry] = [Invoke("p", record.event_id, record.key.decode()) for record in sent]

    def produce() -> None:
        """A producer as one would set it up without us: acks=1, no idempotence."""
        producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": 1, "enable.idempotence": False, "linger.ms": 100})
        proxy.drop_responses(1)
        for record in sent:

            def told(error, message, record=record) -> None:
                if error is None:
                    history.append(Ok(record.event_id, f"{message.topic()}/{message.partition()}", message.offset()))

            producer.produce(record.topic, record.value, record.key, record.partition, on_delivery=told, headers=list(record.headers))
        assert producer.flush(PATIENCE_S) == 0

    await in_thread(produce)
    assert proxy.counts().requests[PRODUCE] > 0
    for partition, seen in (await seen_in(desk.log, catalogue)).items():
        history.append(Poll("c", [Read(str(partition), offset, record.event_id) for offset, record in enumerate(seen)]))
    assert check(history).of("duplicate")


class NamesNoStart:
    """A listener that does not know where to begin: its store is away."""

    async def assigned(self, partitions):  # noqa: ARG002  # as the port has it
        return {}

    async def revoked(self, partitions):
        """Nothing is to be stored."""

    async def lost(self, partitions):
        """As above."""


async def test_partitions_come_also_while_the_coordinator_does_not_say_what_was_committed(proxied, desk, settings):
    proxy = proxied[1]
    await desk.send("task-1", 0, 3)
    subscription = await desk.log.subscribe(settings.group("state"), [desk.catalogue["task-events"].name], NamesNoStart())
    proxy.drop_requests(1_000, api_key=OFFSET_FETCH)
    try:
        found: list[str] = []
        deadline = CLOCK.monotonic() + PATIENCE_S
        while len(found) < 3 and CLOCK.monotonic() < deadline:
            async with asyncio.timeout(PATIENCE_S):
                found += [head.id for batch in await subscription.poll(100) for head in batch.heads()]
        assert len(found) == 3
        assert proxy.counts().dropped_requests > 0
    finally:
        proxy.drop_requests(0, api_key=OFFSET_FETCH)
        async with asyncio.timeout(PATIENCE_S):
            await subscription.close()


async def test_a_connection_that_breaks_does_not_keep_back_what_was_committed(proxied, desk, settings):
    proxy, topic = proxied[1], desk.catalogue["task-events"].name
    assert await desk.log.committed(settings.group("nats"), [topic]) == {}
    for _ in range(5):
        proxy.drop_responses(1, api_key=OFFSET_FETCH)
        assert await desk.log.committed(settings.group("nats"), [topic]) == {}
