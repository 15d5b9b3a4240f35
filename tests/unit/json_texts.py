"""What may stand in a record: JSON of every kind, and what is nearly JSON, as texts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

numbers = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.integers(-(2**53) - 3, 2**53 + 3).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.floats(0, 1e6).map(lambda one: f"{one:.3f}"),
    st.from_regex(r"-?(0|[1-9][0-9]{0,24})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"[-+]?[0-9]{0,3}\.?[0-9]{0,3}([eE][+-]?[0-9]{0,3})?", fullmatch=True),
    st.sampled_from(["-0", "-0.0", "0e0", "1e308", "1.8e308", "1e-400", "9007199254740993", "-9007199254740992", "01", "1.", "-", "NaN"]),
)
strings = st.one_of(
    st.text(max_size=40).map(json.dumps),
    st.text(max_size=40).map(lambda one: json.dumps(one, ensure_ascii=False)),
    st.from_regex(r'"([a-zé😀]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}|\\[a-z]|[\x00-\x1f]){0,12}"', fullmatch=True),
    st.text("abc", max_size=80).map(json.dumps),
    st.sampled_from(['""', '"1.0"', '"\\u006f"', '"\\ud83d\\ude00"', '"\\ud800"', '"x', '"\x7f"']),
)
scalars = st.one_of(numbers, strings, st.sampled_from(["true", "false", "null", "tru", "nul", ""]))
blanks = st.one_of(st.just(""), st.just(""), st.text(" \t\r\n", max_size=3), st.sampled_from(["\v", "\x00", "\ufeff"]))


@st.composite
def objects(draw: st.DrawFn, values: st.SearchStrategy[str], known: Sequence[str]) -> str:
    """With members of these names, and of others."""
    names = st.one_of(st.sampled_from(known).map(lambda one: json.dumps(one, ensure_ascii=False)), strings)
    names_ = draw(st.lists(names, max_size=6, unique=draw(st.integers(0, 7)) > 0))
    blank = draw(blanks) if draw(st.booleans()) else ""
    return "{" + blank + f"{blank},{blank}".join(f"{name}{blank}:{blank}{draw(values)}" for name in names_) + blank + "}"


def arrays(values: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(values, max_size=4).map(lambda some: f"[{','.join(some)}]")


def anything(known: Sequence[str]) -> st.SearchStrategy[str]:
    """Values, with objects in them whose members have these names, and others."""
    return st.recursive(scalars, lambda some: arrays(some) | objects(some, known), max_leaves=8)


def wire(text: str) -> bytes:
    """A text as bytes, whatever it is."""
    return text.encode("utf-8", "surrogatepass")


@st.composite
def some_records(
    draw: st.DrawFn, plain: Mapping[str, Any], payloads: st.SearchStrategy[str], members: Mapping[str, st.SearchStrategy[str]], changes: int
) -> str:
    """A record like ``plain``, whose payload is last, with so many of its members changed, doubled, added or left out."""
    held = [(name, json.dumps(value)) for name, value in plain.items()]
    if draw(st.integers(0, 3)):
        held[-1] = ("data", draw(payloads))
    for _ in range(draw(st.integers(0, changes))):
        name = draw(st.sampled_from(sorted(members)))
        held = [one for one in held if one[0] != name or not draw(st.integers(0, 9))]
        if draw(st.integers(0, 9)):
            held.insert(draw(st.integers(0, len(held))), (name, draw(members[name])))
    blank = draw(blanks) if draw(st.booleans()) else ""
    return draw(blanks) + "{" + f",{blank}".join(f'"{name}":{blank}{value}' for name, value in held) + "}" + draw(blanks)
