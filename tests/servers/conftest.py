"""Servers for tests: one Kafka broker for the whole run, the one of ``scripts/services`` if it is up.

A server that cannot be started is a failure, never a skip: run with ``--embedded`` to leave these tests out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient
from services import KafkaCluster, ServiceError
from services.stack import Stack
from tests.patience import PATIENCE_S, READ_WAIT_MS, SESSION_MS

from tallyroll.events.ids import new_id
from tallyroll.settings import Settings


def _running_kafka() -> str | None:
    """The brokers of ``scripts/services up``, or None. Changes nothing: what runs is left running."""
    brokers = [service for service in Stack().status() if service["name"].startswith("kafka-")]
    if brokers and all(service["state"] == "running" for service in brokers):
        return ",".join(service["url"] for service in brokers)
    return None


def _remove_topics(brokers: str, prefixes: list[str]) -> None:
    """A broker that lives on would come to thousands of partitions within a day, and be late with everything."""
    client = AdminClient({"bootstrap.servers": brokers})
    names = [name for name in client.list_topics(timeout=PATIENCE_S).topics if name.startswith(tuple(prefixes))]
    for future in client.delete_topics(names).values() if names else ():
        future.result(PATIENCE_S)


@pytest.fixture(scope="session")
def prefixes() -> list[str]:
    """Every ``prefix`` of this run."""
    return []


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory, prefixes: list[str]) -> Iterator[str]:
    """Bootstrap servers of a broker that all tests share: use a topic prefix of your own (``prefix``)."""
    running = _running_kafka()
    if running is not None:
        yield running
        _remove_topics(running, prefixes)
        return
    cluster = KafkaCluster(Path(tmp_path_factory.mktemp("kafka")))
    try:
        cluster.start()
    except ServiceError as error:
        pytest.fail(f"no Kafka broker can be started ({error}); mend it, or leave these tests out with --embedded", pytrace=False)
    yield cluster.bootstrap
    cluster.close()


@pytest.fixture
def prefix(prefixes: list[str]) -> str:
    """A prefix for topics and groups that no other test has."""
    prefixes.append(f"t{new_id().replace('-', '')[-16:]}.")
    return prefixes[-1]


@pytest.fixture
def kafka_settings(kafka: str, prefix: str, tmp_path: Path) -> Settings:
    """Settings for the shared broker, with topics and groups of this test's own; nothing is created yet."""
    return Settings(
        url=f"kafka://{kafka}", topic_prefix=prefix, data_dir=tmp_path, session_timeout_ms=SESSION_MS, read_wait_ms=READ_WAIT_MS
    )
