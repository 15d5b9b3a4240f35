"""Apache Kafka keeps the contract of event logs: the same suite as the embedded log, on a real broker."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial

import pytest
from tests.patience import LEAST_SESSION_MS

from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.system import SystemClock
from tallyroll.events.topic_plan import plan
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters
from tallyroll.testing.log_contract import CASES, PROCESS_CASES, SHARED_CASES, Case, LogUnderTest

pytestmark = [pytest.mark.server, pytest.mark.slow]


async def open_kafka(settings: Settings, catalogue: Catalogue) -> KafkaLog:
    return await KafkaLog.open(settings, catalogue, clock=SystemClock(), telemetry=Counters())


@pytest.fixture
async def under_test(kafka_settings: Settings, request: pytest.FixtureRequest) -> LogUnderTest:
    """With sessions that run out for nobody who is alive, unless somebody waits for it."""
    if request.node.callspec.params["case"] in PROCESS_CASES:
        kafka_settings = replace(kafka_settings, session_timeout_ms=LEAST_SESSION_MS)
    catalogue = catalogue_of(kafka_settings)
    admin = KafkaAdmin(kafka_settings)
    wanted = plan(catalogue, await admin.describe([topic.name for topic in catalogue.topics]), replication=1)
    await asyncio.gather(*(admin.create(change.topic, replication=change.replication, config=change.config) for change in wanted.changes))
    return LogUnderTest(catalogue, partial(open_kafka, kafka_settings))


@pytest.mark.parametrize("case", [*CASES, *SHARED_CASES, *PROCESS_CASES], ids=lambda case: case.__name__)
async def test_on_kafka(case: Case, under_test: LogUnderTest) -> None:
    await case(under_test)
