"""The language of predicates."""

# ruff: noqa: E501  # tables of texts
from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.replay.predicate import MAX_CHARS, parse_predicate

STATE = {
    "status": "failed",
    "tokens": 10_001,
    "active_tasks": ["task-1", "t 2"],
    "tools": {"grep": 3, "two words": 1},
    "flag": True,
    "nothing": None,
    "event": "task.started",
    "list": [1, [2]],
}
TRUE = (
    "status == failed", 'status == "failed"', "status == failed and tokens > 10000", "tokens >= 10001", "tokens <= 10001.0",
    "tokens == 10001.0", "tokens < 1e5", "status != running", "not status == running", "status in [running, failed]", 'active_tasks contains "t 2"',
    "active_tasks contains task-1", "not active_tasks contains task-2", "tools contains grep", "status contains ail", "tools.grep == 3",
    'tools["two words"] == 1', "active_tasks[0] == task-1", 'active_tasks[-1] == "t 2"', "flag == true", "flag != 1", "nothing == null",
    "missing == null", "missing != 3", "not missing > 3", "not missing.deeper < 3", "not status > 3", "not flag > 0", "status > a",
    "event == task.started", "event in [task.completed, task.started]", "list == [1, [2]]", "list != [1]", "list contains [2]", "not tokens in []",
    "(status == failed or tokens < 1) and flag == true", "status == x and flag == false or tokens > 1", "not (status == x) and not (flag == false)",
    "tokens>-5", "not active_tasks[7] == 1", "not tools[0] == 1", "status in failed", 'status == "f\\u0061iled"', 'status=="failed"and tokens>1',
)  # fmt: skip
WRONG = (
    ("", 1, "the name of a member"),
    ("status", 7, "a comparison"),
    ("status ==", 10, "a value"),
    ("status = failed", 8, "means nothing"),
    ("status == failed tokens", 18, "and, or, or the end"),
    ("status == failed and", 21, "the name of a member"),
    ("(status == failed", 18, "')'"),
    ("status == 'failed'", 11, "means nothing"),
    ("status = failed", 8, "write =="),
    ("tokens > 1 && cost > 1", 12, "write and"),
    ('status == "failed', 11, "means nothing"),
    ("tokens > 007", 10, "JSON text or number"),
    ("tools[grep] == 1", 7, "a name in double quotes"),
    ("tools[1.5] == 1", 7, "a name in double quotes"),
    ("tools. == 1", 8, "the name of a member"),
    ("status in [a b]", 14, "','"),
    ("status in [a,", 14, "a value"),
    ("3 == tokens", 1, "the name of a member"),
    ("not", 4, "the name of a member"),
    ("status == and", 11, "a value"),
    ('status == "\\x"', 11, "JSON text or number"),
)


@pytest.mark.parametrize("text", TRUE)
def test_holds(text: str) -> None:
    predicate = parse_predicate(text)
    assert predicate(STATE) is True
    assert parse_predicate(f"not ({text})")(STATE) is False
    assert predicate.text == text


@pytest.mark.parametrize(("text", "column", "expected"), WRONG)
def test_errors_name_the_column_and_what_belongs_there(text: str, column: int, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"column {column}: ")) as caught:
        parse_predicate(text)
    assert expected in str(caught.value)


PIECES = st.sampled_from(
    [
        "a",
        "b.c",
        "==",
        "!=",
        "<",
        "in",
        "contains",
        "and",
        "or",
        "not",
        "(",
        ")",
        "[",
        "]",
        ",",
        ".",
        '"x"',
        "1",
        "-2.5",
        "null",
        "9" * 400,
        "é",
    ]
)


@given(st.text(max_size=60) | st.lists(PIECES, max_size=25).map(" ".join), st.dictionaries(st.sampled_from("ab"), st.recursive(
    st.none() | st.integers() | st.text(max_size=3) | st.booleans(), lambda inner: st.lists(inner) | st.dictionaries(st.just("c"), inner), max_leaves=4
), max_size=2))  # fmt: skip
def test_any_text_is_a_predicate_that_answers_or_a_value_error_with_a_column(text: str, state: dict) -> None:
    try:
        predicate = parse_predicate(text)
    except ValueError as error:
        assert re.match(r"column \d+: ", str(error))  # noqa: PT017  # both ways are fine
    else:
        assert predicate(state) in (True, False)


@pytest.mark.parametrize("opening", ["(", "not ", "a == ["])
def test_depth_and_length_are_bounded(opening: str) -> None:
    with pytest.raises(ValueError, match=r"column \d+: nested more than 100 deep"):
        parse_predicate("a == " * opening.startswith("a") + opening.removeprefix("a == ") * 1_000)
    with pytest.raises(ValueError, match=f"column {MAX_CHARS + 1}"):
        parse_predicate("a" * 20_000)


def test_many_conditions_side_by_side_are_fine() -> None:
    assert parse_predicate(" or ".join(["tokens == 1"] * 500 + ["flag == true"]))(STATE)


def test_the_members_that_are_looked_at() -> None:
    assert parse_predicate('not (a.b == c and tools["x"] > 1) or active_tasks[0] in [d]').members == {"a", "tools", "active_tasks"}
