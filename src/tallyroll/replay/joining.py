"""How the slots of parts become a state, of all fields of a view at once: as each field says, without a call where that is simple.

Flushes that write states join thousands of owners, most of which have one or few parts and few fields that say anything. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from tallyroll.replay.by_name import CountBy
from tallyroll.replay.compiling import function
from tallyroll.replay.fields import Count, Field, Last, Min, Place, Slots, Sum
from tallyroll.replay.open_set import OpenSet

Alone = Callable[[Slots, Place], dict[str, Any]]
"""The fields of a state of one part, by its slots."""

Together = Callable[[Sequence[Slots], Sequence[Place]], dict[str, Any]]
"""The fields of a state of several parts, by the slots of each."""


class Joining(NamedTuple):
    """What the fields of a view amount to; as ``Field.alone`` and ``Field.settle`` of each."""

    alone: Alone
    together: Together


def joining_of(fields: Mapping[str, Field]) -> Joining:
    """Compiled for these fields, by name in the order of their slots."""
    if not fields:
        return Joining(lambda _slots, _place: {}, lambda _parts, _places: {})
    names: dict[str, Any] = {f"field{at}": field for at, field in enumerate(fields.values())}
    slots = ", ".join(f"s{at}" for at in range(len(fields))) + ","
    kinds: list[type[Field]] = [*map(type, fields.values())]
    alone = [_ALONE.get(kind.alone, "field{at}.alone({slot}, place)") for kind in kinds]
    together = [_TOGETHER.get(kind.settle, "field{at}.settle({slot}, places)") for kind in kinds]
    return Joining(
        function("alone", "slots, place", [f"{slots} = slots", _returned(fields, alone)], {**names}),
        function(
            "together",
            "parts, places",
            ["nothing = (None,) * len(parts)", f"{slots} = zip(*parts, strict=True)", _returned(fields, together)],
            {**names},
        ),
    )


def _returned(fields: Mapping[str, Field], sources: Sequence[str]) -> str:
    members = [f"{name!r}: {source.format(at=at, slot=f's{at}')}" for at, (name, source) in enumerate(zip(fields, sources, strict=True))]
    return f"return {{{', '.join(members)}}}"


# By the method that it says the same as. Another kind's method, or one that a kind made of these has of its own, is called.
_ALONE: Final[Mapping[Any, str]] = {
    Count.alone: "{slot}",
    Sum.alone: "{slot}",
    Min.alone: "{slot}",
    Last.alone: "None if {slot} is None else {slot}[2]",
    CountBy.alone: "{slot}.copy()",
    OpenSet.alone: "sorted({slot}[0]) if {slot}[0] else []",
}
_TOGETHER: Final[Mapping[Any, str]] = {
    Count.settle: "sum({slot})",
    Sum.settle: "sum({slot})",
    Last.settle: "None if {slot} == nothing else field{at}.settle({slot}, places)",
    CountBy.settle: "field{at}.settle({slot}, places) if any({slot}) else {{}}",
}
