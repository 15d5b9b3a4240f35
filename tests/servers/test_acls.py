"""Rights on a broker that checks them: each service can do what it needs, and nothing of what it does not.

The tables are written by hand and do not come from the code that makes the rules.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    NewTopic,
    ResourcePatternType,
    ResourceType,
)
from services import KafkaCluster
from tests.patience import PATIENCE_S

from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.adapters.kafka.config import LOGGER, client_config, consumer_config, producer_config
from tallyroll.errors import SettingsError
from tallyroll.events.acls import OPERATIONS, SERVICES, acls_of
from tallyroll.events.topic_plan import topic_config
from tallyroll.events.topics import catalogue_of
from tallyroll.settings import Secret, Settings

pytestmark = [pytest.mark.server, pytest.mark.slow]

PREFIX = "acme."
CANARY = "canary-7f3a9c"
PRINCIPALS = (*SERVICES, OPERATIONS)
TOPICS = (
    "agent-events",
    "task-events",
    "workflow-events",
    "performance-events",
    "system-events",
    "audit-events",
    "dead-letters",
    "foreign",
)
GROUPS = ("state", "analytics", "archive", "audit", "redis", "nats", "foreign")
CARE = ("create-topic", "delete-topic", "alter-config", "describe-config", "add-partitions")
ACTS = (*(f"read {t}" for t in TOPICS), *(f"write {t}" for t in TOPICS), *(f"join {g}" for g in GROUPS), *CARE, "create-acl")

_SOURCES = ("agent-events", "task-events", "workflow-events", "performance-events", "system-events")
ALLOWED: Mapping[str, set[str]] = {
    "publisher": {f"write {topic}" for topic in _SOURCES},
    "deciding-publisher": {f"{act} {topic}" for act in ("read", "write") for topic in _SOURCES},
    "state": {*(f"read {topic}" for topic in _SOURCES), "write dead-letters", "join state"},
    "analytics": {
        *(f"read {topic}" for topic in _SOURCES if topic != "system-events"),
        "write system-events",
        "write dead-letters",
        "join analytics",
    },
    "audit-writer": {"write audit-events"},
    "archive": {*(f"read {topic}" for topic in _SOURCES), "join archive"},
    "audit-sealer": {*(f"read {topic}" for topic in _SOURCES), "read audit-events", "write system-events", "join audit"},
    "redis": {*(f"read {topic}" for topic in _SOURCES), "write dead-letters", "join redis"},
    "nats": {*(f"read {topic}" for topic in _SOURCES), "write dead-letters", "join nats"},
    "replay": {f"read {topic}" for topic in (*_SOURCES, "dead-letters")},
    "operations": set(CARE),
}

_DENIALS = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)


@dataclass(frozen=True)
class Secured:
    """A cluster with one topic per name above, a record in each, and the rights of every service."""

    cluster: KafkaCluster

    def settings(self, user: str, password: str | None = None) -> Settings:
        return Settings(
            url=f"kafka://{self.cluster.bootstrap}",
            topic_prefix=PREFIX,
            kafka_security_protocol="SASL_PLAINTEXT",
            kafka_sasl_mechanism="PLAIN",
            kafka_sasl_username=user,
            kafka_sasl_password=Secret(password or f"{user}-{CANARY}"),
        )


def topic_name(base: str) -> str:
    return base if base == "foreign" else f"{PREFIX}{base}"


async def set_up(secured: Secured) -> None:
    settings = secured.settings("admin")
    admin = await KafkaAdmin.open(settings)
    catalogue = catalogue_of(settings)
    for topic in catalogue.topics:
        await admin.create(topic, replication=1, config=topic_config(topic, replication=1))
    for service in PRINCIPALS:
        await admin.create_acls(acls_of(service, catalogue, group_prefix=f"{PREFIX}tallyroll"), service)
    deadline = time.monotonic() + PATIENCE_S
    while not (await admin.describe_acls(PRINCIPALS[-1])).acls:  # the broker asked enforces what it shows, in order
        assert time.monotonic() < deadline
    client = AdminClient(client_config(settings))
    names = ["foreign", *(f"{PREFIX}to-delete-{service}" for service in PRINCIPALS)]
    for future in client.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        future.result(PATIENCE_S)
    producer = Producer(producer_config(settings))
    for base in TOPICS:
        producer.produce(topic_name(base), b"v", b"k", 0)
    assert producer.flush(PATIENCE_S) == 0


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    passwords = {user: f"{user}-{CANARY}" for user in ("admin", "nobody", *PRINCIPALS)}
    with KafkaCluster(tmp_path_factory.mktemp("acl-kafka"), authorizer=True, passwords=passwords) as cluster:
        secured = Secured(cluster)
        asyncio.run(set_up(secured))
        yield secured


def verdict(error: KafkaError | None) -> str:
    if error is None:
        return "allowed"
    return "denied" if error.code() in _DENIALS else f"neither: {error}"


def read_all(settings: Settings) -> dict[str, str]:
    """Assigned, outside any group."""
    consumer = Consumer(consumer_config(settings, None))
    found = {}
    for base in TOPICS:  # the client says nothing at all of a topic that it may not even see
        error = consumer.list_topics(topic_name(base), timeout=PATIENCE_S).topics[topic_name(base)].error
        if error is not None:
            found[f"read {base}"] = verdict(error)
    consumer.assign([TopicPartition(topic_name(base), 0, 0) for base in TOPICS if f"read {base}" not in found])
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < len(TOPICS) and time.monotonic() < deadline:
        message = consumer.poll(0.5)
        if message is not None and message.topic() is not None:
            found[f"read {str(message.topic()).removeprefix(PREFIX)}"] = verdict(message.error())
    consumer.close()
    return found


def write_all(settings: Settings) -> dict[str, str]:
    found: dict[str, str] = {}
    producer = Producer(producer_config(settings))

    def report(act: str) -> Any:
        return lambda error, _: found.setdefault(act, verdict(error))

    for base in TOPICS:
        try:
            producer.produce(topic_name(base), b"v", b"k", 0, on_delivery=report(f"write {base}"))
        except KafkaException as error:
            found[f"write {base}"] = verdict(error.args[0])
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < len(TOPICS) and time.monotonic() < deadline:
        try:
            producer.poll(0.1)
        except KafkaException as error:  # fatal: without the right to write anywhere there is no idempotent producer
            return {f"write {base}": verdict(error.args[0]) for base in TOPICS} | found
    return found


def join(settings: Settings, group: str, topic: str) -> str:
    assigned: list[bool] = []
    consumer = Consumer(consumer_config(settings, settings.group(group)))
    consumer.subscribe([topic], on_assign=lambda _, __: assigned.append(True))
    result = "neither: no answer"
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        message = consumer.poll(0.1)
        if assigned:
            result = "allowed"
            break
        if message is not None and message.error() is not None and message.error().code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
            result = "denied"
            break
    consumer.close()
    return result


def administer(settings: Settings, service: str) -> dict[str, str]:
    client = AdminClient(client_config(settings))
    name = f"{PREFIX}to-delete-{service}"
    entry = ConfigEntry("retention.ms", "1000", incremental_operation=AlterConfigOpType.SET)
    acl = AclBinding(
        ResourceType.TOPIC,
        topic_name("audit-events"),
        ResourcePatternType.LITERAL,
        f"User:{service}",
        "*",
        AclOperation.ALL,
        AclPermissionType.ALLOW,
    )
    requests: list[tuple[str, Mapping[Any, Any]]] = [
        ("create-topic", client.create_topics([NewTopic(f"{PREFIX}new-{service}", 1, 1)])),
        ("alter-config", client.incremental_alter_configs([ConfigResource(ResourceType.TOPIC, name, incremental_configs=[entry])])),
        ("describe-config", client.describe_configs([ConfigResource(ResourceType.TOPIC, name)])),
        ("add-partitions", client.create_partitions([NewPartitions(name, 2)])),
        ("create-acl", client.create_acls([acl])),
    ]
    found = {act: settled(futures) for act, futures in requests}
    found["delete-topic"] = settled(client.delete_topics([name]))
    return found


def settled(futures: Mapping[Any, Any]) -> str:
    (future,) = futures.values()
    try:
        future.result(PATIENCE_S)
    except KafkaException as error:
        return verdict(error.args[0])
    return "allowed"


@pytest.fixture(scope="module")
def verdicts(secured: Secured) -> dict[str, dict[str, str]]:
    """Every act of every service, tried once."""
    found = {}
    for service in PRINCIPALS:
        settings = secured.settings(service)
        found[service] = {
            **read_all(settings),
            **write_all(settings),
            **{f"join {group}": join(settings, group, topic_name("task-events")) for group in GROUPS},
            **administer(settings, service),
        }
    return found


@pytest.mark.parametrize("service", PRINCIPALS)
def test_a_service_can_do_what_it_needs(verdicts: dict[str, dict[str, str]], service: str) -> None:
    assert {act: verdicts[service].get(act) for act in ALLOWED[service]} == dict.fromkeys(ALLOWED[service], "allowed")


@pytest.mark.parametrize("service", PRINCIPALS)
def test_a_service_can_do_nothing_else(verdicts: dict[str, dict[str, str]], service: str) -> None:
    forbidden = set(ACTS) - ALLOWED[service]
    assert {act: verdicts[service].get(act) for act in forbidden} == dict.fromkeys(forbidden, "denied")


def test_who_has_no_rights_is_denied_everything(secured: Secured) -> None:
    settings = secured.settings("nobody")
    found = {
        **read_all(settings),
        **write_all(settings),
        **administer(settings, "replay"),
        "join state": join(settings, "state", topic_name("task-events")),
    }
    assert set(found.values()) == {"denied"}
    assert len(found) == 2 * len(TOPICS) + len(CARE) + 2


def test_the_table_of_acts_can_fail(secured: Secured) -> None:
    """The administrator may do everything, so a broker that checks nothing would show."""
    settings = secured.settings("admin")
    found = {**read_all(settings), **write_all(settings)}
    assert found == dict.fromkeys(found, "allowed")
    assert len(found) == 2 * len(TOPICS)


@pytest.mark.parametrize("service", PRINCIPALS)
async def test_rights_that_were_given_are_read_back_as_given(secured: Secured, service: str) -> None:
    settings = secured.settings("admin")
    admin = await KafkaAdmin.open(settings)
    rights = await admin.describe_acls(service)
    assert rights.acls == acls_of(service, catalogue_of(settings), group_prefix=f"{PREFIX}tallyroll")
    assert rights.others == []


async def test_rights_that_were_not_made_here_are_shown(secured: Secured) -> None:
    settings = secured.settings("admin")
    rule = AclBinding(
        ResourceType.TOPIC, "foreign", ResourcePatternType.LITERAL, "User:guest", "127.0.0.1", AclOperation.ALL, AclPermissionType.ALLOW
    )
    client = AdminClient(client_config(settings))
    (future,) = client.create_acls([rule]).values()
    future.result(PATIENCE_S)
    rights = await (await KafkaAdmin.open(settings)).describe_acls("guest")
    assert rights.acls == []
    assert rights.others == ["ALLOW ALL on TOPIC LITERAL foreign from 127.0.0.1"]


async def test_a_denied_administrative_act_is_a_settings_error_that_names_the_principals_variable(secured: Secured) -> None:
    settings = secured.settings("publisher")
    admin = await KafkaAdmin.open(settings)
    topic = catalogue_of(settings)["agent-events"]
    with pytest.raises(SettingsError) as creating:
        await admin.create(topic, replication=1, config={})
    with pytest.raises(SettingsError) as reading:
        await admin.describe_acls("publisher")
    with pytest.raises(SettingsError) as describing:
        await admin.describe([topic.name])
    assert [caught.value.name for caught in (creating, reading, describing)] == ["KAFKA_SASL_USERNAME"] * 3


async def test_a_wrong_password_is_said_at_once_and_shown_nowhere(secured: Secured, caplog: pytest.LogCaptureFixture) -> None:
    secret = "another-" + CANARY
    with caplog.at_level(logging.DEBUG, logger=LOGGER):
        admin = KafkaAdmin(secured.settings("publisher", secret), request_s=2 * PATIENCE_S)  # waiting it out takes too long
        with pytest.raises(SettingsError) as caught:
            async with asyncio.timeout(PATIENCE_S):
                await admin.broker_count()
    assert caught.value.name == "KAFKA_SASL_PASSWORD"
    assert caplog.records  # the client did say something
    assert CANARY not in caplog.text + str(caught.value) + repr(caught.value)
