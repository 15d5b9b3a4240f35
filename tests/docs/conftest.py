"""A broker of its own for each page that speaks of Kafka: the page begins with an empty cluster, and needs no prefix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from services import KafkaCluster, ServiceError


@pytest.fixture
def empty_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cluster = KafkaCluster(Path(tmp_path_factory.mktemp("kafka")))
    try:
        cluster.start()
    except ServiceError as error:
        pytest.fail(f"no Kafka broker can be started ({error}); mend it, or leave these tests out with --embedded", pytrace=False)
    yield cluster.bootstrap
    cluster.close()
