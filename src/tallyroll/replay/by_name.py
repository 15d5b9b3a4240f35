"""Kinds of fields that keep something per name: counts per event type, last values, summaries of numbers, last places.

What is in them is bounded: a part tells ``MAX_NAMES`` names apart, first come, and all others share ``__other__``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Final

from tallyroll.events.names import OTHER_NAME
from tallyroll.replay.fields import INT_MAX, ONE, Change, Field, Place, Slots, Value, constant
from tallyroll.replay.values import EVENT_TIME, split_named

# A name of up to 255 characters each: 1,000 of them bound one slot to some 250 KB.
MAX_NAMES: Final = 1_000


@dataclass(frozen=True)
class CountBy(Field):
    """How many events per name. A part tells 1,000 names apart, first come; the rest counts under ``__other__``."""

    types: tuple[str, ...]
    name: Value
    kind: ClassVar[str] = "count_by"

    def start(self) -> dict[str, int]:
        return {}

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        return (self.name, self.update) if event_type in self.types else None

    @staticmethod
    def update(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401, ARG004  # Update
        if value is None:
            return
        counts = slots[index]
        if value not in counts and len(counts) >= MAX_NAMES:
            value = OTHER_NAME
        counts[value] = counts.get(value, 0) + 1

    def lift(self, slot: dict[str, int], place: Place) -> dict[str, int]:  # noqa: ARG002  # sums have no order
        return slot

    def join(self, left: dict[str, int], right: dict[str, int]) -> dict[str, int]:
        joined = dict(left)
        for name, count in right.items():
            joined[name] = joined.get(name, 0) + count
        return joined

    def settle(self, slots: Sequence[dict[str, int]], places: Sequence[Place]) -> dict[str, int]:  # noqa: ARG002  # sums have no order
        counts: dict[str, int] = {}
        for slot in filter(None, slots):
            if counts:
                for name, count in slot.items():
                    counts[name] = counts.get(name, 0) + count
            else:
                counts = slot.copy()
        return counts

    def alone(self, slot: dict[str, int], place: Place) -> dict[str, int]:  # noqa: ARG002  # sums have no order
        return slot.copy()

    def describe(self) -> list[Any]:
        return [self.kind, sorted(self.types), self.name.name, MAX_NAMES]


@dataclass(frozen=True)
class CountTypes(CountBy):
    """How many events of each type, under the type's name."""

    name: Value = field(default=ONE, init=False)
    kind: ClassVar[str] = "count_types"

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        return (constant(event_type), self.update) if event_type in self.types else None

    def describe(self) -> list[Any]:
        return [self.kind, sorted(self.types), MAX_NAMES]


@dataclass(frozen=True)
class LastBy(Field):
    """The newest text per name by order key. ``value`` gives ``named(name, text)``, and bounds the text."""

    types: tuple[str, ...]
    value: Value
    kind: ClassVar[str] = "last_by"

    def start(self) -> dict[str, Any]:
        return {}

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        return (self.value, self.update) if event_type in self.types else None

    @staticmethod
    def update(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401  # Update
        if value is not None:
            name, text = split_named(value)
            slots[index][_known(slots[index], name)] = (order_us, offset, text)

    def lift(self, slot: dict[str, Any], place: Place) -> dict[str, Any]:
        return {name: ((order_us, *place, offset), text) for name, (order_us, offset, text) in slot.items()}

    def join(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        return _newest(left, right)

    def show(self, joined: dict[str, Any]) -> dict[str, str]:
        return {name: text for name, (_, text) in joined.items()}

    def alone(self, slot: dict[str, Any], place: Place) -> dict[str, str]:  # noqa: ARG002  # of one part there is one text for a name
        return {name: text for name, (_, _, text) in slot.items()}

    def describe(self) -> list[Any]:
        return [self.kind, sorted(self.types), self.value.name, MAX_NAMES]


@dataclass(frozen=True)
class SummaryBy(Field):
    """Per name how many numbers there were, their exact sum, the smallest and the largest: ``[count, sum, min, max]``.

    ``value`` gives ``named(name, digits)`` of an integer within 64 bits. Parts keep the sum exactly, of any size; in the
    state a sum beyond 64 bits is None, for it is no mistake of the publisher and must not cost the other names their state.
    """

    types: tuple[str, ...]
    value: Value
    kind: ClassVar[str] = "summary_by"

    def start(self) -> dict[str, list[int]]:
        return {}

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        return (self.value, self.update) if event_type in self.types else None

    @staticmethod
    def update(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401, ARG004  # Update
        if value is None:
            return
        name, digits = split_named(value)
        number, summaries = int(digits), slots[index]
        name = _known(summaries, name)
        summaries[name] = _together(summaries.get(name), [1, number, number, number])

    def lift(self, slot: dict[str, list[int]], place: Place) -> dict[str, list[int]]:  # noqa: ARG002  # sums have no order
        return slot

    def join(self, left: dict[str, list[int]], right: dict[str, list[int]]) -> dict[str, list[int]]:
        joined = dict(left)
        for name, summary in right.items():
            joined[name] = _together(joined.get(name), summary)
        return joined

    def show(self, joined: dict[str, list[int]]) -> dict[str, list[int | None]]:
        return {
            name: [count, total if -INT_MAX <= total <= INT_MAX else None, least, most]
            for name, (count, total, least, most) in joined.items()
        }

    def describe(self) -> list[Any]:
        return [self.kind, sorted(self.types), self.value.name, MAX_NAMES]


@dataclass(frozen=True)
class LastSeen(Field):
    """Where and when the newest event of each kind is, by order key: ``[topic/partition/offset, event time in µs]``.

    Given as a map from event type to the name of its kind.
    """

    kinds: Mapping[str, str]
    kind: ClassVar[str] = "last_seen"

    def start(self) -> dict[str, Any]:
        return {}

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        name = self.kinds.get(event_type)
        return None if name is None else (EVENT_TIME, partial(self.update, name))

    @staticmethod
    def update(name: str, slots: Slots, index: int, value: int, order_us: int, offset: int) -> None:  # noqa: PLR0913  # Update, of one kind
        slots[index][name] = (order_us, offset, value)

    def lift(self, slot: dict[str, Any], place: Place) -> dict[str, Any]:
        return {name: ((order_us, *place, offset), time_us) for name, (order_us, offset, time_us) in slot.items()}

    def join(self, left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
        return _newest(left, right)

    def show(self, joined: dict[str, Any]) -> dict[str, list[Any]]:
        return {name: [f"{topic}/{partition}/{offset}", time_us] for name, ((_, topic, partition, offset), time_us) in joined.items()}

    def describe(self) -> list[Any]:
        return [self.kind, dict(self.kinds)]


def _known(names: Mapping[str, Any], name: str) -> str:
    return name if name in names or len(names) < MAX_NAMES else OTHER_NAME


def _together(known: list[int] | None, more: list[int]) -> list[int]:
    """Two summaries as one."""
    return more if known is None else [known[0] + more[0], known[1] + more[1], min(known[2], more[2]), max(known[3], more[3])]


def _newest(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """Per name the mark ``(order key, value)`` with the larger order key; no two parts share one."""
    joined = dict(left)
    for name, mark in right.items():
        if name not in joined or mark[0] > joined[name][0]:
            joined[name] = mark
    return joined
