from __future__ import annotations

import math
from collections import OrderedDict
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.errors import InvalidEvent
from tallyroll.events.payload import MAX_DEPTH, MAX_PAYLOAD_BYTES, clean_payload


class Colour(StrEnum):
    RED = "red"


class OldColour(str, Enum):  # noqa: UP042  # users have these
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Text(str):
    __slots__ = ()


def refusal(payload) -> InvalidEvent:
    with pytest.raises(InvalidEvent) as caught:
        clean_payload(payload)
    return caught.value


def nested(levels: int, value: object = 1) -> dict:
    for _ in range(levels - 1):
        value = {"a": value}
    return {"a": value}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, Decimal("NaN"), Decimal("Infinity")])
def test_numbers_without_a_json_form_are_refused_with_their_path(number):
    assert refusal({"usage": {"cost": [1, number]}}).field == "payload.usage.cost[1]"


def test_a_nan_at_the_top_is_refused_with_its_path():
    assert refusal({"cost": math.nan}).field == "payload.cost"


def test_a_datetime_without_a_zone_is_refused_and_one_with_a_zone_becomes_text():
    assert refusal({"at": datetime(2026, 1, 31, 12)}).field == "payload.at"  # noqa: DTZ001  # the point
    moment = datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2)))
    assert clean_payload({"at": moment}) == {"at": "2026-01-31T12:00:00+02:00"}


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
def test_integers_beyond_64_bits_are_refused(number):
    assert refusal({"a": {"n": number}}).field == "payload.a.n"
    assert refusal({"n": [number]}).field == "payload.n[0]"


@pytest.mark.parametrize("number", [2**63 - 1, -(2**63), 0, -1])
def test_integers_of_64_bits_are_kept(number):
    assert clean_payload({"n": number}) == {"n": number}


@pytest.mark.parametrize(
    ("given_value", "kept"),
    [
        ({3, 1, 2}, [1, 2, 3]),
        (frozenset({"b", "a"}), ["a", "b"]),
        ((1, (2, 3)), [1, [2, 3]]),
        (Decimal("12.50"), "12.50"),
        (UUID(int=7), "00000000-0000-0000-0000-000000000007"),
        (date(2026, 1, 31), "2026-01-31"),
        (Colour.RED, "red"),
        (OldColour.RED, "red"),
        (Level.HIGH, 3),
        (Text("x"), "x"),
        (True, True),
        (None, None),
        (-0.0, -0.0),
        (datetime(2026, 1, 31, 12, tzinfo=UTC), "2026-01-31T12:00:00+00:00"),
        (OrderedDict(b=1, a={2}), {"b": 1, "a": [2]}),
    ],
)
def test_values_become_plain_json(given_value, kept):
    cleaned = clean_payload({"x": given_value, "in": [given_value]})
    assert cleaned == {"x": kept, "in": [kept]}
    assert type(cleaned["x"]) is type(kept)


@pytest.mark.parametrize("value", [object(), b"bytes", 1j, range(3), ValueError("x"), timedelta(1), lambda: 1])
def test_foreign_objects_are_refused_by_type_never_by_content(value):
    error = refusal({"a": [value]})
    assert error.field == "payload.a[0]"
    assert type(value).__name__ in str(error)


def test_a_set_that_cannot_be_sorted_is_refused():
    assert refusal({"a": {1, "x"}}).field == "payload.a"


@pytest.mark.parametrize("key", [1, None, b"a", (1,)])
def test_keys_that_are_not_text_are_refused(key):
    assert refusal({"a": {key: 1}}).field == "payload.a"


def test_text_keys_of_other_classes_become_plain_text():
    keys = list(clean_payload({Colour.RED: 1, OldColour.RED: 2, Text("t"): 3}))
    assert keys == ["red", "t"]
    assert {type(key) for key in keys} == {str}


@pytest.mark.parametrize("payload", [{"a": "\ud800"}, {"\udfff": 1}, {"a": ["ok", {"b": "\udc00x"}]}])
def test_text_that_is_not_unicode_is_refused(payload):
    assert refusal(payload).field.startswith("payload")


@pytest.mark.parametrize("payload", [None, [], "text", 7, [("a", 1)]])
def test_a_payload_is_a_dict(payload):
    assert refusal(payload).field == "payload"


def test_nesting_is_accepted_up_to_its_bound():
    assert clean_payload(nested(MAX_DEPTH)) == nested(MAX_DEPTH)


@pytest.mark.parametrize("wrap", [lambda value: {"a": value}, lambda value: [value], lambda value: (value,)])
def test_deep_nesting_is_refused_long_before_the_recursion_limit(wrap):
    value: object = 1
    for _ in range(100_000):
        value = wrap(value)
    assert "nested deeper" in refusal({"x": value}).reason
    while isinstance(value, (dict, list, tuple)):  # taken apart by hand: old interpreters recurse when they free it
        value = value["a"] if isinstance(value, dict) else value[0]


def test_deep_sets_are_refused_too():
    value: object = frozenset({1})
    for _ in range(200):
        value = frozenset({value})
    assert "nested deeper" in refusal({"x": value}).reason


def test_a_payload_that_holds_itself_is_refused():
    payload: dict = {}
    payload["self"] = payload
    assert "nested deeper" in refusal(payload).reason


def test_the_bound_of_size_counts_bytes_not_characters():
    fits = "x" * (MAX_PAYLOAD_BYTES - len('{"a":""}'))
    assert clean_payload({"a": fits}) == {"a": fits}
    assert refusal({"a": fits + "x"}).field == "payload"
    assert refusal({"a": "ü" * (MAX_PAYLOAD_BYTES // 2)}).field == "payload"


def test_later_changes_by_the_caller_do_not_show():
    inner = {"list": [1, [2]], "dict": {"a": 1}}
    payload = {"inner": inner}
    cleaned = clean_payload(payload)
    inner["list"][1].append(3)
    inner["dict"]["a"] = 2
    payload["new"] = 1
    assert cleaned == {"inner": {"list": [1, [2]], "dict": {"a": 1}}}


def test_refusals_never_quote_the_content():
    canary = "sk-canary-4711"
    assert canary not in str(refusal({"a": [canary, canary.encode()]}))


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4))
def test_json_values_come_back_as_they_are_and_survive_json(payload):
    cleaned = clean_payload(payload)
    assert cleaned == payload
    assert msgspec.json.decode(msgspec.json.encode(cleaned)) == cleaned


ANYTHING = st.recursive(
    st.text(max_size=4) | st.integers() | st.floats() | st.binary(max_size=4) | st.none(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4) | st.integers(), children, max_size=3),
    max_leaves=6,
)


@given(ANYTHING)
def test_whatever_is_offered_is_cleaned_or_refused(payload):
    try:
        clean_payload(payload)
    except InvalidEvent as error:
        assert error.field.startswith("payload")  # noqa: PT017  # the other outcome is as good
