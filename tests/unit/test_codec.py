from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_structured_event
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.errors import Undecodable
from tallyroll.events.chain import Chain
from tallyroll.events.codec import (
    CONTENT_TYPE,
    HEADERS,
    Head,
    decode,
    decode_head,
    decode_heads,
    encode,
    timestamp_us,
    without_link,
    without_trace,
)
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.links import Link
from tallyroll.events.moments import moment_at
from tallyroll.events.types import EventType
from tallyroll.testing.poison import POISON

T = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
FOREIGN = (
    b'{"specversion":"1.0","id":"1","source":"/billing","type":"invoice.paid","subject":"invoice:i-7"'
    b',"time":"2026-01-31T14:00:00+02:00","data":{"a":1}}'
)

IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=40)
OPTIONAL = st.none() | IDS
ZONES = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))])
MICROS = st.integers(-62_000_000_000_000_000, 253_000_000_000_000_000)  # the years 5 to 9987
MOMENTS = st.builds(lambda micros, zone: moment_at(micros).astimezone(zone), MICROS, ZONES)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children, max_size=3),
    max_leaves=6,
)
METADATA = st.builds(
    EventMetadata,
    OPTIONAL,
    OPTIONAL,
    OPTIONAL,
    OPTIONAL,
    OPTIONAL,
    IDS,
    st.just("1.2.3"),
    MOMENTS,
    OPTIONAL,
    st.none() | st.just(TRACEPARENT),
    OPTIONAL,
)
EVENTS = st.builds(
    AgentEvent,
    st.sampled_from(EventType),
    IDS,
    st.sampled_from(["agent", "task", "a-b_c9"]),
    st.dictionaries(st.text(max_size=5), VALUES, max_size=3),
    st.none() | METADATA,
    IDS,
    MOMENTS,
    st.sampled_from(["1.0.0", "0.0.1", "12.34.56"]),
    st.booleans(),
)


def full() -> AgentEvent:
    metadata = EventMetadata("c-1", "e-0", "s-1", "u-1", None, "/agents/a-1", "1.2.3", T - timedelta(seconds=1), "acme", TRACEPARENT, "k=v")
    return AgentEvent(
        EventType.TASK_COMPLETED, "t-1", "task", {"agent_id": "a-1", "n": [1, 2.5, None, "ü"]}, metadata, "e-1", T, "1.2.0", True
    )


@settings(max_examples=60)
@given(EVENTS)
def test_what_is_encoded_is_decoded_equal_and_encoded_again_to_the_same_bytes(event):
    value = encode(event)
    assert decode(value) == event
    assert encode(decode(value)) == value


@pytest.mark.parametrize("member", EventType)
def test_every_type_survives_as_its_member(member):
    event = AgentEvent(member, "x-1", "agent")
    assert decode(encode(event)) == event
    assert decode(encode(event)).event_type is member


def test_chain_and_sequence_change_nothing_of_the_event():
    event = full()
    value = Chain("ab" * 16).link(encode(event), 41)
    head = decode_head(value)
    assert decode(value) == event
    assert (head.sequence, head.link()) == ("41", Link("ab" * 16, 1, "0" * 64))


@given(EVENTS, st.integers(1, 9_999), st.booleans())
def test_a_record_without_its_link_is_what_was_linked(event, sequence, voids):
    chain = Chain("5e" * 16)
    if voids:
        chain.void("old", 7, "6f" * 16)
    for _ in range(2):
        value = chain.link(encode(event), sequence)
        assert without_link(value, decode_head(value)) == encode(event)[:-1]
    assert without_link(encode(event), decode_head(encode(event))) == encode(event)[:-1]


@pytest.mark.parametrize("more", [b',"data":{"a":2}}', b',"chainprev":"0"}', b',"expects":"1/2"} ', b" }"])
def test_what_stands_in_or_behind_a_link_and_is_none_stays_in_what_is_left(more):
    value = Chain("5e" * 16).link(encode(AgentEvent("task.started", "t-1", "task")), 1)[:-1] + more
    assert without_link(value, decode_head(value)) == value


def test_the_trace_that_a_publisher_puts_in_is_taken_out_and_none_of_the_payload():
    payload = {"a": 1, "traceparent": TRACEPARENT}
    plain = encode(AgentEvent("task.started", "t-1", "task", payload, event_id="e", timestamp=T))
    traced = encode(AgentEvent("task.started", "t-1", "task", payload, EventMetadata("e", traceparent=TRACEPARENT, created_at=T), "e", T))
    data = bytes(decode_head(plain).data)
    assert traced != plain
    assert without_trace(traced, data, TRACEPARENT) == plain
    assert without_trace(plain, data, TRACEPARENT) == plain


def test_the_head_tells_all_but_the_payload():
    head = decode_head(encode(full()))
    assert (head.id, head.type, head.source, head.subject) == ("e-1", "task.completed", "/agents/a-1", "task:t-1")
    assert (head.aggregatetype, head.aggregateid, head.schemaversion) == ("task", "t-1", "1.2.0")
    assert json.loads(bytes(head.data)) == full().payload
    assert moment_at(timestamp_us(head)) == T


def test_unset_extensions_take_no_bytes():
    names = set(json.loads(encode(AgentEvent(EventType.AGENT_STARTED, "a-1", "agent"))))
    required = {"specversion", "datacontenttype", "id", "source", "type", "subject", "time", "dataschema", "data"}
    assert names == required | {"aggregatetype", "aggregateid", "schemaversion", "correlationid"}


def test_extension_names_are_those_that_cloudevents_allows():
    names = json.loads(Chain("s").link(encode(full()), 1))
    assert all(name.isascii() and name.isalnum() and name.islower() for name in names)
    assert all(len(name) <= 20 for name in names)


def test_the_official_sdk_reads_attributes_extensions_and_data():
    chain = Chain("ab" * 16)
    value = chain.link(encode(full()), 41)
    event = from_structured_event(KafkaMessage(headers=dict(HEADERS), key=b"task:t-1", value=value))
    assert (event.get_id(), event.get_source(), event.get_type(), event.get_subject()) == (
        "e-1",
        "/agents/a-1",
        "task.completed",
        "task:t-1",
    )
    assert event.get_specversion() == "1.0"
    assert event.get_time() == T
    assert event.get_datacontenttype() == "application/json"
    assert event.get_dataschema() == "urn:tallyroll:schema:task.completed:1.2.0"
    assert event.get_data() == full().payload
    expected = {"aggregatetype": "task", "aggregateid": "t-1", "schemaversion": "1.2.0", "correlationid": "c-1", "causationid": "e-0",
                "sessionid": "s-1", "userid": "u-1", "tenantid": "acme", "traceparent": TRACEPARENT, "privacyprotected": True,
                "sequence": "41", "chainsession": "ab" * 16, "chainnumber": "1", "chainprev": "0" * 64}  # fmt: skip
    assert {name: event.get_extension(name) for name in expected} == expected


def test_the_content_type_is_that_of_structured_mode():
    assert CONTENT_TYPE.startswith(b"application/cloudevents+json")


def test_a_foreign_cloudevent_takes_its_aggregate_from_the_subject():
    event = decode(FOREIGN)
    assert (event.event_type, event.aggregate_type, event.aggregate_id) == ("invoice.paid", "invoice", "i-7")
    assert event.timestamp == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert (event.metadata.source, event.metadata.correlation_id, event.schema_version) == ("/billing", None, "1.0.0")
    assert event.payload == {"a": 1}
    assert decode_head(FOREIGN).link() is None


def test_a_foreign_cloudevent_without_data_has_an_empty_payload():
    assert decode(FOREIGN.replace(b',"data":{"a":1}', b"")).payload == {}


def test_attributes_nobody_knows_are_ignored():
    assert decode(FOREIGN[:-1] + b',"shard":7,"nested":{"a":[1]}}') == decode(FOREIGN)


def test_integers_of_foreign_writers_beyond_64_bits_are_kept():
    value = FOREIGN.replace(b'{"a":1}', b'{"a":123456789012345678901234567890}')
    assert decode(value).payload == {"a": 123456789012345678901234567890}


@pytest.mark.parametrize(
    "link",
    [
        b'"chainsession":"s","chainnumber":""',
        b'"chainsession":"s","chainnumber":"0"',
        b'"chainsession":"s","chainnumber":"000"',
        b'"chainsession":"s","chainnumber":"-1"',
        b'"chainsession":"s","chainnumber":"1.0"',
        b'"chainsession":"s","chainnumber":"\xc2\xb2"',
        b'"chainsession":"s","chainnumber":"' + b"9" * 5_000 + b'"',
        b'"chainsession":"","chainnumber":"1"',
        b'"chainnumber":"1"',
    ],
)
def test_a_malformed_link_is_no_link(link):
    assert decode_head(FOREIGN[:-1] + b"," + link + b"}").link() is None


@pytest.mark.parametrize("bad", POISON, ids=lambda bad: bad.name)
def test_poison_is_undecodable_for_its_reason(bad):
    with pytest.raises(Undecodable) as caught:
        decode(bad.value)
    assert caught.value.reason == bad.reason


@pytest.mark.parametrize("bad", POISON, ids=lambda bad: bad.name)
def test_the_head_of_poison_is_undecodable_from_the_same_reason_or_readable(bad):
    if bad.first_seen == "event":
        assert isinstance(decode_head(bad.value), Head)
        return
    with pytest.raises(Undecodable) as caught:
        decode_head(bad.value)
    assert caught.value.reason == bad.reason


def test_heads_are_decoded_together_as_they_are_alone():
    values = [FOREIGN, *(bad.value for bad in POISON), encode(full()), None]
    found = decode_heads(values)
    assert len(found) == len(values)
    for value, head in zip(values, found, strict=True):
        if isinstance(head, Head):
            assert head == decode_head(value)
        else:
            with pytest.raises(Undecodable) as caught:
                decode_head(value)
            assert str(caught.value) == str(head)


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("0001-01-01T00:00:00Z", -62_135_596_800_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_799_999_999),
        ("1969-12-31T23:59:59.999999Z", -1),
        ("2026-11-25T20:58:26.770478+02:00", 1_795_633_106_770_478),
        ("2026-11-25T20:58:26.770478999Z", 1_795_640_306_770_478),
    ],
)
def test_event_time_is_exact_to_the_microsecond_from_year_1_to_9999(text, micros):
    head = Head(specversion="1.0", id="i", source="s", type="t", time=text)
    assert timestamp_us(head) == micros


@pytest.mark.parametrize("text", ["0001-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"])
def test_event_time_outside_these_years_in_utc_is_bad(text):
    with pytest.raises(Undecodable) as caught:
        timestamp_us(Head(specversion="1.0", id="i", source="s", type="t", time=text))
    assert caught.value.reason == "bad_time"


def test_the_poison_corpus_has_every_reason():
    assert {bad.reason for bad in POISON} == {"empty", "not_json", "not_an_event", "too_deep", "no_aggregate", "bad_time", "bad_data"}
    assert len({bad.name for bad in POISON}) == len(POISON)


def test_undecodable_quotes_nothing_of_the_content():
    with pytest.raises(Undecodable) as caught:
        decode(FOREIGN.replace(b'"i', b"\xffsk-canary"))
    assert "canary" not in str(caught.value)


@given(st.binary(max_size=60))
def test_bytes_are_decoded_or_undecodable(value):
    with pytest.raises(Undecodable):
        decode(value)


@settings(max_examples=200)
@given(st.integers(0, 2_000), st.binary(max_size=4), st.integers(0, 6))
def test_a_damaged_record_is_decoded_or_undecodable(at, new, cut):
    good = Chain("ab" * 16).link(encode(full()), 41)
    at %= len(good)
    try:
        decode(good[:at] + new + good[at + cut :])
    except Undecodable as error:
        assert error.reason  # noqa: PT017  # the other outcome is as good
