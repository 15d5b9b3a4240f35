"""Events as they were read back."""

from __future__ import annotations

import pytest
from tests.unit.owner_histories import random_rows
from tests.unit.replay_histories import event

from tallyroll.errors import Undecodable
from tallyroll.events.codec import decode
from tallyroll.events.position import Position
from tallyroll.events.recorded import events_rows, recorded, rows_events
from tallyroll.events.rows import Rows
from tallyroll.events.types import EventType

SHARED = (
    "event_type", "aggregate_type", "aggregate_id", "key", "agent_id", "schema_version", "timestamp", "payload", "event_id", "metadata",
    "privacy_protected",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(10))
def test_a_recorded_event_says_what_the_event_says(seed: int) -> None:
    seen = 0
    for rows in random_rows(seed).values():
        for made in rows_events(rows):
            original = decode(rows.values[made.index])
            assert {name: getattr(made, name) for name in SHARED} == {name: getattr(original, name) for name in SHARED}
            assert made.event == original
            assert made.position == Position(rows.topic, rows.partition, rows.offsets[made.index])
            seen += 1
    assert seen > 30


def test_a_known_type_is_the_member_and_another_one_is_text() -> None:
    rows = events_rows("t", 0, [event("task.started", "task:t")])
    assert next(rows_events(rows)).event_type is EventType.TASK_STARTED
    strange = Rows("t", 0, [0], [0], ["own.type"], ["1.0.0"], rows.subjects, [b"{}"], [None])
    assert recorded(strange, 0).event_type == "own.type"


def test_what_was_not_read_is_an_error_that_says_so() -> None:
    whole = events_rows("t", 0, [event("task.started", "task:t", {"a": 1})])
    bare = Rows("t", 0, [5], whole.times_us, whole.types, whole.versions, whole.subjects, whole.data, whole.agents)
    made = recorded(bare, 0)
    assert made.payload == {"a": 1}
    with pytest.raises(ValueError, match="without ids"):
        _ = made.event_id
    with pytest.raises(ValueError, match="without the whole records"):
        _ = made.metadata


def test_payloads_that_are_no_object_are_left_out() -> None:
    whole = events_rows("t", 0, [event("task.started", "task:t", {"n": n}) for n in range(4)])
    rows = Rows("t", 0, whole.offsets, whole.times_us, whole.types, whole.versions, whole.subjects,
                [whole.data[0], b"[1]", b"", whole.data[3]], whole.agents)  # fmt: skip
    assert [made.payload["n"] for made in rows_events(rows)] == [0, 3]
    with pytest.raises(Undecodable):
        _ = recorded(rows, 1).payload


def test_a_payload_is_decoded_once_and_a_change_is_noticed() -> None:
    made = next(rows_events(events_rows("t", 0, [event("task.started", "task:t", {"list": [1]})])))
    assert made.is_untouched()
    assert made.payload is made.payload
    assert made.is_untouched()
    made.payload["list"].append(2)
    assert not made.is_untouched()
