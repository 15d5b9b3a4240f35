"""Views compiled into small functions per event type.

A fold runs over every record of the log, three views at a time, so the walk through the declarations is done once: the
functions made here are what somebody would write by hand, down to values of the usual types, which are taken out without a
call. They are made of slot numbers and of member names of our own declarations, never of
anything from an event. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from tallyroll.events.event import agent_of
from tallyroll.replay.by_name import CountBy
from tallyroll.replay.compiling import function
from tallyroll.replay.fields import COUNT, LAST, SUM, Change, Of, Value
from tallyroll.replay.values import AGENT_ID, EVENT_TIME, NULL

if TYPE_CHECKING:
    from tallyroll.replay.fold import Part, View

Take = Callable[[Any, Of, int, str | None], tuple[Any, ...]]
"""The values of an event, of its facts, whose it is, time in µs and agent. Raises ValueError when the facts make no sense."""

Values = tuple[Any, ...]
"""What ``Take`` gives, and behind it for each step of the program whose part it changes, None where that is nobody's."""

Met = Sequence[dict[str, None]]
"""By view the owners that were met, in the order of the records."""

Read = Callable[[Any, Of, int, Met], Values | None]
"""The values of a payload of the current version, of whose it is and time in µs; None if it concerns nobody.

Its owners are added to those met. Raises as decoding does, and ValueError, before it adds any.
"""

Hit = Callable[[Values, int, Sequence[Mapping[str, "Part"]], list["Part"]], None]
"""Counts an event at an offset, by its values, into the parts that it concerns, which are all among those by view.

Parts that become dirty are appended to the list. Never raises.
"""

Recall = Callable[[int, str], "Part | None"]
"""The part of a view and owner that is not among the young ones; None if that owner does not count."""

FoldOne = Callable[[Any, Of, int, int, Sequence[Mapping[str, "Part"]], Recall, list["Part"]], bool]
"""Counts a payload of the current version, of whose it is, time in µs and offset, into the parts that it concerns; whether any.

As ``read`` and ``hit`` one after the other, in less time; parts that become dirty are appended to the list. Raises as
decoding does, and ValueError, before it changes anything.
"""


class Step(NamedTuple):
    """What one event type does to a part of one view, as source, and the names in it."""

    view: int
    aggregate: str
    lines: Sequence[str]
    names: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Program:
    """What one event type does in one topic: decode the members that are read, take the values out, change the parts.

    ``values`` says what ``take`` gives, in its order; ``members`` which payload members are decoded, as what. Each function is
    compiled when it is first asked for: hardly anybody asks for all, and all of them take a tenth of a second.
    """

    event_type: str
    current_version: str
    values: tuple[Value, ...]
    members: Mapping[str, Any]
    steps: tuple[Step, ...]

    def narrowed(self, view: int) -> Program:
        """For one view only; values are still taken out for all, since one bad value voids a record."""
        return replace(self, steps=tuple(step for step in self.steps if step.view == view))

    @cached_property
    def decode(self) -> Callable[[bytes | msgspec.Raw], Any]:
        """The payload members that are read."""
        fields = [(name, kind, NULL if kind is msgspec.Raw else None) for name, kind in self.members.items()]
        return msgspec.json.Decoder(msgspec.defstruct(f"Facts of {self.event_type}", fields, gc=False)).decode

    @cached_property
    def take(self) -> Take:
        """See ``Take``."""
        return _take(self.values)

    @cached_property
    def read(self) -> Read:
        """See ``Read``."""
        return _read(self.decode, self.values, self.steps)

    @cached_property
    def hit(self) -> Hit:
        """See ``Hit``."""
        return _hit(self.values, self.steps)

    @cached_property
    def owners_at(self) -> Sequence[tuple[int, int]]:
        """Of each step the number of its view, and where its owner stands in what ``read`` gives."""
        return [(step.view, len(self.values) + number) for number, step in enumerate(self.steps)]

    @cached_property
    def fold(self) -> FoldOne:
        """See ``FoldOne``."""
        return _fold(self.decode, self.values, self.steps)


class _Change(NamedTuple):
    slot: int
    value: Value
    change: Change


def program_of(event_type: str, current_version: str, reading: Sequence[tuple[int, View]]) -> Program:
    """The program of one event type for the numbered views that count it."""
    changes = {number: list(_changes(event_type, view)) for number, view in reading}
    read = {AGENT_ID.name: AGENT_ID} | {one.value.name: one.value for of_view in changes.values() for one in of_view}
    values = (*_GIVEN, *(value for value in read.values() if value.constant is None and value not in _GIVEN))
    place = {value.name: at for at, value in enumerate(values)}
    steps = tuple(_step(number, view.owner, changes[number], place) for number, view in reading)
    return Program(event_type, current_version, values, _members(event_type, read.values()), steps)


def _changes(event_type: str, view: View) -> Iterator[_Change]:
    for slot, field in enumerate(view.fields.values()):
        step = field.step(event_type)
        if step is not None:
            yield _Change(slot, *step)


def _members(event_type: str, values: Iterable[Value]) -> dict[str, Any]:
    """Just the payload members that are read, so that no other member can be of a wrong type."""
    members: dict[str, Any] = {}
    for value in values:
        for name, kind in value.reads:
            if not name.isidentifier() or members.setdefault(name, kind) != kind:
                raise ValueError(f"{event_type}: {name} is no name, or read as two different types")
    return members


def _taken(values: Sequence[Value]) -> tuple[list[str], dict[str, Any]]:
    """The source that puts the values into locals, and the names in it."""
    names: dict[str, Any] = {"NULL": NULL}
    lines = ["v0, v1 = time_us, agent"]
    for number, value in enumerate(values[len(_GIVEN) :], len(_GIVEN)):
        names[f"get{number}"] = value.get
        steps = [f"{usual} if {condition} else" for condition, usual in value.quick]
        get, absent = f"get{number}(facts, head, time_us)", " and ".join(map(_is_absent, value.reads))
        # Most members of most events are not there.
        source = [*steps, get] if value.always or not absent else [f"None if {absent} else", *steps, get]
        lines += _looked_at_once(f"v{number} = {' '.join(source)}")
    return lines, names


def _is_absent(read: tuple[str, Any]) -> str:
    name, kind = read
    return f"facts.{name} is {'NULL' if kind is msgspec.Raw else 'None'}"


def _looked_at_once(line: str) -> list[str]:
    """The line, with members of the facts that it names more than once in locals."""
    named = re.findall(r"facts\.(\w+)", line)
    often = [name for name in dict.fromkeys(named) if named.count(name) > _FEW]
    for name in often:
        line = re.sub(rf"facts\.{name}\b", f"its_{name}", line)
    return [*(f"its_{name} = facts.{name}" for name in often), line]


def _take(values: Sequence[Value]) -> Take:
    lines, names = _taken(values)
    take: Take = function("take", "facts, head, time_us, agent", [*lines, f"return {_locals(values)}"], names)
    return take


def _read(decode: Callable[[Any], Any], values: Sequence[Value], steps: Sequence[Step]) -> Read:
    taken, names = _taken(values)
    names |= {"agent_of": agent_of, "decode": decode}
    lines = ["facts = decode(data)", *_WHOSE, "aggregate = head.aggregateid", *taken]
    for number, step in enumerate(steps):
        owned = [f"o{number} = {_owner(step)}", f"met[{step.view}][o{number}] = None"]
        lines += [*_owned(number, step, names, owned), f"else: o{number} = None"]
    nobody = " and ".join(f"o{number} is None" for number in range(len(steps))) or "True"
    lines.append(f"return None if {nobody} else ({_locals(values)}, {_owners(steps)})")
    read: Read = function("read", "data, head, time_us, met", lines, names)
    return read


def _hit(values: Sequence[Value], steps: Sequence[Step]) -> Hit:
    names: dict[str, Any] = {}
    lines = [f"{_locals(values)}, {_owners(steps)} = values"]
    for number, step in enumerate(steps):
        names |= step.names
        lines += [
            f"if o{number} is not None:",
            *(f"    {line}" for line in (f"part = young[{step.view}][o{number}]", *step.lines, *_MARKED)),
        ]
    hit: Hit = function("hit", "values, offset, young, dirty", lines, names)
    return hit


def _fold(decode: Callable[[Any], Any], values: Sequence[Value], steps: Sequence[Step]) -> FoldOne:
    taken, names = _taken(values)
    names |= {"agent_of": agent_of, "decode": decode}
    lines = ["facts = decode(data)", *_WHOSE, *taken, "counts = False"]
    if any(step.aggregate != "agent" for step in steps):
        lines.append("aggregate = head.aggregateid")
    for number, step in enumerate(steps):
        names |= step.names
        lines += _owned(
            number,
            step,
            names,
            [
                f"part = young[{step.view}].get({_owner(step)}) or recall({step.view}, {_owner(step)})",
                "if part is not None:",
                *(f"    {line}" for line in (*step.lines, "counts = True", *_MARKED)),
            ],
        )
    fold: FoldOne = function("fold", "data, head, time_us, offset, young, recall, dirty", [*lines, "return counts"], names)
    return fold


def _owned(number: int, step: Step, names: dict[str, Any], then: Sequence[str]) -> list[str]:
    """The source that goes on where the event has an owner in the view of a step."""
    names[f"kind{number}"] = step.aggregate
    counts = _COUNTS.get(step.aggregate, f"kind == kind{number}")
    return [f"if {counts}:", *(f"    {line}" for line in then)]


def _owners(steps: Sequence[Step]) -> str:
    """The names under which the source knows the owners."""
    return ", ".join(f"o{number}" for number in range(len(steps)))


def _owner(step: Step) -> str:
    return _OWNERS.get(step.aggregate, "aggregate")


def _step(view: int, owned_by: str, changes: Sequence[_Change], place: dict[str, int]) -> Step:
    names: dict[str, Any] = {}
    lines = [
        "part.version += 1",
        "order_us = part.order_us",
        # Never back, so that the order key does not contradict the offsets.
        f"if v{place[EVENT_TIME.name]} > order_us: part.order_us = order_us = v{place[EVENT_TIME.name]}",
        "slots = part.slots",
    ]
    for number, (slot, value, change) in enumerate(changes):
        if value.constant is not None:
            source = f"constant{view}_{number}"
            names[source] = value.constant
        else:
            source = f"v{place[value.name]}"
        if change == COUNT:
            lines.append(f"slots[{slot}] += 1")
        elif change == SUM:
            lines.append(f"if {source}: slots[{slot}] += {source}")
        elif change == LAST:
            lines.append(f"if {source} is not None: slots[{slot}] = (order_us, offset, {source})")
        else:
            names[f"update{view}_{number}"] = change
            call = f"update{view}_{number}(slots, {slot}, {source}, order_us, offset)"
            if change is CountBy.update:  # of a name that was met before, without the call
                lines += [f"if {source} in slots[{slot}]: slots[{slot}][{source}] += 1", f"else: {call}"]
            else:
                lines.append(call)
    return Step(view, owned_by, lines, names)


def _locals(values: Sequence[Value]) -> str:
    """The names under which the source knows the values."""
    return ", ".join(f"v{at}" for at in range(len(values)))


# By rule: the owner's source, and whether there is one. Any other word is a type of aggregate.
_OWNERS: Final = {"agent": "agent", "aggregate": "f'{kind}:{aggregate}'"}
_COUNTS: Final = {"agent": "agent is not None", "aggregate": "True"}
# ``agent_of`` without the call, of what is usual.
_WHOSE: Final = (
    "kind = head.aggregatetype",
    "agent = head.aggregateid if kind == 'agent' else facts.agent_id",
    "if agent.__class__ is not str or not agent: agent = agent_of(kind, head.aggregateid, agent)",
)
_MARKED: Final = ("if not part.dirty:", "    part.dirty = True", "    dirty.append(part)")
_GIVEN: Final = (EVENT_TIME, AGENT_ID)
_FEW: Final = 2  # looks at a member that cost no more than a local does
