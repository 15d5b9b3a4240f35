from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.events.partition import murmur2, partition_for
from tallyroll.events.topics import Catalogue

# org.apache.kafka.common.utils.UtilsTest.testMurmur2
KAFKAS_OWN = {
    b"21": -973932308,
    b"foobar": -790332482,
    b"a-little-bit-long-string": -985981536,
    b"a-little-bit-longer-string": -1486304829,
    b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    b"abc": 479470107,
}


@pytest.mark.parametrize(("key", "signed"), KAFKAS_OWN.items())
def test_the_hash_is_that_of_the_java_client(key, signed):
    assert murmur2(key) == signed & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("event_type", "key", "topic", "partition"),
    [
        ("agent.started", b"agent:agent-123-claude", "agent-events", 5),
        ("task.started", b"task:task-456-analysis", "task-events", 1),
        ("workflow.started", b"workflow:wf-789-deploy", "workflow-events", 3),
    ],
)
def test_the_documented_keys_lie_where_the_documentation_says(event_type, key, topic, partition):
    assert Catalogue().place(event_type, key) == (topic, partition)


@given(st.binary(max_size=40), st.integers(1, 10_000))
def test_every_key_has_one_partition_in_range(key, partitions):
    assert 0 <= partition_for(key, partitions) < partitions
    assert partition_for(key, partitions) == partition_for(bytes(key), partitions)
