"""Where two states differ."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.replay.differences import MISSING, Change, Difference, compare_states, diff
from tallyroll.replay.predicate import parse_predicate

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
STATES = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


def test_paths_lead_to_what_changed() -> None:
    before = {"status": "running", "tools": {"grep": 1, "two words": 1}, "tasks": ["a"], "same": {"x": [1]}}
    after = {"status": None, "tools": {"grep": 2, "shell": 1}, "tasks": ["a", "b"], "same": {"x": [1]}}
    assert diff(before, after) == [
        Change("status", "running", None),
        Change("tasks", ["a"], ["a", "b"]),
        Change("tools.grep", 1, 2),
        Change("tools.shell", MISSING, 1),
        Change('tools["two words"]', 1, MISSING),
    ]
    assert not MISSING


def test_one_and_true_and_one_point_zero_are_three_values() -> None:
    for ours, theirs in ((1, True), (1, 1.0), (0, False), ("1", 1), ([1], [True]), ({}, []), (None, MISSING)):
        assert compare_states({"a": ours}, {"a": theirs}) == [Difference("a", ours, theirs)]


@given(STATES, STATES)
def test_states_differ_somewhere_or_are_the_same(left: dict[str, Any], right: dict[str, Any]) -> None:
    found = compare_states(left, right)
    assert compare_states(left, left) == []
    assert [(path, theirs, ours) for path, ours, theirs in found] == compare_states(right, left)
    assert bool(found) == (repr(sorted_deep(left)) != repr(sorted_deep(right)))


@given(STATES, STATES)
def test_every_path_of_a_difference_can_be_asked_for(left: dict[str, Any], right: dict[str, Any]) -> None:
    for path, _, new in diff(left, right):
        if new is not MISSING and not isinstance(new, list | dict):
            # A text that starts a path of its own has to be quoted there, which is what paths do with it.
            literal = (
                {True: "true", False: "false", None: "null"}.get(new) if not isinstance(new, int | str) or isinstance(new, bool) else None
            )
            if isinstance(new, int) and not isinstance(new, bool):
                literal = str(new)
            if literal is not None:
                assert parse_predicate(f"{path} == {literal}")(right), path


def sorted_deep(value: Any) -> Any:
    if isinstance(value, dict):
        return [(key, sorted_deep(value[key])) for key in sorted(value)]
    return [sorted_deep(item) for item in value] if isinstance(value, list) else (value,)


@pytest.mark.parametrize("name", ["and", "or", "not", "in", "contains", "true", "null"])
def test_words_of_the_language_are_names_of_members_too(name: str) -> None:
    for state in ({name: 1}, {"tools": {name: 1}}):
        [change] = diff({}, state) if name in state else diff({"tools": {}}, state)
        assert parse_predicate(f"{change.path} == 1")(state)
