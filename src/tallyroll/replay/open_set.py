"""The field of what is open: ids that were opened and not closed since, although a start and its end may lie in different parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, ClassVar, Final

import msgspec

from tallyroll.replay.fields import Change, Field, Place, Slots, Value

# Ends whose start lies in another part must outlive the wait for the join; ends of own starts only meet a second start.
CLOSED_ELSEWHERE: Final = 1_024
CLOSED_HERE: Final = 32
MAX_OPEN: Final = 4_096  # an agent with more open tasks per partition has a publisher that never reports the end


@dataclass(frozen=True)
class OpenSet(Field):
    """The ids that were opened and not closed since, sorted.

    The slot is ``[open, closed here, closed elsewhere]``, each id → ``[order_us, offset]``. A start and its end may lie
    in different parts, so ends are remembered: the last 1,024 whose start was not in this part, the last 32 others. What
    is older is forgotten, and a start in another part then shows as open again. Of more than 4,096 open ids in a part the
    oldest are forgotten.
    Of a slot that was kept the closed ids, which are most of it, stay text until a change or a join asks for them.
    """

    id: Value
    opens: tuple[str, ...]
    closes: tuple[str, ...]
    kind: ClassVar[str] = "open_set"
    kept: ClassVar[Any] = tuple[dict[str, Any], msgspec.Raw, msgspec.Raw]

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
        opened, here, elsewhere = OpenSet.read(slots, index)
        here.pop(value, None)
        elsewhere.pop(value, None)
        _remember(opened, value, (order_us, offset), MAX_OPEN)

    @staticmethod
    def close(slots: Slots, index: int, value: Any, order_us: int, offset: int) -> None:  # noqa: ANN401  # Update
        if value is None:
            return
        opened, here, elsewhere = OpenSet.read(slots, index)
        if opened.pop(value, None) is not None or value in here:
            _remember(here, value, (order_us, offset), CLOSED_HERE)
        else:
            _remember(elsewhere, value, (order_us, offset), CLOSED_ELSEWHERE)

    @staticmethod
    def read(slots: Slots, index: int) -> Any:  # noqa: ANN401  # a slot
        """The slot with all its ids; they are read now where they are still text."""
        slot = slots[index]
        if slot.__class__ is tuple:
            slot = slots[index] = [*map(_ids, slot)]
        return slot

    def lift(self, slot: Any, place: Place) -> Any:  # noqa: ANN401  # Field
        opened, here, elsewhere = map(_ids, slot)
        marks = ((opened, True), (here, False), (elsewhere, False))
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
            for name, (order_us, offset) in _marks(newest, ends).items()
            if (order_us, *place, offset) > newest[name]
        }
        return sorted(newest.keys() - closed)

    def alone(self, slot: Any, place: Place) -> list[str]:  # noqa: ANN401, ARG002  # Field
        return sorted(slot[0]) if slot[0] else []

    def describe(self) -> list[Any]:
        bounds = [CLOSED_HERE, CLOSED_ELSEWHERE, MAX_OPEN]
        return [self.kind, self.id.name, sorted(self.opens), sorted(self.closes), bounds]


_decode_ids: Final = msgspec.json.Decoder(dict[str, Any]).decode


def _ids(kept: Any) -> dict[str, Any]:  # noqa: ANN401  # as in a slot
    return _decode_ids(kept) if isinstance(kept, msgspec.Raw) else kept


def _marks(names: Mapping[str, Any], kept: Any) -> dict[str, Any]:  # noqa: ANN401  # as in a slot
    """Those of the ids that are among the names. Of text no more is read than that takes."""
    if not isinstance(kept, msgspec.Raw):
        return {name: kept[name] for name in names.keys() & kept.keys()}
    text = bytes(kept)
    if len(names) <= _FEW and not any(_encode_name(name) in text for name in names):
        return {}
    unread = _decode_unread(text)
    return {name: _decode_mark(unread[name]) for name in names.keys() & unread.keys()}


_FEW: Final = 3  # names that are found faster by searching for them than by reading all
_encode_name: Final = msgspec.json.Encoder().encode
_decode_unread: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_mark: Final = msgspec.json.Decoder(tuple[int, int]).decode
_BEFORE_ALL: Final = (-1, "", -1, -1)
_OPENED: Final = itemgetter(0)


def _remember(ids: dict[str, tuple[int, int]], name: str, key: tuple[int, int], most: int) -> None:
    """Puts an id last and forgets the oldest beyond ``most``: dicts keep the order of insertion."""
    ids.pop(name, None)
    ids[name] = key
    if len(ids) > most:
        del ids[next(iter(ids))]
