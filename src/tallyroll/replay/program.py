"""Views compiled into small functions per event type.

A fold runs over every record of the log, three views at a time, so the walk through the declarations is done once: the
functions made here are what somebody would write by hand, down to values of the usual types, which are taken out without a
call. They are made of slot numbers and of member names of our own declarations, never of
anything from an event. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec

from tallyroll.events.event import agent_of
from tallyroll.replay.fields import COUNT, LAST, SUM, Change, CountBy, Of, Value
from tallyroll.replay.values import AGENT_ID, EVENT_TIME, NULL

if TYPE_CHECKING:
    from tallyroll.replay.fold import Part, View

Take = Callable[[Any, Of, int, str | None], tuple[Any, ...]]
"""The values of an event, of its facts, whose it is, time in µs and agent. Raises ValueError when the facts make no sense."""

Apply = Callable[["Part", tuple[Any, ...], int], None]
"""Counts an event at an offset into a part, by its values. Never raises."""

Target = tuple["Part", Apply, tuple[Any, ...]]
"""A part, and what an event does to it. A plain tuple: a named one costs 0.2 µs more, and each record makes some."""

Recall = Callable[[int, str], "Part | None"]
"""The part of a view and owner that is not among the young ones; None if that owner does not count."""

Aim = Callable[[Any, Of, int, Sequence[Mapping[str, "Part"]], Recall], Sequence[Target]]
"""As ``Take``, and which parts the values change, of the young ones by view or as recalled. Raises ValueError before it recalls."""


FoldOne = Callable[[Any, Of, int, int, Sequence[Mapping[str, "Part"]], Recall, list["Part"]], bool]
"""Counts a payload of the current version, of whose it is, time in µs and offset, into the parts that it concerns; whether any.

As ``aim`` and ``apply`` one after the other, in a third of the time; parts that become dirty are appended to the list. Raises as
decoding does, and ValueError, before it changes anything.
"""


class Step(NamedTuple):
    """What one event type does to a part of one view. ``lines`` and ``names`` are the source of ``apply``."""

    view: int
    aggregate: str
    apply: Apply
    lines: Sequence[str]
    names: Mapping[str, Any]


class Program(NamedTuple):
    """What one event type does in one topic: decode the members that are read, take the values out, change the parts.

    ``values`` says what ``take`` gives, in its order.
    """

    event_type: str
    decode: Callable[[bytes | msgspec.Raw], Any]
    current_version: str
    take: Take
    aim: Aim
    fold: FoldOne
    steps: tuple[Step, ...]
    values: tuple[Value, ...]

    def narrowed(self, view: int) -> Program:
        """For one view only; values are still taken out for all, since one bad value voids a record."""
        steps = tuple(step for step in self.steps if step.view == view)
        getters = self.values[len(_GIVEN) :]
        return self._replace(aim=_aim(getters, steps), fold=_fold(self.decode, getters, steps), steps=steps)


class _Change(NamedTuple):
    slot: int
    value: Value
    change: Change


def compile_program(event_type: str, current_version: str, reading: Sequence[tuple[int, View]]) -> Program:
    """The program of one event type for the numbered views that count it."""
    changes = {number: list(_changes(event_type, view)) for number, view in reading}
    values = {AGENT_ID.name: AGENT_ID} | {one.value.name: one.value for of_view in changes.values() for one in of_view}
    getters = [value for value in values.values() if value.constant is None and value not in _GIVEN]
    place = {value.name: at for at, value in enumerate((*_GIVEN, *getters))}
    steps = tuple(_step(number, view.owner, changes[number], place) for number, view in reading)
    decode = msgspec.json.Decoder(_facts(event_type, values.values())).decode
    return Program(
        event_type,
        decode,
        current_version,
        _take(getters),
        _aim(getters, steps),
        _fold(decode, getters, steps),
        steps,
        (*_GIVEN, *getters),
    )


def _changes(event_type: str, view: View) -> Iterator[_Change]:
    for slot, field in enumerate(view.fields.values()):
        step = field.step(event_type)
        if step is not None:
            yield _Change(slot, *step)


def _facts(event_type: str, values: Iterable[Value]) -> type[Any]:
    """A struct with just the payload members that are read, so that no other member can be of a wrong type."""
    members: dict[str, Any] = {}
    for value in values:
        for name, kind in value.reads:
            if not name.isidentifier() or members.setdefault(name, kind) != kind:
                raise ValueError(f"{event_type}: {name} is no name, or read as two different types")
    fields = [(name, kind, NULL if kind is msgspec.Raw else None) for name, kind in members.items()]
    return msgspec.defstruct(f"Facts of {event_type}", fields, gc=False)


def _taken(getters: Sequence[Value]) -> tuple[str, dict[str, Any]]:
    """The source of the tuple of values, and the names in it."""
    names: dict[str, Any] = {"NULL": NULL}
    items = ["time_us", "agent"]
    for number, value in enumerate(getters):
        names[f"get{number}"] = value.get
        chain = [f"{source} if {condition} else" for condition, source in value.quick]
        call = f"get{number}(facts, head, time_us)"
        present = " or ".join(f"facts.{name} is not {'NULL' if kind is msgspec.Raw else 'None'}" for name, kind in value.reads)
        items.append(f"({' '.join([*chain, call])}{'' if value.always or not present else f' if {present} else None'})")
    return f"({', '.join(items)})", names


def _take(getters: Sequence[Value]) -> Take:
    values, names = _taken(getters)
    take: Take = _function("take", "facts, head, time_us, agent", [f"return {values}"], names)
    return take


def _aim(getters: Sequence[Value], steps: Sequence[Step]) -> Aim:
    values, names = _taken(getters)
    names["agent_of"] = agent_of
    lines = [
        "kind, aggregate = head.aggregatetype, head.aggregateid",
        "agent = agent_of(kind, aggregate, facts.agent_id)",
        f"values = {values}",
        "targets = ()",
    ]
    for number, step in enumerate(steps):
        names[f"apply{number}"] = step.apply
        then = [f"targets {'+' if number else ''}= ((part, apply{number}, values),)"]
        lines += _found(number, step, names, then)
    aim: Aim = _function("aim", "facts, head, time_us, young, recall", [*lines, "return targets"], names)
    return aim


def _fold(decode: Callable[[Any], Any], getters: Sequence[Value], steps: Sequence[Step]) -> FoldOne:
    values, names = _taken(getters)
    names |= {"agent_of": agent_of, "decode": decode}
    lines = [
        "facts, kind, aggregate = decode(data), head.aggregatetype, head.aggregateid",
        "agent = facts.agent_id",
        "if kind == 'agent' or not agent or agent.__class__ is not str: agent = agent_of(kind, aggregate, agent)",
        f"{_locals(len(getters))} = {values}",
        "counts = False",
    ]
    for number, step in enumerate(steps):
        names |= step.names
        then = [*step.lines, "counts = True", "if not part.dirty:", "    part.dirty = True", "    dirty.append(part)"]
        lines += _found(number, step, names, then)
    fold: FoldOne = _function("fold", "data, head, time_us, offset, young, recall, dirty", [*lines, "return counts"], names)
    return fold


def _found(number: int, step: Step, names: dict[str, Any], then: Sequence[str]) -> list[str]:
    """The source that finds the part of a step, if there is one, and goes on with it."""
    names[f"kind{number}"] = step.aggregate
    owner, counts = _OWNERS.get(step.aggregate, ("aggregate", f"kind == kind{number}"))
    return [
        f"if {counts}:",
        f"    part = young[{step.view}].get({owner}) or recall({step.view}, {owner})",
        "    if part is not None:",
        *(f"        {line}" for line in then),
    ]


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
            lines += [f"value = {source}", f"if value: slots[{slot}] += value"]
        elif change == LAST:
            lines += [f"value = {source}", f"if value is not None: slots[{slot}] = (order_us, offset, value)"]
        else:
            names[f"update{view}_{number}"] = change
            call = f"update{view}_{number}(slots, {slot}, {source}, order_us, offset)"
            if change is CountBy.update:  # of a name that was met before, without the call
                lines += [f"if {source} in slots[{slot}]: slots[{slot}][{source}] += 1", f"else: {call}"]
            else:
                lines.append(call)
    apply: Apply = _function("apply", "part, values, offset", [f"{_locals(len(place) - len(_GIVEN))} = values", *lines], dict(names))
    return Step(view, owned_by, apply, lines, names)


def _locals(getters: int) -> str:
    """The names under which the source knows the values."""
    return ", ".join(f"v{at}" for at in range(len(_GIVEN) + getters))


def _function(name: str, arguments: str, lines: Sequence[str], names: dict[str, Any]) -> Any:  # noqa: ANN401  # made at run time
    source = f"def {name}({arguments}):\n" + "\n".join(f"    {line}" for line in lines)
    exec(compile(source, _FILE, "exec"), names)  # noqa: S102  # as dataclasses do; see the docstring for what it is made of
    return names[name]


# By rule: the owner's source, and whether there is one. Any other word is a type of aggregate.
_OWNERS: Final = {"agent": ("agent", "agent is not None"), "aggregate": ("f'{kind}:{aggregate}'", "True")}
_GIVEN: Final = (EVENT_TIME, AGENT_ID)
_FILE: Final = "<compiled from a view>"
