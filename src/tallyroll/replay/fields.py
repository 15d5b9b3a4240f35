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
    kept: ClassVar[Any] = Any
    """As what type a slot is read back that was kept as JSON; a kind may leave unread what is seldom asked for."""

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
