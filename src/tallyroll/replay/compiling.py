"""Functions made at run time of what views declare: slot numbers and names of our own, never anything from an event. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from types import CodeType
from typing import Any, Final

_FILE: Final = "<compiled from a view>"


def function(name: str, arguments: str, lines: Sequence[str], names: dict[str, Any]) -> Any:  # noqa: ANN401  # made at run time
    """A function of these lines, in which these names are known."""
    source = f"def {name}({arguments}):\n" + "\n".join(f"    {line}" for line in lines)
    exec(_compiled(source), names)  # noqa: S102  # as dataclasses do; see above for what it is made of
    made = names[name]
    made.__code__ = made.__code__.replace()  # one of its own, for the interpreter learns what types it meets there
    return made


@cache
def _compiled(source: str) -> CodeType:
    """Three of four functions are the same text as another, with other things behind the names."""
    return compile(source, _FILE, "exec")
