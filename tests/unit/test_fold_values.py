"""Numbers become integers exactly once, and a state holds nothing that two machines could add up differently."""

from __future__ import annotations

from dataclasses import replace
from decimal import ROUND_HALF_EVEN, Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.events.event import agent_of
from tallyroll.events.rows import Subject
from tallyroll.replay.fields import Sum, Value
from tallyroll.replay.fold import Fold, View, check_canonical, state_hash, states_hash
from tallyroll.replay.projection import needs_column
from tallyroll.replay.values import AGENT_ID, COST, DURATION, ERROR, EVENT_TIME, NULL, TOKENS, micro, micros
from tallyroll.replay.views import AGENT, FOLD, TASK, VIEWS

INT_MAX = 2**63 - 1


@given(st.integers(-(9 * 10**9), 9 * 10**9))
def test_integers_are_exact(number: int) -> None:
    assert micro(number) == number * 1_000_000


@given(st.floats(-1e9, 1e9))
def test_floats_are_rounded_once(number: float) -> None:
    assert micro(number) == round(number * 1_000_000)


@given(st.decimals(-(10**9), 10**9, places=9))
def test_decimal_text_is_exact_and_does_not_pass_through_a_float(number: Decimal) -> None:
    assert micro(str(number)) == int((number * 1_000_000).quantize(Decimal(1), ROUND_HALF_EVEN))


def test_decimal_text_and_its_float_may_differ() -> None:
    assert micro("0.0000025") == 2  # a tie, to even
    assert micro("1.0000005") == 1_000_000
    assert micro("9007199254.740991") == 9_007_199_254_740_991


@pytest.mark.parametrize(
    "number", ["", "nan", "inf", "1_000", " 1", "1 ", "0x10", "١", "1e999", "1,5", float("nan"), float("inf"), 1e300, 2**53, "9" * 41]
)
def test_what_is_no_number_within_53_bits_is_refused(number: object) -> None:
    with pytest.raises(ValueError, match=r"not a|beyond|cannot convert"):
        micro(number)


NUMBERS = st.none() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | st.sampled_from(["", "1.5", "x", 2**53 - 1, 2**53, 9e9])
MEMBERS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("tokens", "input_tokens", "cost", "progress_percent", "duration_ms", "execution_time", "steps"), NUMBERS)
    | dict.fromkeys(
        ("task_id", "agent_id", "task_type", "tool_name", "step", "workflow_type"), st.none() | st.sampled_from(["", "a", "é"])
    ),
)
PROGRAMS = [program for topic in FOLD.topics for program in FOLD.programs(topic).values() if any(value.quick for value in program.values)]


@given(st.sampled_from(PROGRAMS), MEMBERS, st.sampled_from(["task", "agent", "workflow"]))
def test_what_is_taken_without_a_call_is_what_the_call_gives(program, members: dict, kind: str) -> None:
    subject = Subject(kind, "it")
    try:
        facts = program.decode(msgspec.json.encode(members))
        agent = agent_of(kind, "it", facts.agent_id)
        expected = [told(value, facts, subject) for value in program.values]
    except (msgspec.MsgspecError, ValueError):
        expected = None
    try:
        assert [*program.take(program.decode(msgspec.json.encode(members)), subject, 7, agent)] == expected
    except (msgspec.MsgspecError, ValueError):
        assert expected is None


def told(value: Value, facts, subject: Subject):
    """A value by its rule alone."""
    empty = [getattr(facts, name) in (None, NULL) for name, _ in value.reads]
    return None if empty and all(empty) and not value.always and value not in (EVENT_TIME, AGENT_ID) else value.get(facts, subject, 7)


class Facts:
    def __init__(self, **members: object) -> None:
        self.__dict__.update(members)


@pytest.mark.parametrize(
    ("members", "tokens"),
    [((None, None, None), None), ((7, 1, 1), 7), ((0, 1, 1), 0), ((None, 3, None), 3), ((None, 3, 4.0), 7), ((5.0, None, None), 5)],
)
def test_tokens_are_the_total_else_input_and_output(members: tuple, tokens: int | None) -> None:
    assert TOKENS.get(Facts(**dict(zip(("tokens", "input_tokens", "output_tokens"), members, strict=True))), None, 0) == tokens


def test_parts_of_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="whole"):
        TOKENS.get(Facts(tokens=1.5), None, 0)


def test_milliseconds_win_over_seconds() -> None:
    assert DURATION.get(Facts(duration_ms=1.5, execution_time=9), None, 0) == 1_500
    assert DURATION.get(Facts(duration_ms=None, execution_time="5.2"), None, 0) == 5_200_000
    assert DURATION.get(Facts(duration_ms=None, execution_time=None), None, 0) is None
    assert COST.get(Facts(cost="0.000001"), None, 0) == 1


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def test_an_error_is_text_or_json_and_cut() -> None:
    assert ERROR.get(Facts(error=raw('"boom"'), error_type="T", reason=None), None, 0) == "boom"
    assert ERROR.get(Facts(error=raw('{"b":1,"a":2}'), error_type=None, reason=None), None, 0) == '{"a":2,"b":1}'
    assert ERROR.get(Facts(error=raw("null"), error_type="T", reason="why"), None, 0) == "T"
    assert ERROR.get(Facts(error=raw("null"), error_type=None, reason=None), None, 0) is None
    assert len(ERROR.get(Facts(error=raw(f'"{"x" * 9_000}"'), error_type=None, reason=None), None, 0)) == 500


@pytest.mark.parametrize(
    ("state", "path"), [({"a": [1, {"b": 0.5}]}, r"state\.a\[1\]\.b: float"), ({"a": b""}, r"state\.a"), ({"a": {1: 2}}, r"state\.a")]
)
def test_a_float_or_foreign_object_in_a_state_is_refused_with_its_path(state: object, path: str) -> None:
    with pytest.raises(TypeError, match=path):
        check_canonical(state)


def test_integers_beyond_64_bits_are_refused() -> None:
    check_canonical({"a": INT_MAX})
    with pytest.raises(OverflowError, match=r"state\.a"):
        check_canonical({"a": INT_MAX + 1})


def test_the_hash_does_not_depend_on_the_order_of_keys() -> None:
    assert state_hash({"a": 1, "b": {"c": 2, "d": 3}}) == state_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert states_hash({"x": {"a": 1}, "y": {}}) == states_hash({"y": {}, "x": {"a": 1}}) != states_hash({"x": {}, "y": {"a": 1}})


def test_the_reducer_id_follows_the_declaration_and_the_upcasters() -> None:
    class Others:
        def current(self, event_type: str) -> str:  # noqa: ARG002
            return "1.0.0"

        def fingerprint(self, event_types: object = None) -> str:  # noqa: ARG002
            return "others"

    again = Fold(VIEWS, FOLD.schemas)
    fewer = {name: field for name, field in TASK.fields.items() if name != "tokens"}
    assert again.reducer_ids == FOLD.reducer_ids
    assert Fold([replace(TASK, fields=fewer)], FOLD.schemas).reducer_ids["task"] != FOLD.reducer_ids["task"]
    assert Fold([replace(TASK, version=2)], FOLD.schemas).reducer_ids["task"] != FOLD.reducer_ids["task"]
    assert Fold(VIEWS, Others()).reducer_ids["agent"] != FOLD.reducer_ids["agent"]


def test_the_reducer_id_of_a_view_follows_what_other_views_take_out_of_its_events() -> None:
    def beside(*, types: tuple[str, ...], topics: tuple[str, ...] = TASK.topics, value: object = COST) -> str:
        other = View("other", 1, "task", topics, types, {"sum": Sum(types, value)})
        return Fold((TASK, other), FOLD.schemas).reducer_ids["task"]

    alone = Fold((TASK,), FOLD.schemas).reducer_ids["task"]
    assert beside(types=("task.created",), value=micros("weight")) != alone  # a bad weight now voids the record for the task too
    assert beside(types=("task.created",)) == alone  # the cost was taken out of it before
    assert beside(types=("agent.created",), topics=("agent-events",), value=micros("weight")) == alone


def test_columns_of_equal_names_hold_equal_values() -> None:
    columns: dict[str, set[tuple[str, bool]]] = {}
    for topic in FOLD.topics:
        for program in FOLD.programs(topic).values():
            for value in filter(needs_column, program.values):
                columns.setdefault(value.column, set()).add((value.name, value.whole))
    assert {name: values for name, values in columns.items() if len(values) > 1 or not name} == {}


def test_every_field_of_the_views_is_described_by_plain_values() -> None:
    for view in VIEWS:
        assert msgspec.json.decode(msgspec.json.encode(view.describe()))[0] == view.name
    assert FOLD.index(AGENT.name) == 0
    with pytest.raises(ValueError, match="no view"):
        FOLD.index("nothing")
