"""Where two states differ, by path: ``status``, ``tools.grep``, ``tools["two words"]``. Pure.

Maps are compared member by member, lists as a whole: an index says little once something was put before it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from tallyroll.replay.fold import State
from tallyroll.replay.predicate import RESERVED


class Missing:
    """The type of ``MISSING``: there is no such member, which is not the same as null."""

    def __repr__(self) -> str:
        return "MISSING"

    def __bool__(self) -> bool:
        return False


MISSING: Final = Missing()
_PLAIN: Final = re.compile(r"[A-Za-z_][\w-]*", re.ASCII)


class Change(NamedTuple):
    """One path that is not what it was; ``MISSING`` where it is on one side only."""

    path: str
    old: Any
    new: Any


class Difference(NamedTuple):
    """One path that two states do not agree on; ``MISSING`` where it is on one side only."""

    path: str
    ours: Any
    theirs: Any


def diff(before: State, after: State) -> list[Change]:
    """The paths that changed, sorted by member on each level."""
    return [Change(*one) for one in _differences("", before, after)]


def compare_states(ours: State, theirs: State) -> list[Difference]:
    """The paths on which two states do not agree. ``1``, ``1.0`` and ``true`` are three values."""
    return [Difference(*one) for one in _differences("", ours, theirs)]


def child(path: str, name: str) -> str:
    """The path of a member."""
    if _PLAIN.fullmatch(name) and (path or name not in RESERVED):  # a predicate cannot begin with a word of its language
        return f"{path}.{name}" if path else name
    return f"{path}[{json.dumps(name, ensure_ascii=False)}]"


def _differences(path: str, left: Any, right: Any) -> Iterator[tuple[str, Any, Any]]:  # noqa: ANN401  # any value of a state
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        for name in sorted(left.keys() | right.keys()):
            yield from _differences(child(path, name), left.get(name, MISSING), right.get(name, MISSING))
    elif not _same(left, right):
        yield path, left, right


def _same(left: Any, right: Any) -> bool:  # noqa: ANN401  # as above
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same(left[name], right[name]) for name in left)
    if isinstance(left, str) and isinstance(right, str):
        return left == right  # members of enumerations among them
    return type(left) is type(right) and bool(left == right)
