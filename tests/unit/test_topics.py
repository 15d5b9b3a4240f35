from __future__ import annotations

import pytest

from tallyroll.errors import InvalidEvent, SettingsError
from tallyroll.events.topics import BUILT_IN, Catalogue, TopicOverride
from tallyroll.events.types import EventType

TABLE = {
    "agent-events": (8, 30),
    "task-events": (8, 90),
    "workflow-events": (4, 60),
    "performance-events": (4, 7),
    "audit-events": (8, 2_555),
    "system-events": (4, 14),
    "dead-letters": (4, 90),
}


def test_partitions_and_retention_are_those_of_the_catalogue_table():
    assert {topic.base: (topic.partitions, topic.retention_days) for topic in BUILT_IN} == TABLE


def test_nothing_is_compacted_and_only_audit_is_written_ahead():
    assert {topic.cleanup_policy for topic in BUILT_IN} == {"delete"}
    assert [topic.base for topic in BUILT_IN if topic.durability == "write-ahead"] == ["audit-events"]


@pytest.mark.parametrize("member", EventType)
def test_every_built_in_type_has_a_topic_that_is_neither_audit_nor_dead_letters(member):
    assert Catalogue().for_type(member).base not in {"audit-events", "dead-letters"}


def test_a_prefix_is_put_before_every_name_and_before_no_base():
    catalogue = Catalogue(prefix="acme.")
    assert [topic.name for topic in catalogue.topics] == [f"acme.{base}" for base in TABLE]
    assert catalogue["task-events"].name == "acme.task-events"
    assert catalogue.named("acme.task-events") is catalogue["task-events"]
    assert catalogue.named("task-events") is None


def test_an_override_changes_what_it_names_and_nothing_else():
    catalogue = Catalogue(overrides={"task-events": TopicOverride(partitions=32, retention_days=0.5)})
    assert (catalogue["task-events"].partitions, catalogue["task-events"].retention_ms) == (32, 43_200_000)
    assert catalogue["task-events"].durability == "memory"
    assert catalogue["agent-events"] == Catalogue()["agent-events"]


@pytest.mark.parametrize(
    "overrides",
    [
        {"task_events": TopicOverride(partitions=3)},
        {"task-events": TopicOverride(partitions=0)},
        {"task-events": TopicOverride(partitions=10_001)},
        {"task-events": TopicOverride(retention_days=0)},
        {"task-events": TopicOverride(retention_days=-1)},
    ],
)
def test_overrides_that_make_no_sense_are_refused(overrides):
    with pytest.raises(SettingsError):
        Catalogue(overrides=overrides)


def test_an_unknown_type_has_no_topic():
    with pytest.raises(InvalidEvent):
        Catalogue().for_type("task.exploded")


def test_partitions_are_listed_topic_by_topic():
    listed = Catalogue(prefix="x.").partitions(["workflow-events", "system-events"])
    assert [str(one) for one in listed] == [f"x.{base}/{n}" for base in ("workflow-events", "system-events") for n in range(4)]
