"""The plan that brings topics to the catalogue, and what it refuses."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.errors import SettingsError
from tallyroll.events.topic_plan import CreateTopic, SetConfig, drift, plan, replication_for, request_bytes, topic_config
from tallyroll.events.topics import DAY_MS, Catalogue, TopicOverride, TopicState

CATALOGUE = Catalogue(prefix="x.")


def as_planned(catalogue: Catalogue = CATALOGUE, *, replication: int = 3) -> dict[str, TopicState]:
    return {
        topic.name: TopicState(topic.name, topic.partitions, replication, topic_config(topic, replication=replication))
        for topic in catalogue.topics
    }


def changed(name: str, **fields: object) -> dict[str, TopicState]:
    states = as_planned()
    return {**states, name: states[name]._replace(**fields)}


def configured(name: str, **entries: str) -> dict[str, TopicState]:
    config = {**as_planned()[name].config, **{key.replace("_", "."): value for key, value in entries.items()}}
    return changed(name, config=config)


def applied(states: dict[str, TopicState], changes: tuple[object, ...]) -> dict[str, TopicState]:
    states = dict(states)
    for change in changes:
        if isinstance(change, CreateTopic):
            topic = change.topic
            states[topic.name] = TopicState(topic.name, topic.partitions, change.replication, change.config)
        elif isinstance(change, SetConfig):
            old = states[change.name]
            states[change.name] = old._replace(config={**old.config, **change.config})
    return states


def test_an_empty_log_gets_every_topic_of_the_catalogue() -> None:
    result = plan(CATALOGUE, {}, replication=3)
    assert [change.topic.name for change in result.changes if isinstance(change, CreateTopic)] == [t.name for t in CATALOGUE.topics]
    assert len(result.changes) == 7
    assert result.refusals == ()


def test_a_log_as_catalogued_needs_nothing() -> None:
    result = plan(CATALOGUE, as_planned(), replication=3)
    assert (result.changes, result.refusals) == ((), ())
    assert drift(CATALOGUE, as_planned(), replication=3) == []


def test_audit_entries_are_kept_for_seven_years_of_365_days() -> None:
    assert topic_config(CATALOGUE["audit-events"], replication=3)["retention.ms"] == "220752000000"


@pytest.mark.parametrize(("replication", "in_sync"), [(1, "1"), (2, "1"), (3, "2"), (5, "2")])
def test_two_copies_in_sync_are_demanded_only_where_one_may_be_down(replication: int, in_sync: str) -> None:
    assert topic_config(CATALOGUE["agent-events"], replication=replication)["min.insync.replicas"] == in_sync


@pytest.mark.parametrize("max_record_bytes", [1, 900_000, 5_000_000])
def test_a_topic_takes_the_greatest_request_of_a_client(max_record_bytes: int) -> None:
    config = topic_config(CATALOGUE["agent-events"], replication=3, max_record_bytes=max_record_bytes)
    assert max_record_bytes < request_bytes(max_record_bytes) < int(config["max.message.bytes"])


def test_the_default_sizes_are_those_that_are_documented() -> None:
    assert request_bytes(900_000) == 1_000_000
    assert topic_config(CATALOGUE["agent-events"], replication=3)["max.message.bytes"] == "1048588"


@pytest.mark.parametrize("partitions", [7, 9])
def test_the_partition_count_of_a_topic_with_keys_is_never_changed(partitions: int) -> None:
    states = changed("x.agent-events", partitions=partitions)
    result = plan(CATALOGUE, states, replication=3)
    assert result.changes == ()
    (refusal,) = result.refusals
    assert refusal.topic == "x.agent-events"
    assert f'{{"agent-events": {{"partitions": {partitions}}}}}' in refusal.reason  # the way out, ready to be pasted
    assert [(d.what, d.expected, d.actual) for d in drift(CATALOGUE, states)] == [("partitions", "8", str(partitions))]


def test_the_refusal_to_add_partitions_says_that_keys_would_move() -> None:
    (refusal,) = plan(CATALOGUE, changed("x.agent-events", partitions=4), replication=3).refusals
    assert "keys would move" in refusal.reason
    assert "new topic" in refusal.reason


def test_replication_is_never_lowered() -> None:
    (refusal,) = plan(CATALOGUE, changed("x.agent-events", replication=4), replication=3).refusals
    assert "not lowered" in refusal.reason


def test_replication_is_not_raised_here_and_the_tool_for_it_is_named() -> None:
    states = changed("x.agent-events", replication=2, config=topic_config(CATALOGUE["agent-events"], replication=2))
    result = plan(CATALOGUE, states, replication=3)
    assert result.changes == ()
    assert "kafka-reassign-partitions" in result.refusals[0].reason


def test_a_topic_with_one_copy_is_never_told_to_need_two_in_sync() -> None:
    states = as_planned(replication=1)
    assert plan(CATALOGUE, states, replication=3).changes == ()


def test_only_the_entries_that_differ_are_set_and_what_stood_there_is_kept() -> None:
    result = plan(CATALOGUE, configured("x.task-events", retention_ms="1", cleanup_policy="compact"), replication=3)
    (change,) = result.changes
    assert isinstance(change, SetConfig)
    assert change.config == {"retention.ms": str(90 * DAY_MS), "cleanup.policy": "delete"}
    assert change.before == {"retention.ms": "1", "cleanup.policy": "compact"}


@pytest.mark.parametrize(("before", "removes"), [("-1", True), (str(91 * DAY_MS), True), ("1", False)])
def test_a_change_that_removes_records_is_marked(before: str, removes: bool) -> None:  # noqa: FBT001  # a table of cases
    (change,) = plan(CATALOGUE, configured("x.task-events", retention_ms=before), replication=3).changes
    assert isinstance(change, SetConfig)
    assert change.removes_records is removes


def test_another_change_is_not_marked_as_removing_records() -> None:
    (change,) = plan(CATALOGUE, configured("x.task-events", cleanup_policy="compact"), replication=3).changes
    assert isinstance(change, SetConfig)
    assert not change.removes_records


def test_drift_names_each_difference_once() -> None:
    states = configured("x.task-events", retention_ms="1", min_insync_replicas="1")
    states["x.agent-events"] = states["x.agent-events"]._replace(replication=1, partitions=9)
    del states["x.dead-letters"]
    found = {(d.topic, d.what, d.expected, d.actual) for d in drift(CATALOGUE, states, replication=3)}
    assert found == {
        ("x.agent-events", "partitions", "8", "9"),
        ("x.agent-events", "replication", "3", "1"),
        ("x.agent-events", "min.insync.replicas", "1", "2"),
        ("x.task-events", "retention.ms", str(90 * DAY_MS), "1"),
        ("x.task-events", "min.insync.replicas", "2", "1"),
        ("x.dead-letters", "topic", "exists", None),
    }


def test_topics_that_are_not_ours_are_left_alone() -> None:
    states = {**as_planned(), "somebody-elses": TopicState("somebody-elses", 1, 1, {})}
    assert plan(CATALOGUE, states, replication=3).changes == ()
    assert drift(CATALOGUE, states) == []


@settings(max_examples=50)  # each runs the plan twice
@given(
    st.dictionaries(
        st.sampled_from([topic.name for topic in CATALOGUE.topics]),
        st.builds(
            TopicState,
            st.just("any"),
            st.integers(1, 12),
            st.integers(1, 4),
            st.dictionaries(
                st.sampled_from(["retention.ms", "cleanup.policy", "min.insync.replicas", "other"]), st.sampled_from(["1", "2"])
            ),
        ),
    ),
    st.integers(1, 4),
)
def test_after_the_changes_nothing_is_left_to_change(actual: dict[str, TopicState], replication: int) -> None:
    first = plan(CATALOGUE, actual, replication=replication)
    after = applied(actual, first.changes)
    second = plan(CATALOGUE, after, replication=replication)
    assert second.changes == ()
    assert second.refusals == first.refusals
    assert {d.what for d in drift(CATALOGUE, after, replication=replication)} <= {"partitions", "replication"}


@pytest.mark.parametrize(("wanted", "brokers", "copies"), [(0, 1, 1), (0, 2, 2), (0, 3, 3), (0, 9, 3), (2, 3, 2), (5, 5, 5), (0, 0, 1)])
def test_copies_are_three_or_fewer_where_there_are_fewer_brokers(wanted: int, brokers: int, copies: int) -> None:
    assert replication_for(wanted, brokers) == copies


def test_more_copies_than_brokers_are_refused() -> None:
    with pytest.raises(SettingsError, match="TALLYROLL_REPLICATION"):
        replication_for(3, 2)


def test_overrides_reach_the_plan() -> None:
    catalogue = Catalogue(overrides={"task-events": TopicOverride(partitions=16, retention_days=0.5)})
    creations = {c.topic.base: c for c in plan(catalogue, {}, replication=1).changes if isinstance(c, CreateTopic)}
    assert creations["task-events"].topic.partitions == 16
    assert creations["task-events"].config["retention.ms"] == str(DAY_MS // 2)
