"""Predicates on states as text: ``status == failed and tokens > 10000``. A small language of its own; nothing is evaluated.

::

    either     = both {"or" both}
    both       = one {"and" one}
    one        = "not" one | "(" either ")" | path comparison value
    comparison = "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" | "contains"
    path       = (word | index) {"." word | index}              tools.grep, tools["two words"], active_tasks[0]
    index      = "[" (text | number) "]"
    value      = text | number | "true" | "false" | "null" | word | "[" [value {"," value}] "]"

A word as a value is text. A member that is not there is null. ``<`` and its like hold between numbers and between texts and
of nothing else; numbers are equal by value, and no number is a boolean. Pure.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, NoReturn

import msgspec

from tallyroll.replay.fold import State

MAX_CHARS: Final = 10_000  # a page of conditions; nobody types more
_MAX_SHOWN: Final = 40  # characters of a piece of text in an error message
_MAX_DEPTH: Final = 100  # of brackets: far below what the interpreter's own stack bears

Test = Callable[[State], bool]
_Compare = Callable[[Any, Any], bool]
_Path = tuple[str | int, ...]


class Token(NamedTuple):
    """A piece of the text; ``column`` counts from 1."""

    kind: str
    text: str
    column: int


@dataclass(frozen=True)
class Predicate:
    """A parsed predicate: call it with a state. Never raises, whatever the state. ``members`` of a state are what it looks at."""

    text: str
    test: Test = field(repr=False, compare=False)
    members: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __call__(self, state: State) -> bool:
        return self.test(state)


def parse_predicate(text: str) -> Predicate:
    """The predicate that a text describes. Raises ValueError that names the column and what was expected there."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"column {MAX_CHARS + 1}: a predicate has at most {MAX_CHARS} characters")
    parser = _Parser(_tokens(text))
    return Predicate(text, parser.whole(), frozenset(parser.members))


_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+)
      | (?P<text>"(?:[^"\\]|\\.)*")
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<sign>==|!=|<=|>=|[<>()\[\],.])
      | (?P<word>[^\W\d][\w:/@+-]*)""",
    re.VERBOSE,
)
RESERVED: Final = ("and", "or", "not", "in", "contains")
_SIGNS: Final = ("sign", "reserved")
_INDEX: Final = "a name in double quotes or a whole number"
_MEANT: Final = {"=": "==", "&": "and", "|": "or", "!": "not"}
_CONSTANTS: Final = {"true": True, "false": False, "null": None}


def _tokens(text: str) -> list[Token]:
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            meant = _MEANT.get(text[at])
            raise ValueError(
                f"column {at + 1}: {text[at]!r} means nothing here; {f'write {meant}' if meant else 'text goes in double quotes'}"
            )
        kind = found.lastgroup or ""
        if kind != "blank":
            tokens.append(Token("reserved" if found[0] in RESERVED else kind, found[0], at + 1))
        at = found.end()
    return [*tokens, Token("end", "", len(text) + 1)]


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0
        self.members: set[str] = set()

    def whole(self) -> Test:
        test = self._either()
        if self._next.kind != "end":
            self._fail("and, or, or the end")
        return test

    def _either(self) -> Test:
        tests = [self._both()]
        while self._took("or"):
            tests.append(self._both())
        return tests[0] if len(tests) == 1 else lambda state: any(test(state) for test in tests)

    def _both(self) -> Test:
        tests = [self._one()]
        while self._took("and"):
            tests.append(self._one())
        return tests[0] if len(tests) == 1 else lambda state: all(test(state) for test in tests)

    def _one(self) -> Test:
        if self._took("not"):
            self._deeper()
            test = self._one()
            self._depth -= 1
            return lambda state: not test(state)
        if self._took("("):
            self._deeper()
            test = self._either()
            self._depth -= 1
            self._expect(")")
            return test
        return self._comparison()

    def _comparison(self) -> Test:
        path = self._path()
        compare = _COMPARISONS.get(self._next.text) if self._next.kind in _SIGNS else None
        if compare is None:
            self._fail("a comparison: " + " ".join(_COMPARISONS))
        self._at += 1
        value = self._value()
        return lambda state: compare(_look_up(state, path), value)

    def _path(self) -> _Path:
        path: list[str | int] = []
        if self._next.text != "[":
            path.append(self._take(("word",), "the name of a member").text)
        while self._next.text in (".", "["):
            if self._took("."):
                path.append(self._take(("word", "reserved"), "the name of a member").text)
            else:
                self._at += 1
                path.append(self._index())
                self._expect("]")
        if isinstance(path[0], str):
            self.members.add(path[0])
        return tuple(path)

    def _index(self) -> str | int:
        token = self._take(("text", "number"), _INDEX)
        try:
            index = msgspec.json.decode(token.text, type=str | int)
        except msgspec.DecodeError:
            self._at -= 1
            self._fail(_INDEX)
        return index

    def _value(self) -> Any:  # noqa: ANN401  # any JSON value
        if not self._took("["):
            return self._scalar()
        self._deeper()
        values: list[Any] = []
        while not self._took("]"):
            if values:
                self._expect(",")
            values.append(self._value())
        self._depth -= 1
        return values

    def _scalar(self) -> Any:  # noqa: ANN401  # as above
        token = self._next
        if token.kind == "word":
            self._at += 1
            words = [token.text]
            while self._next.text == "." and self._tokens[self._at + 1].kind == "word":  # event types have dots
                words.append(self._tokens[self._at + 1].text)
                self._at += 2
            return _CONSTANTS.get(token.text, token.text) if len(words) == 1 else ".".join(words)
        if token.kind not in ("text", "number"):
            self._fail("a value: text in double quotes, a number, true, false, null, a word or [a list]")
        try:
            value = msgspec.json.decode(token.text)
        except msgspec.DecodeError:
            self._fail("a JSON text or number")
        self._at += 1
        return value

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _took(self, sign: str) -> bool:
        if self._next.kind in _SIGNS and self._next.text == sign:
            self._at += 1
            return True
        return False

    def _take(self, kinds: Sequence[str], what: str) -> Token:
        token = self._next
        if token.kind not in kinds:
            self._fail(what)
        self._at += 1
        return token

    def _expect(self, sign: str) -> None:
        if not self._took(sign):
            self._fail(f"'{sign}'")

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError(f"column {self._next.column}: nested more than {_MAX_DEPTH} deep")

    def _fail(self, expected: str) -> NoReturn:
        found = self._next
        raise ValueError(f"column {found.column}: expected {expected}, found {repr(found.text[:_MAX_SHOWN]) if found.text else 'the end'}")


def _look_up(state: Any, path: _Path) -> Any:  # noqa: ANN401  # any value of a state
    for name in path:
        if isinstance(state, Mapping) and isinstance(name, str):
            state = state.get(name)
        elif isinstance(state, list) and isinstance(name, int) and -len(state) <= name < len(state):
            state = state[name]
        else:
            return None
    return state


def _equal(left: Any, right: Any) -> bool:  # noqa: ANN401  # as above
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_equal, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _ordered(compare: _Compare) -> _Compare:
    def holds(left: Any, right: Any) -> bool:  # noqa: ANN401  # as above
        numbers = all(isinstance(one, int | float) and not isinstance(one, bool) for one in (left, right))
        return (numbers or (isinstance(left, str) and isinstance(right, str))) and compare(left, right)

    return holds


def _contains(whole: Any, part: Any) -> bool:  # noqa: ANN401  # as above
    """A list an equal item, a map a member of that name, a text a piece of it."""
    if isinstance(whole, list):
        return any(_equal(item, part) for item in whole)
    return isinstance(part, str) and isinstance(whole, str | Mapping) and part in whole


_COMPARISONS: Final[dict[str, _Compare]] = {
    "==": _equal,
    "!=": lambda left, right: not _equal(left, right),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "in": lambda left, right: _contains(right, left),
    "contains": _contains,
}
