"""A broker of its own for the pages that speak of Kafka, so that their output needs no prefix."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from services import KafkaCluster, ServiceError


@pytest.fixture(scope="session")
def pages_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    cluster = KafkaCluster(tmp_path_factory.mktemp("kafka"))
    try:
        cluster.start()
    except ServiceError as error:
        pytest.fail(f"no Kafka broker can be started ({error}); mend it, or leave these tests out with --embedded", pytrace=False)
    yield cluster.bootstrap
    cluster.close()
