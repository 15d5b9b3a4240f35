import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.capture import FORMATS, Skipped
from tallyroll.events.chain import Chain
from tallyroll.events.codec import encode
from tallyroll.events.context import event_context
from tallyroll.events.event import AgentEvent
from tallyroll.simulate import Fleet

read = FORMATS["events"].read
EVENTS = list(Fleet(seed=5, agents=3).run(events=200))


def test_kafka_messages_come_back_equal():
    data = "\n".join(json.dumps(event.to_kafka_message()) for event in EVENTS).encode()
    assert list(read(data)) == EVENTS


def test_cloudevents_come_back_equal_and_leave_their_old_place_behind():
    chain = Chain("0" * 32)
    data = b"\n".join(chain.link(encode(event), number) for number, event in enumerate(EVENTS))
    assert list(read(data)) == EVENTS


def test_both_forms_may_stand_in_one_array():
    data = json.dumps([EVENTS[0].to_kafka_message(), json.loads(encode(EVENTS[1]))]).encode()
    assert list(read(data)) == EVENTS[:2]


def test_what_is_no_event_is_skipped_without_its_content():
    good = EVENTS[0].to_kafka_message()
    bad = [
        "canary",
        {"specversion": "1.0", "id": "canary"},
        {**good, "event_type": "canary.happened"},
        {**good, "timestamp": "canary"},
        {**good, "payload": {"canary": 2**70}},
        {**good, "metadata": {"canary": 1}},
        {**good, "metadata": 3},
    ]
    items = list(read("\n".join(map(json.dumps, [*bad, good])).encode()))
    assert [type(item) for item in items] == [Skipped] * len(bad) + [AgentEvent]
    assert not [item for item in items[:-1] if "canary" in item.reason]


def test_no_id_is_drawn_and_no_context_taken_for_what_the_file_leaves_out():
    short = EVENTS[0].to_kafka_message() | {"metadata": {"source": "elsewhere"}}
    with event_context(user_id="importer"):
        first, second = list(read(json.dumps(short).encode())), list(read(json.dumps(short).encode()))
    assert first == second
    assert first[0].metadata.user_id is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=40)
@given(st.dictionaries(st.sampled_from(sorted(EVENTS[0].to_kafka_message())), JSON, max_size=9), st.booleans())
def test_any_fields_give_an_event_or_skipped(fields, cloud):
    base = json.loads(encode(EVENTS[0])) if cloud else EVENTS[0].to_kafka_message()
    assert all(isinstance(item, (AgentEvent, Skipped)) for item in read(json.dumps(base | fields).encode()))
