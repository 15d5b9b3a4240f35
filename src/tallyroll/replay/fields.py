"""The kinds of fields that a view is declared from, and the values they take out of an event.

A field has four faces: the slot it keeps in a part, how an event changes the slot, how slots of several parts join, and
what the joined value looks like in the canonical state. Joins are commutative and associative, so parts may be folded in
any order, on any machine, and joined as they come. Slots hold integers, text, booleans, None, lists and maps only.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import itemgetter
from typing import Any, ClassVar, Final, NamedTuple, Protocol

INT_MAX: Final = 2**63 - 1  # canonical integers are signed 64 bit, so that every reader and every column can hold them

# Ends whose start lies in another part must outlive the wait for the join; ends of own starts only meet a second start.
CLOSED_ELSEWHERE: Final = 1_024
CLOSED_HERE: Final = 32
MAX_OPEN: Final = 4_096  # an agent with more open tasks per partition has a publisher that never reports the end

Slots = list[Any]
Update = Callable[[Slots, int, Any, int, int], None]
"""Changes ``slots[index]`` by ``value`` at ``(order_us, offset)``. Never raises: what can fail has failed before."""


COUNT: Final = "count"
SUM: Final = "sum"
LAST: Final = "last"
Change = Update | str
"""An update, or one of the three common changes that the fold knows by name: COUNT, SUM, LAST."""


class Of(Protocol):
    """Whose event it is: a record's head, or the subject of an archived row. Not promised: anything else of the record."""

    @property
    def aggregatetype(self) -> str:
        """The kind of aggregate."""

    @property
    def aggregateid(self) -> str:
        """Its id."""


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an event: the payload members it reads with their types, and the function that makes it of them.

    ``name`` stands for the rule in the reducer id: another rule needs another name. ``get`` takes the decoded members,
    the head and the event time in µs since 1970; it raises ValueError when the members make no sense. A ``constant`` is
    the same for every event. Unless ``always``, the value is None when none of its members is there, and ``get`` is not called.
    ``quick`` says the same as ``get`` for what is usual, as source over ``facts`` and ``head``: pairs of a condition and an
    expression, tried in turn. A condition must not raise, whatever the members are.
    ``column`` names it where values are kept as columns, of integers if it is ``whole``, else of text; the empty name is for
    what is kept anyway, or is the same for all.
    """

    name: str
    reads: tuple[tuple[str, Any], ...]
    get: Callable[[Any, Of, int], Any]
    constant: str | int | None = None
    always: bool = False
    column: str = ""
    whole: bool = False
    quick: tuple[tuple[str, str], ...] = ()


def constant(value: str | int) -> Value:
    """The same value for every event."""
    return Value(f"={value}", (), lambda _facts, _head, _time_us: value, value)


ONE: Final = constant(1)


class Place(NamedTuple):
    """Where a part lies; with the order inside the part this makes the order key between parts."""

    topic: str
    partition: int


class Field(ABC):
    """One field of a view. Not promised: that two kinds join with each other."""

    kind: ClassVar[str]

    @abstractmethod
    def start(self) -> Any:  # noqa: ANN401  # a slot is JSON
        """The slot of a part that no event has changed."""

    @abstractmethod
    def step(self, event_type: str) -> tuple[Value, Change] | None:
        """What an event of this type does: the value it needs, and the change."""

    @abstractmethod
    def lift(self, slot: Any, place: Place) -> Any:  # noqa: ANN401  # as above
        """The slot as a joinable value."""

    @abstractmethod
    def join(self, left: Any, right: Any) -> Any:  # noqa: ANN401  # as above
        """Two joinable values as one; commutative and associative."""

    def show(self, joined: Any) -> Any:  # noqa: ANN401  # as above
        """The joined value in the canonical state."""
        return joined

    def settle(self, slots: Sequence[Any], places: Sequence[Place]) -> Any:  # noqa: ANN401  # as above
        """The value in the canonical state that the slots of parts in these places amount to; at least one.

        A kind may know a shorter way than through joins; the answer is the same.
        """
        return self.show(reduce(self.join, map(self.lift, slots, places)))

    def alone(self, slot: Any, place: Place) -> Any:  # noqa: ANN401  # as above
        """What ``settle`` gives for one part, which is all that most owners have; nothing of the slot itself is in it."""
        return self.show(self.lift(slot, place))

    @abstractmethod
    def describe(self) -> list[Any]:
        """The declaration as plain values; what the reducer id is made of."""


@dataclass(frozen=True)
class Count(Field):
    """How many events of these types."""

    types: tuple[str, ...]
    kind: ClassVar[str] = "count"

    def start(self) -> int:
        return 0

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        return (ONE, COUNT) if event_type in self.types else None

    def lift(self, slot: int, place: Place) -> int:  # noqa: ARG002  # sums have no order
        return slot

    def join(self, left: int, right: int) -> int:
        return left + right

    def settle(self, slots: Sequence[int], places: Sequence[Place]) -> int:  # noqa: ARG002  # sums have no order
        return sum(slots)

    def alone(self, slot: int, place: Place) -> int:  # noqa: ARG002  # as above
        return slot

    def describe(self) -> list[Any]:
        return [self.kind, sorted(self.types)]


@dataclass(frozen=True)
class Sum(Field):
    """The exact integer sum of a value over events of these types; None counts as 0."""

    types: tuple[str, ...]
    value: Value
    kind: ClassVar[str] = "sum"

    def start(self) -> int:
        return 0

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        return (self.value, SUM) if event_type in self.types else None

    def lift(self, slot: int, place: Place) -> int:  # noqa: ARG002  # sums have no order
        return slot

    def join(self, left: int, right: int) -> int:
        return left + right

    def settle(self, slots: Sequence[int], places: Sequence[Place]) -> int:  # noqa: ARG002  # sums have no order
        return sum(slots)

    def alone(self, slot: int, place: Place) -> int:  # noqa: ARG002  # as above
        return slot

    def describe(self) -> list[Any]:
        return [self.kind, sorted(self.types), self.value.name]


@dataclass(frozen=True)
class Min(Field):
    """The smallest value seen; None before the first."""

    types: tuple[str, ...]
    value: Value
    kind: ClassVar[str] = "min"
    choose: ClassVar[Callable[[int, int], int]] = min

    def start(self) -> None:
        return None

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        return (self.value, self.update) if event_type in self.types else None

    def update(self, slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401, ARG002  # Update
        slots[index] = self.join(slots[index], value)

    def lift(self, slot: int | None, place: Place) -> int | None:  # noqa: ARG002  # extremes have no order
        return slot

    def join(self, left: int | None, right: int | None) -> int | None:
        if left is None or right is None:
            return right if left is None else left
        return type(self).choose(left, right)

    def alone(self, slot: int | None, place: Place) -> int | None:  # noqa: ARG002  # as above
        return slot

    def describe(self) -> list[Any]:
        return [self.kind, sorted(self.types), self.value.name]


@dataclass(frozen=True)
class Max(Min):
    """The largest value seen; None before the first."""

    kind: ClassVar[str] = "max"
    choose: ClassVar[Callable[[int, int], int]] = max


@dataclass(frozen=True, init=False)
class Last(Field):
    """The newest value by order key; an event without the value (None) leaves it as it was.

    Given as a map from event type to a Value, or to a constant. A kind made of this one that joins or shows in another way
    needs a ``settle`` and an ``alone`` of its own.
    """

    values: Mapping[str, Value]
    kind: ClassVar[str] = "last"
    choose: ClassVar[Callable[..., Any]] = max

    def __init__(self, values: Mapping[str, Value | str]) -> None:
        made = {name: value if isinstance(value, Value) else constant(value) for name, value in values.items()}
        object.__setattr__(self, "values", made)

    def start(self) -> None:
        return None

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        value = self.values.get(event_type)
        return (value, LAST) if value is not None else None

    def lift(self, slot: Any, place: Place) -> Any:  # noqa: ANN401  # Field
        return None if slot is None else ((slot[0], *place, slot[1]), slot[2])

    def join(self, left: Any, right: Any) -> Any:  # noqa: ANN401  # Field
        if left is None or right is None:
            return right if left is None else left
        return type(self).choose(left, right, key=itemgetter(0))

    def show(self, joined: Any) -> Any:  # noqa: ANN401  # Field
        return None if joined is None else joined[1]

    def settle(self, slots: Sequence[Any], places: Sequence[Place]) -> Any:  # noqa: ANN401  # Field
        filled = [slot for slot in slots if slot is not None]
        if len(filled) < 2:  # noqa: PLR2004  # most fields of most owners have none or one
            return filled[0][2] if filled else None
        # The values are never compared: no two parts lie in one place.
        found = [(slot[0], place, slot[2]) for slot, place in zip(slots, places, strict=True) if slot is not None]
        return type(self).choose(found)[2]

    def alone(self, slot: Any, place: Place) -> Any:  # noqa: ANN401, ARG002  # Field
        return None if slot is None else slot[2]

    def describe(self) -> list[Any]:
        return [self.kind, {name: value.name for name, value in self.values.items()}]


@dataclass(frozen=True, init=False)
class First(Last):
    """The oldest value by order key."""

    kind: ClassVar[str] = "first"
    choose: ClassVar[Callable[..., Any]] = min

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        value = self.values.get(event_type)
        return (value, self.update) if value is not None else None

    @staticmethod
    def update(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401  # Update
        if value is not None and slots[index] is None:
            slots[index] = (order_us, offset, value)


@dataclass(frozen=True)
class OpenSet(Field):
    """The ids that were opened and not closed since, sorted.

    The slot is ``[open, closed here, closed elsewhere]``, each id → ``[order_us, offset]``. A start and its end may lie
    in different parts, so ends are remembered: the last 1,024 whose start was not in this part, the last 32 others. What
    is older is forgotten, and a start in another part then shows as open again. Of more than 4,096 open ids in a part the
    oldest are forgotten.
    """

    id: Value
    opens: tuple[str, ...]
    closes: tuple[str, ...]
    kind: ClassVar[str] = "open_set"

    def start(self) -> list[dict[str, tuple[int, int]]]:
        return [{}, {}, {}]

    def step(self, event_type: str) -> tuple[Value, Change] | None:
        if event_type in self.opens:
            return self.id, self.open
        return (self.id, self.close) if event_type in self.closes else None

    @staticmethod
    def open(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401  # Update
        if value is None:
            return
        opened, here, elsewhere = slots[index]
        here.pop(value, None)
        elsewhere.pop(value, None)
        _remember(opened, value, (order_us, offset), MAX_OPEN)

    @staticmethod
    def close(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401  # Update
        if value is None:
            return
        opened, here, elsewhere = slots[index]
        if opened.pop(value, None) is not None or value in here:
            _remember(here, value, (order_us, offset), CLOSED_HERE)
        else:
            _remember(elsewhere, value, (order_us, offset), CLOSED_ELSEWHERE)

    def lift(self, slot: Any, place: Place) -> Any:  # noqa: ANN401  # Field
        marks = ((slot[0], True), (slot[1], False), (slot[2], False))
        return {name: ((key[0], *place, key[1]), is_open) for ids, is_open in marks for name, key in ids.items()}

    def join(self, left: Any, right: Any) -> Any:  # noqa: ANN401  # Field
        joined = dict(left)
        for name, mark in right.items():
            known = joined.get(name)
            if known is None or mark > known:
                joined[name] = mark
        return joined

    def show(self, joined: Any) -> list[str]:  # noqa: ANN401  # Field
        return sorted(name for name, (_, is_open) in joined.items() if is_open)

    def settle(self, slots: Sequence[Any], places: Sequence[Place]) -> list[str]:
        # Of the many ids that were closed only those matter that some part still has open.
        if not any(map(_OPENED, slots)):
            return []
        newest: dict[str, tuple[int, str, int, int]] = {}
        for (opened, _, _), place in zip(slots, places, strict=True):
            for name, (order_us, offset) in opened.items():
                newest[name] = max((order_us, *place, offset), newest.get(name, _BEFORE_ALL))
        closed = {
            name
            for (_, here, elsewhere), place in zip(slots, places, strict=True)
            for ends in (here, elsewhere)
            for name in newest.keys() & ends.keys()
            if (ends[name][0], *place, ends[name][1]) > newest[name]
        }
        return sorted(newest.keys() - closed)

    def alone(self, slot: Any, place: Place) -> list[str]:  # noqa: ANN401, ARG002  # Field
        return sorted(slot[0]) if slot[0] else []

    def describe(self) -> list[Any]:
        bounds = [CLOSED_HERE, CLOSED_ELSEWHERE, MAX_OPEN]
        return [self.kind, self.id.name, sorted(self.opens), sorted(self.closes), bounds]


_BEFORE_ALL: Final = (-1, "", -1, -1)
_OPENED: Final = itemgetter(0)


def _remember(ids: dict[str, tuple[int, int]], name: str, key: tuple[int, int], most: int) -> None:
    """Puts an id last and forgets the oldest beyond ``most``: dicts keep the order of insertion."""
    ids.pop(name, None)
    ids[name] = key
    if len(ids) > most:
        del ids[next(iter(ids))]
