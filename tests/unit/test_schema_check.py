from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest
from msgspec import Meta

from tallyroll.errors import IncompatibleSchema
from tallyroll.events.payloads import PAYLOADS
from tallyroll.events.schema_check import backward_problems, check, describe, forward_problems

MODES = ["NONE", "BACKWARD", "FORWARD", "FULL", "BACKWARD_TRANSITIVE", "FORWARD_TRANSITIVE", "FULL_TRANSITIVE"]
Ms = Annotated[int, Meta(extra_json_schema={"unit": "ms"})]
Seconds = Annotated[int, Meta(extra_json_schema={"unit": "s"})]


def shape(*fields, **options) -> dict[str, Any]:
    return describe(msgspec.defstruct("P", list(fields), kw_only=True, **options))


def struct(name, *fields, **options) -> type:
    return msgspec.defstruct(name, list(fields), kw_only=True, **options)


YES, NO = True, False
REQUIRED = ("a", str)
OPTIONAL = ("a", str | None, None)

ROWS = [
    # change, old, new, backward, forward
    ("nothing", [REQUIRED], [REQUIRED], YES, YES),
    ("add an optional field", [REQUIRED], [REQUIRED, ("b", int, 0)], YES, YES),
    ("drop an optional field", [REQUIRED, ("b", int, 0)], [REQUIRED], YES, YES),
    ("add a required field", [REQUIRED], [REQUIRED, ("b", int)], NO, YES),
    ("drop a required field", [REQUIRED, ("b", int)], [REQUIRED], YES, NO),
    ("make a field required", [OPTIONAL], [("a", str | None)], NO, YES),
    ("make a field optional", [("a", str | None)], [OPTIONAL], YES, NO),
    ("narrow a union", [("a", int | str)], [("a", int)], NO, YES),
    ("widen to a union", [("a", int)], [("a", int | str)], YES, NO),
    ("forbid null", [("a", int | None)], [("a", int)], NO, YES),
    ("allow null", [("a", int)], [("a", int | None)], YES, NO),
    ("narrow from anything", [("a", Any)], [("a", int)], NO, YES),
    ("widen to anything", [("a", int)], [("a", Any)], YES, NO),
    ("add an enum value", [("a", Literal["x"])], [("a", Literal["x", "y"])], YES, NO),
    ("drop an enum value", [("a", Literal["x", "y"])], [("a", Literal["x"])], NO, YES),
    ("open an enum to text", [("a", Literal["x", "y"])], [("a", str)], YES, NO),
    ("close text to an enum", [("a", str)], [("a", Literal["x", "y"])], NO, YES),
    ("open an enum to another type", [("a", Literal["x", "y"])], [("a", int)], NO, NO),
    ("optional enum loses a value", [("a", Literal["x", "y"] | None, None)], [("a", Literal["x"] | None, None)], NO, YES),
    ("int to float", [("a", int)], [("a", float)], NO, NO),
    ("int to int or float", [("a", int)], [("a", int | float)], YES, NO),
    ("text to number", [("a", str)], [("a", int)], NO, NO),
    ("bool to int", [("a", bool)], [("a", int)], NO, NO),
    ("rename a required field", [("a", int)], [("b", int)], NO, NO),
    ("rename an optional field", [("a", int | None, None)], [("b", int | None, None)], NO, NO),
    ("replace a field by one of another shape", [("a", int | None, None)], [("b", str | None, None)], YES, YES),
    ("change a default", [("a", int, 1)], [("a", int, 2)], NO, NO),
    ("change a default from null", [("a", int | None, None)], [("a", int | None, 0)], NO, NO),
    ("change a default from 1 to true", [("a", int | bool, 1)], [("a", int | bool, True)], NO, NO),
    ("change a unit", [("a", Ms)], [("a", Seconds)], NO, NO),
    ("change the unit of an optional field", [("a", Ms | None, None)], [("a", Seconds | None, None)], NO, NO),
    ("give a unit", [("a", int)], [("a", Ms)], NO, NO),
    ("raise a lower bound", [("a", Annotated[int, Meta(ge=0)])], [("a", Annotated[int, Meta(ge=1)])], NO, YES),
    ("drop an upper bound", [("a", Annotated[int, Meta(le=9)])], [("a", int)], YES, NO),
    ("shorten text", [("a", str)], [("a", Annotated[str, Meta(max_length=5)])], NO, YES),
    ("demand a pattern", [("a", str)], [("a", Annotated[str, Meta(pattern="^x")])], NO, YES),
    ("change a pattern", [("a", Annotated[str, Meta(pattern="^y")])], [("a", Annotated[str, Meta(pattern="^x")])], NO, NO),
    ("narrow the members of a list", [("a", list[int | str])], [("a", list[int])], NO, YES),
    ("list to value", [("a", list[int])], [("a", int)], NO, NO),
    ("untyped to typed list", [("a", list)], [("a", list[int])], NO, YES),
    ("lengthen a tuple", [("a", tuple[int, int])], [("a", tuple[int, int, int])], NO, NO),
    ("change a member of a tuple", [("a", tuple[int, int])], [("a", tuple[int, str])], NO, NO),
    ("tuple to list", [("a", tuple[int, int])], [("a", list[int])], YES, NO),
    ("narrow the values of a map", [("a", dict[str, int | str])], [("a", dict[str, int])], NO, YES),
    ("map to object with optional fields", [("a", dict[str, int])], [("a", struct("I", ("x", int, 0)))], YES, YES),
    ("map of anything to object", [("a", dict[str, Any])], [("a", struct("I", ("x", int, 0)))], NO, YES),
    ("nested: add an optional field", [("a", struct("I"))], [("a", struct("I", ("x", int, 0)))], YES, YES),
    ("nested: add a required field", [("a", struct("I"))], [("a", struct("I", ("x", int)))], NO, YES),
    ("nested: change a default", [("a", struct("I", ("x", int, 0)))], [("a", struct("I", ("x", int, 1)))], NO, NO),
    ("nested: int to float", [("a", struct("I", ("x", int)))], [("a", struct("I", ("x", float)))], NO, NO),
    ("nested: drop a required field", [("a", struct("I", ("x", int)) | None, None)], [("a", struct("I") | None, None)], YES, NO),
    ("nested in list: narrow", [("a", list[struct("I", ("x", int | str))])], [("a", list[struct("I", ("x", int))])], NO, YES),
    ("nested in map: rename", [("a", dict[str, struct("I", ("x", int))])], [("a", dict[str, struct("I", ("y", int))])], NO, NO),
    ("rename the class only", [("a", struct("I", ("x", int)))], [("a", struct("J", ("x", int)))], YES, YES),
    (
        "add a member to a tagged union",
        [("a", struct("A", tag=True) | struct("B", tag=True))],
        [("a", struct("A", tag=True) | struct("B", tag=True) | struct("C", tag=True))],
        YES,
        NO,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "backward", "forward"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_each_change_breaks_the_directions_of_its_row(old, new, backward, forward):
    assert (not backward_problems(shape(*old), shape(*new))) == backward, backward_problems(shape(*old), shape(*new))
    assert (not forward_problems(shape(*old), shape(*new))) == forward, forward_problems(shape(*old), shape(*new))


@pytest.mark.parametrize(("old", "new"), [row[1:3] for row in ROWS], ids=[row[0] for row in ROWS])
def test_forward_is_backward_the_other_way_round(old, new):
    assert bool(forward_problems(shape(*old), shape(*new))) == bool(backward_problems(shape(*new), shape(*old)))


def refused(mode, history, new) -> tuple[str, ...]:
    try:
        check("x.done", mode, history, new)
    except IncompatibleSchema as error:
        assert (error.event_type, error.mode) == ("x.done", mode)  # noqa: PT017  # no error is an answer too
        return error.problems
    return ()


@pytest.mark.parametrize(("old", "new", "backward", "forward"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_modes_ask_for_the_directions_in_their_name(old, new, backward, forward):
    allowed = {mode for mode in MODES if not refused(mode, [shape(*old)], shape(*new))}
    expected = {"NONE"}
    expected |= {"BACKWARD", "BACKWARD_TRANSITIVE"} if backward else set()
    expected |= {"FORWARD", "FORWARD_TRANSITIVE"} if forward else set()
    expected |= {"FULL", "FULL_TRANSITIVE"} if backward and forward else set()
    assert allowed == expected


@pytest.mark.parametrize("mode", MODES)
def test_transitive_modes_look_at_every_version_the_others_at_the_last(mode):
    history = [shape(("a", str | None, None)), shape(REQUIRED), shape(("a", str), ("b", int | None, None))]
    back_to_the_first = [shape(("a", int | None, None)), shape()]
    new = shape(("a", str | None, None))
    assert bool(refused(mode, back_to_the_first, new)) == mode.endswith("_TRANSITIVE")
    assert not refused(mode, [], new)
    assert bool(refused(mode, history[:2], history[2])) == (mode in {"BACKWARD_TRANSITIVE", "FULL_TRANSITIVE"})


def test_every_problem_is_listed_once_by_path():
    old = shape(("a", int), ("b", struct("I", ("x", int, 0))), ("c", Literal["x", "y"]))
    new = shape(("a", str), ("b", struct("I", ("x", int, 1))), ("c", Literal["x"]), ("d", int))
    problems = refused("BACKWARD_TRANSITIVE", [old, old], new)
    assert [problem.partition(":")[0] for problem in problems] == ["a", "b.x", "c", "d"]
    assert "values y" in problems[2]
    assert "x.done is not BACKWARD compatible: a: " in str(IncompatibleSchema("x.done", "BACKWARD", problems))


def test_readers_that_refuse_unknown_fields_break_when_one_is_added():
    old, new = shape(REQUIRED, forbid_unknown_fields=True), shape(REQUIRED, ("b", int, 0), forbid_unknown_fields=True)
    assert backward_problems(old, new) == []
    assert forward_problems(old, new) == ["b: a reader of the old version refuses unknown fields"]


class Tree(msgspec.Struct):
    name: str
    children: list[Tree] = []
    parent: Tree | None = None


class OtherTree(msgspec.Struct):
    name: int
    children: list[OtherTree] = []
    parent: OtherTree | None = None


def test_recursive_types_are_compared_to_their_end():
    assert backward_problems(describe(Tree), describe(Tree)) == []
    assert any(problem.startswith("name:") for problem in backward_problems(describe(Tree), describe(OtherTree)))


def test_a_description_holds_no_prose_but_fields_of_that_name():
    class Wordy(msgspec.Struct):
        """Reworded often."""

        title: str
        description: Annotated[str, Meta(description="prose", title="more")] = "description"

    assert describe(Wordy) == {
        "type": "object",
        "properties": {"title": {"type": "string"}, "description": {"type": "string", "default": "description"}},
        "required": ["title"],
    }


@pytest.mark.parametrize("payload_type", sorted(set(PAYLOADS.values()), key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_every_built_in_payload_is_compatible_with_itself(payload_type):
    schema = describe(payload_type)
    assert backward_problems(schema, schema) == forward_problems(schema, schema) == []
