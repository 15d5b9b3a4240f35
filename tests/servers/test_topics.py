"""Topics on a real cluster: what the plan says is what the broker then has."""

from __future__ import annotations

import random
import time
from dataclasses import replace

import pytest
from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewPartitions
from tests.patience import PATIENCE_S

from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.adapters.kafka.config import producer_config
from tallyroll.errors import LogUnavailable, SettingsError, TopicConflict
from tallyroll.events.acls import Acl
from tallyroll.events.topic_plan import CreateTopic, SetConfig, drift, plan, topic_config
from tallyroll.events.topics import Catalogue, TopicState, catalogue_of
from tallyroll.settings import Settings

pytestmark = pytest.mark.server


async def apply(admin: KafkaAdmin, catalogue: Catalogue) -> None:
    actual = await admin.describe([topic.name for topic in catalogue.topics])
    for change in plan(catalogue, actual, replication=1).changes:
        match change:
            case CreateTopic(topic, replication, config):
                await admin.create(topic, replication=replication, config=config)
            case SetConfig(name, config, _):
                await admin.set_config(name, config)


@pytest.fixture
async def admin(kafka_settings: Settings) -> KafkaAdmin:
    return await KafkaAdmin.open(kafka_settings)


@pytest.fixture
async def catalogue(admin: KafkaAdmin, kafka_settings: Settings) -> Catalogue:
    catalogue = catalogue_of(kafka_settings)
    await apply(admin, catalogue)
    return catalogue


async def until(admin: KafkaAdmin, name: str, seen) -> TopicState:
    """The topic once the broker shows the change: metadata follows a moment after the answer. Each look is a request."""
    deadline = time.monotonic() + PATIENCE_S
    while not seen(state := (await admin.describe([name]))[name]):
        assert time.monotonic() < deadline, state
    return state


async def described(admin: KafkaAdmin, catalogue: Catalogue, base: str):
    name = catalogue[base].name
    return (await admin.describe([name]))[name]


async def test_created_topics_are_as_catalogued(admin: KafkaAdmin, catalogue: Catalogue) -> None:
    actual = await admin.describe([topic.name for topic in catalogue.topics])
    assert {name: state.partitions for name, state in actual.items()} == {topic.name: topic.partitions for topic in catalogue.topics}
    assert drift(catalogue, actual, replication=1) == []
    again = plan(catalogue, actual, replication=1)
    assert (again.changes, again.refusals) == ((), ())
    audit = actual[catalogue["audit-events"].name]
    assert audit.config["retention.ms"] == "220752000000"
    assert audit.config["cleanup.policy"] == "delete"


async def test_topics_that_do_not_exist_are_left_out_of_the_description(admin: KafkaAdmin, prefix: str) -> None:
    assert await admin.describe([f"{prefix}none"]) == {}
    assert await admin.describe([]) == {}


async def test_a_topic_that_exists_is_left_as_it_is(admin: KafkaAdmin, catalogue: Catalogue) -> None:
    topic = replace(catalogue["agent-events"], partitions=3, retention_ms=1)
    await admin.create(topic, replication=1, config=topic_config(topic, replication=1))
    state = await described(admin, catalogue, "agent-events")
    assert state.partitions == 8
    assert state.config["retention.ms"] == str(catalogue["agent-events"].retention_ms)


async def test_setting_one_entry_leaves_the_others(admin: KafkaAdmin, catalogue: Catalogue) -> None:
    name = catalogue["task-events"].name
    before = (await described(admin, catalogue, "task-events")).config
    await admin.set_config(name, {"retention.ms": "60000"})
    after = (await until(admin, name, lambda state: state.config != before)).config
    assert {key: value for key, value in after.items() if before[key] != value} == {"retention.ms": "60000"}
    assert [(d.what, d.actual) for d in drift(catalogue, await admin.describe([name])) if d.topic == name] == [("retention.ms", "60000")]
    await apply(admin, catalogue)
    await until(admin, name, lambda state: state.config == before)


async def test_partitions_that_somebody_added_are_seen_and_not_taken_over(
    admin: KafkaAdmin, catalogue: Catalogue, kafka_settings: Settings
) -> None:
    name = catalogue["system-events"].name
    operator = AdminClient({"bootstrap.servers": kafka_settings.bootstrap_servers})
    operator.create_partitions([NewPartitions(name, 6)])[name].result(PATIENCE_S)
    await until(admin, name, lambda state: state.partitions == 6)
    actual = await admin.describe([topic.name for topic in catalogue.topics])
    assert [(d.topic, d.what, d.expected, d.actual) for d in drift(catalogue, actual)] == [(name, "partitions", "4", "6")]
    result = plan(catalogue, actual, replication=1)
    assert result.changes == ()
    assert [refusal.topic for refusal in result.refusals] == [name]


async def test_a_missing_topic_cannot_be_changed(admin: KafkaAdmin, prefix: str) -> None:
    with pytest.raises(TopicConflict, match="does not exist"):
        await admin.set_config(f"{prefix}none", {"retention.ms": "1"})


async def test_a_value_that_the_broker_does_not_accept_is_a_conflict(admin: KafkaAdmin, catalogue: Catalogue) -> None:
    with pytest.raises(TopicConflict, match=r"retention\.ms"):
        await admin.set_config(catalogue["system-events"].name, {"retention.ms": "soon"})


async def test_more_copies_than_brokers_are_a_settings_error(admin: KafkaAdmin, kafka_settings: Settings) -> None:
    topic = catalogue_of(kafka_settings)["agent-events"]
    brokers = await admin.broker_count()
    with pytest.raises(SettingsError, match="TALLYROLL_REPLICATION"):
        await admin.create(topic, replication=brokers + 1, config={})


async def test_rights_need_brokers_that_check_them(admin: KafkaAdmin) -> None:
    with pytest.raises(SettingsError, match=r"authorizer\.class\.name"):
        await admin.create_acls([Acl("topic", "x", "literal", "Read")], "nobody")


@pytest.mark.parametrize("preset", ["default", "throughput", "latency"])
async def test_the_greatest_record_is_delivered(catalogue: Catalogue, kafka_settings: Settings, preset) -> None:
    settings = replace(kafka_settings, kafka_preset=preset)
    reports: list[KafkaError | None] = []
    producer = Producer(producer_config(settings))
    value = random.Random(1).randbytes(settings.max_record_bytes)  # noqa: S311  # nothing that compresses
    for _ in range(3):
        producer.produce(catalogue["agent-events"].name, value, b"k", on_delivery=lambda error, _: reports.append(error))
    assert producer.flush(PATIENCE_S) == 0
    assert reports == [None, None, None]


async def test_a_misspelt_topic_is_not_created_by_publishing(admin: KafkaAdmin, kafka_settings: Settings, prefix: str) -> None:
    producer = Producer(producer_config(kafka_settings) | {"topic.metadata.propagation.max.ms": 0})
    reports: list[KafkaError] = []
    try:
        producer.produce(f"{prefix}tsak-events", b"v", on_delivery=lambda error, _: reports.append(error))
        producer.flush(PATIENCE_S)
        codes = [error.code() for error in reports]
    except KafkaException as error:
        codes = [error.args[0].code()]
    assert codes in ([KafkaError._UNKNOWN_TOPIC], [KafkaError.UNKNOWN_TOPIC_OR_PART])
    assert await admin.describe([f"{prefix}tsak-events"]) == {}


async def test_a_dead_broker_is_unavailable_and_not_a_conflict() -> None:
    admin = KafkaAdmin(Settings(url="kafka://127.0.0.1:1"), request_s=0.5)
    with pytest.raises(LogUnavailable) as caught:
        await admin.describe(["x"])
    assert caught.value.retriable
