from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum, StrEnum

import pytest

from tallyroll.errors import InvalidEvent
from tallyroll.events.codec import decode, encode
from tallyroll.events.context import event_context
from tallyroll.events.event import AgentEvent, EventMetadata, from_iso, iso
from tallyroll.events.types import EventType

T = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Kind(StrEnum):
    TASK = "task"


class OldKind(str, Enum):  # noqa: UP042  # users have these
    TASK = "task"


class Text(str):
    __slots__ = ()


def event(**changes) -> AgentEvent:
    given = {"event_type": EventType.TASK_COMPLETED, "aggregate_id": "t-1", "aggregate_type": "task", "payload": {"agent_id": "a-1"}}
    return AgentEvent(**{**given, **changes})


def test_four_positional_arguments_are_enough():
    made = AgentEvent(EventType.TASK_COMPLETED, "t-1", "task", {"agent_id": "a-1"})
    assert (made.event_type, made.aggregate_id, made.aggregate_type) == ("task.completed", "t-1", "task")
    assert made.payload == {"agent_id": "a-1"}
    assert made.key == "task:t-1"
    assert made.schema_version == "1.0.0"
    assert not made.privacy_protected
    assert made.timestamp.utcoffset() == timedelta(0)


def test_a_wire_name_gives_the_member():
    assert event(event_type="task.completed").event_type is EventType.TASK_COMPLETED


def test_an_event_without_metadata_is_the_root_of_its_own_correlation():
    made = event()
    assert made.metadata.correlation_id == made.event_id
    assert made.metadata.created_at == made.timestamp
    assert made.metadata.source == "tallyroll"


def test_an_event_and_its_metadata_are_frozen():
    made = event()
    with pytest.raises(AttributeError):
        made.aggregate_id = "other"
    with pytest.raises(AttributeError):
        made.metadata.user_id = "other"


@pytest.mark.parametrize("kind", [Kind.TASK, OldKind.TASK, Text("task")])
def test_text_of_other_classes_becomes_plain_text_and_can_be_encoded(kind):
    made = event(aggregate_type=kind, aggregate_id=kind, event_id=kind, metadata=EventMetadata(user_id=kind, source=kind, trace_id=kind))
    assert made.key == "task:task"
    assert {type(one) for one in (made.aggregate_type, made.aggregate_id, made.event_id, made.metadata.user_id)} == {str}
    assert decode(encode(made)) == made


WRONG = [
    ("event_type", 7),
    ("event_type", None),
    ("event_type", "task.exploded"),
    ("event_type", ["task.completed"]),
    ("aggregate_id", 7),
    ("aggregate_id", ""),
    ("aggregate_id", None),
    ("aggregate_id", "x" * 256),
    ("aggregate_id", "a\nb"),
    ("aggregate_id", "a\x00"),
    ("aggregate_id", "\ud800"),
    ("aggregate_type", 7),
    ("aggregate_type", "Task"),
    ("aggregate_type", "ta:sk"),
    ("aggregate_type", ""),
    ("aggregate_type", "task\n"),
    ("payload", [1]),
    ("payload", "text"),
    ("payload", None),
    ("metadata", {"user_id": "u"}),
    ("metadata", "m"),
    ("event_id", 7),
    ("event_id", "x" * 256),
    ("timestamp", "2026-01-31T12:00:00Z"),
    ("timestamp", 1_769_860_800),
    ("timestamp", datetime(2026, 1, 31)),  # noqa: DTZ001  # the point
    ("timestamp", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
    ("schema_version", 1),
    ("schema_version", "1.0"),
    ("schema_version", "v1.0.0"),
    ("schema_version", "01.0.0"),
    ("schema_version", "1.0.0-rc1"),
    ("privacy_protected", 1),
    ("privacy_protected", "yes"),
]


@pytest.mark.parametrize(("field", "value"), WRONG)
def test_a_wrong_field_is_refused_by_name(field, value):
    with pytest.raises(InvalidEvent) as caught:
        event(**{field: value})
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (name, bad)
        for name in ("correlation_id", "causation_id", "session_id", "user_id", "trace_id", "tenant_id", "tracestate")
        for bad in (7, "")
    ]
    + [
        ("source", None),
        ("source", ""),
        ("version", "1"),
        ("version", None),
        ("created_at", "now"),
        ("created_at", datetime(2026, 1, 31)),  # noqa: DTZ001  # the point
        ("traceparent", 7),
    ],
)
def test_a_wrong_field_of_the_metadata_is_refused_by_name(field, value):
    with pytest.raises(InvalidEvent) as caught:
        EventMetadata(**{field: value})
    assert caught.value.field == f"metadata.{field}"


def test_an_invalid_event_is_a_value_error_for_those_who_catch_those():
    with pytest.raises(ValueError, match="aggregate_id"):
        event(aggregate_id="")


def test_timestamps_are_converted_to_utc():
    made = event(timestamp=datetime(2026, 1, 31, 14, tzinfo=timezone(timedelta(hours=2))))
    assert made.timestamp.tzinfo is UTC
    assert made.timestamp == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert EventMetadata(created_at=made.timestamp.astimezone(timezone(timedelta(hours=-5)))).created_at.tzinfo is UTC


@pytest.mark.parametrize(
    ("aggregate_type", "payload", "owner"),
    [
        ("agent", {"agent_id": "other"}, "t-1"),
        ("task", {"agent_id": "a-1"}, "a-1"),
        ("task", {}, None),
        ("task", {"agent_id": ""}, None),
        ("task", {"agent_id": 7}, None),
    ],
)
def test_the_owner_is_the_agent_that_is_the_aggregate_else_the_one_the_payload_names(aggregate_type, payload, owner):
    assert event(aggregate_type=aggregate_type, payload=payload).agent_id == owner


def test_events_are_equal_by_value():
    fixed = {"event_id": "e-1", "timestamp": T, "metadata": EventMetadata(correlation_id="c", created_at=T)}
    assert event(**fixed) == event(**fixed)
    assert event(**fixed) != event(**{**fixed, "payload": {}})
    assert event() != event()


def full(member: EventType) -> AgentEvent:
    metadata = EventMetadata(
        "c-1", "e-0", "s-1", "u-1", None, "https://host/agent", "1.2.3", T - timedelta(seconds=1), "acme", TRACEPARENT, "k=v"
    )
    return AgentEvent(
        member, "x-1", "task", {"a": [1, 2.5, None, {"ü": "€"}]}, metadata, timestamp=T, schema_version="2.1.0", privacy_protected=True
    )


@pytest.mark.parametrize("member", EventType)
def test_the_well_known_mapping_gives_an_equal_event_also_through_json(member):
    for made in (AgentEvent(member, "x-1", "agent"), full(member)):
        message = made.to_kafka_message()
        assert AgentEvent.from_kafka_message(message) == made
        assert AgentEvent.from_kafka_message(json.loads(json.dumps(message))) == made


def test_the_mapping_has_the_well_known_names():
    message = full(EventType.TASK_COMPLETED).to_kafka_message()
    names = {"event_id", "event_type", "aggregate_id", "aggregate_type", "payload", "metadata", "timestamp", "schema_version"}
    assert names <= set(message)
    assert message["timestamp"] == "2026-01-31T12:00:00.123456Z"
    assert message["metadata"]["created_at"] == "2026-01-31T11:59:59.123456Z"


def test_the_round_trip_takes_nothing_from_the_context_in_force():
    made = event()
    message = made.to_kafka_message()
    with event_context(session_id="s-9", user_id="u-9", traceparent=TRACEPARENT):
        assert AgentEvent.from_kafka_message(message) == made
        assert EventMetadata.from_dict(made.metadata.to_dict()) == made.metadata


def test_changing_the_mapping_does_not_change_the_event():
    made = event(payload={"a": [1]})
    made.to_kafka_message()["payload"]["a"].append(2)
    assert made.payload == {"a": [1]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"event_id": None}, "event_id"),
        ({"event_type": ""}, "event_type"),
        ({"aggregate_id": None}, "aggregate_id"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"timestamp": "2026-01-31T12:00:00"}, "timestamp"),
        ({"timestamp": 5}, "timestamp"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"colour": "red"}}, "metadata"),
        ({"payload": []}, "payload"),
        ({"payload": 0}, "payload"),
    ],
)
def test_a_malformed_mapping_is_refused_by_field(change, field):
    with pytest.raises(InvalidEvent) as caught:
        AgentEvent.from_kafka_message({**event().to_kafka_message(), **change})
    assert caught.value.field == field


def test_a_mapping_is_a_dict():
    with pytest.raises(InvalidEvent):
        AgentEvent.from_kafka_message([])


def test_iso_text_has_always_six_decimals_and_z_and_sorts():
    whole = T.replace(microsecond=0)
    assert iso(whole) == "2026-01-31T12:00:00.000000Z"
    assert iso(whole) < iso(T)
    assert from_iso("x", iso(T)) == T
