"""The acceptance of the whole: one event seen everywhere, an outlier that raises an alert that is in the trail, a person forgotten.

On the embedded log and on Kafka, with real Redis and NATS beside.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig
from redis import Redis
from services.nats import NatsServer
from services.redis import RedisServer
from tests.flows.publishing import breathe
from tests.patience import PATIENCE_S

from tallyroll._default import close_default, configure, current_roll, reset_defaults
from tallyroll.compat.analytics_pipeline import get_agent_performance_metrics
from tallyroll.compat.audit_trail import AuditEventCategory, ComplianceFramework, audit_manager, create_audit_log, query_audit_trail
from tallyroll.compat.event_replay import replay_agent_state
from tallyroll.compat.kafka_events import EventType, publish_agent_event
from tallyroll.roll import ANALYTICS_FOLLOWER, AUDIT_FOLLOWER, NATS_FOLLOWER, REDIS_FOLLOWER, STATE_FOLLOWER, Roll
from tallyroll.settings import Secret, Settings

pytestmark = [pytest.mark.server, pytest.mark.slow]

AGENT = "test-agent"
CUSTOMER = "cust-123"
SUBJECT = f"agents.{AGENT}.status"
RULE = """
[[rule]]
kind = "threshold"
name = "hangs"
metric = "response_time"
function = "max"
comparison = ">"
value = 60_000
dimension = "agent"
severity = "high"
"""


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.fixture(scope="module")
def messenger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(params=["embedded", "kafka"])
def settings(request: pytest.FixtureRequest, redis: RedisServer, messenger: NatsServer, tmp_path: Path) -> Settings:
    rules = tmp_path / "alerts.toml"
    rules.write_text(RULE)
    base: Settings = (
        request.getfixturevalue("kafka_settings") if request.param == "kafka" else Settings(url=f"sqlite:///{tmp_path / 'log'}")
    )
    return replace(
        base, redis_host="127.0.0.1", redis_port=redis.port, redis_prefix=f"{request.param}:", nats_servers=messenger.url,
        nats_event_types="task.started", alerts_file=rules, audit_secret_key=Secret("5f" * 32),
    )  # fmt: skip


@asynccontextmanager
async def as_default(settings: Settings) -> AsyncIterator[Roll]:
    """The module-level functions work on this; topics are made first where the log does not."""
    reset_defaults()
    configure(settings)
    roll = await current_roll()
    if settings.is_kafka:
        admin = roll.topic_admin()
        for topic in roll.catalogue.topics:
            await admin.create(topic, replication=1, config={})
    try:
        yield roll
    finally:
        await close_default()
        reset_defaults()


@asynccontextmanager
async def subscribed(messenger: NatsServer) -> AsyncIterator[asyncio.Queue[dict]]:
    seen: asyncio.Queue[dict] = asyncio.Queue()
    connection = await nats.connect(messenger.url)

    async def came(message) -> None:
        seen.put_nowait(json.loads(message.data))

    try:
        await connection.jetstream().add_stream(StreamConfig(name="status", subjects=["agents.*.status"], duplicate_window=1_200))
        await connection.subscribe(SUBJECT, cb=came)
        await connection.flush()
        yield seen
    finally:
        await connection.close()


async def caught_up(roll: Roll, *followers: str) -> None:
    for position in roll.publisher.last_positions():
        for follower in followers:
            await roll.caught_up(position, PATIENCE_S, follower=follower)


async def test_one_event_is_seen_everywhere_and_an_outlier_raises_an_alert(
    settings: Settings, redis: RedisServer, messenger: NatsServer
) -> None:
    async with as_default(settings) as roll, subscribed(messenger) as seen:
        for follower in (STATE_FOLLOWER, ANALYTICS_FOLLOWER, AUDIT_FOLLOWER, REDIS_FOLLOWER, NATS_FOLLOWER):
            await roll.follow(follower)
        event_id = await publish_agent_event(EventType.TASK_STARTED, AGENT, {"task_id": "task-1", "task_type": "analysis"})
        assert event_id
        await caught_up(roll, STATE_FOLLOWER, ANALYTICS_FOLLOWER, AUDIT_FOLLOWER, REDIS_FOLLOWER)

        metrics = await get_agent_performance_metrics(AGENT)
        assert metrics["events_processed"] == 1

        page = await query_audit_trail(agent_id=AGENT)
        assert [entry["event_id"] for entry in page["entries"]] == [event_id]
        assert page["entries"][0]["origin"] == "derived"

        state = await replay_agent_state(AGENT)
        assert state is not None
        assert state["status"] == "running"

        with Redis(port=redis.port) as client:
            view = json.loads(client.get(f"{settings.redis_prefix}{settings.topic_prefix}agent:{AGENT}:state"))
        assert view["status"] == "running"

        message = await asyncio.wait_for(seen.get(), PATIENCE_S)
        assert message["event_id"] == event_id

        await publish_agent_event(EventType.TASK_COMPLETED, AGENT, {"task_id": "task-1", "duration_ms": 3_600_000})
        async with asyncio.timeout(PATIENCE_S):
            while not (page := await query_audit_trail(event_type="anomaly.detected"))["entries"]:
                await breathe()
        assert (await roll.open_alerts())[0][0]["metric"] == "response_time"
        assert page["entries"][0]["origin"] == "derived"

        integrity = await audit_manager.verify_audit_integrity()
        assert integrity["valid"]
        assert integrity["total_entries"] >= 3
        assert integrity["findings"] == []


async def test_a_person_is_sealed_kept_and_forgotten(settings: Settings, tmp_path: Path) -> None:
    async with as_default(settings) as roll:
        await roll.follow(AUDIT_FOLLOWER)
        entry = await create_audit_log(
            "data.accessed", AuditEventCategory.DATA_ACCESS, "read", "a customer's record was read",
            payload={"customer_id": CUSTOMER, "fields": ["name", "email"]}, compliance_frameworks={ComplianceFramework.GDPR},
        )  # fmt: skip
        assert entry.encrypted
        assert abs(entry.retention_date - entry.timestamp - timedelta(days=2_190)) <= timedelta(days=1)
        assert (await audit_manager.verify_audit_integrity())["valid"]
        found = await audit_manager.get_audit_entry(entry.audit_id)
        assert found is not None
        assert found.payload == {"customer_id": CUSTOMER, "fields": ["name", "email"]}

        receipt = await audit_manager.anonymize_subject_data(CUSTOMER)
        assert receipt.state == "done"
        found = await audit_manager.get_audit_entry(entry.audit_id)
        assert found is not None
        assert found.payload == {"erased": True}
        assert CUSTOMER not in json.dumps(found.to_dict())
        assert (await audit_manager.verify_audit_integrity())["valid"]
        assert CUSTOMER not in json.dumps(await query_audit_trail())
        assert CUSTOMER.encode() not in await everything_in(roll)
    assert files_with(CUSTOMER.encode(), tmp_path) == []


def files_with(text: bytes, folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text in file.read_bytes()]


async def everything_in(roll: Roll) -> bytes:
    """Keys, headers and values of every record of every topic."""
    from tallyroll.ports import Span

    ends = await roll.log.ends([topic.name for topic in roll.catalogue.topics])
    pieces: list[bytes] = []
    async for batch in roll.log.read([Span(*where, 0, end) for where, end in ends.items() if end]):
        pieces += [value or b"" for value in batch.values]
        pieces += [key or b"" for key in batch.keys]
        pieces += [value or b"" for index in range(len(batch.values)) for _, value in batch.headers(index)]
    return b"\n".join(pieces)
