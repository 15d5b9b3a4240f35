"""The rows of a segment in the order that folds want them: by owner, and per owner by offset. For ``replay.columnar``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from tallyroll.events.rows import Columns, IntColumn, TextColumn
from tallyroll.replay.fields import INT_MAX, Value
from tallyroll.replay.values import AGENT_ID, EVENT_TIME

Ints = NDArray[np.int64]
Index = NDArray[np.intp]
_RADIX: Final = 2**16  # numpy sorts integers of 16 bits by counting, longer ones by comparing
_NO_ROWS: Final[Index] = np.empty(0, np.intp)


class Source(NamedTuple):
    """A value, and the types of events (by their place in the view) that give it to a field."""

    value: Value
    types: tuple[int, ...]


class OwnedRows:
    """The rows of a segment that count for a view, sorted by owner and offset; rows are numbered in that order.

    ``owners`` numbers the owner of each row, ``types`` is the place of its type in the view, ``order_us`` the largest event
    time that its part has met so far. Values are gathered when a field asks, for the rows that it asks for.
    """

    def __init__(self, columns: Columns, rows: Index, owners: Index, types: Index, high_us: Ints) -> None:
        self._columns = columns
        self._rows = rows
        self.owners = owners
        self.types = types
        self.times_us: Ints = columns.times_us[rows]
        self.offsets: Ints = columns.offsets[rows]
        self.order_us: Ints = np.maximum(_running_maximum(self.times_us, owners), high_us[owners])
        self._by_type = np.argsort(types.astype(np.uint16), kind="stable")
        self._all = np.arange(len(types))
        self._bounds = np.append(0, np.cumsum(np.bincount(types))).tolist()

    def of(self, types: Sequence[int]) -> Index:
        """The rows of these types."""
        bounds = self._bounds
        spans = [(bounds[number], bounds[number + 1]) for number in types if number + 1 < len(bounds)]
        if sum(stop - start for start, stop in spans) == len(self.types):  # sums are of nearly every type
            return self._all
        return _merged([self._by_type[start:stop] for start, stop in spans])

    def present(self, sources: Sequence[Source]) -> Index:
        """The rows that give a value."""
        return _merged([self._present(source) for source in sources])

    def numbers(self, value: Value, rows: Index) -> Ints:
        """An integer value at rows where it is present."""
        return self.times_us[rows] if value == EVENT_TIME else self._ints(value).values[self._rows[rows]]

    def names(self, value: Value, rows: Index) -> TextColumn:
        """A text value at some rows."""
        codes, words = self._texts(value)
        return TextColumn(codes[self._rows[rows]], words)

    def values(self, sources: Sequence[Source], rows: Index) -> list[Any]:
        """What some rows give, None where that is nothing."""
        if len(sources) == 1:
            return self._values(sources[0].value, rows)
        given: list[Any] = [None] * len(rows)
        types = self.types[rows]
        for source in sources:
            mine = np.flatnonzero(np.isin(types, source.types))
            for at, value in zip(mine.tolist(), self._values(source.value, rows[mine]), strict=True):
                given[at] = value
        return given

    def marks(self, sources: Sequence[Source], rows: Index) -> Iterator[tuple[int, int, Any]]:
        """What some rows give, as slots of Last and First keep it."""
        return zip(self.order_us[rows].tolist(), self.offsets[rows].tolist(), self.values(sources, rows), strict=True)

    def _present(self, source: Source) -> Index:
        rows, value = self.of(source.types), source.value
        if value.constant is not None or value == EVENT_TIME:
            return rows
        at = self._rows if rows is self._all else self._rows[rows]
        return rows[self._ints(value).valid[at] if value.whole else self._texts(value).codes[at] >= 0]

    def _values(self, value: Value, rows: Index) -> list[Any]:
        if value.constant is not None:
            return [value.constant] * len(rows)
        if is_whole(value):
            numbers: list[Any] = self.numbers(value, rows).tolist()
            if value == EVENT_TIME:
                return numbers
            valid = self._ints(value).valid[self._rows[rows]].tolist()
            return [number if there else None for number, there in zip(numbers, valid, strict=True)]
        codes, words = self.names(value, rows)
        return [words[code] if code >= 0 else None for code in codes.tolist()]

    def _ints(self, value: Value) -> IntColumn:
        return cast("IntColumn", self._columns.values[value.column])

    def _texts(self, value: Value) -> TextColumn:
        return self._columns.agents if value == AGENT_ID else cast("TextColumn", self._columns.values[value.column])


def is_whole(value: Value) -> bool:
    """Whether a value is kept as integers."""
    return value.whole or value == EVENT_TIME


def is_text(value: Value) -> bool:
    """Whether a value is kept as text."""
    return value.constant is None and not is_whole(value)


class Runs(NamedTuple):
    """Where the runs of equal numbers in a sorted array begin and end, both inclusive, and the numbers."""

    firsts: Index
    lasts: Index
    numbers: list[int]


def runs_of(numbers: NDArray[np.integer[Any]]) -> Runs:
    """The runs of a sorted array."""
    edges = np.flatnonzero(numbers[1:] != numbers[:-1])
    firsts, lasts = np.append(0, edges + 1)[: len(numbers)], np.append(edges, len(numbers) - 1)[: len(numbers)]
    return Runs(firsts, lasts, numbers[firsts].tolist())


def _merged(pieces: Sequence[Index]) -> Index:
    """Sorted arrays as one; the stable sort of numpy merges what is sorted in pieces."""
    return pieces[0] if len(pieces) == 1 else np.sort(np.concatenate([_NO_ROWS, *pieces]), kind="stable")


def by_owner(rows: Index, codes: NDArray[np.int32], offsets: Ints) -> Index:
    """Rows by the code of their owner, which is not negative, and by offset; quickly, if that is how they lie."""
    owners, places = codes[rows], offsets[rows]
    if _rises(owners, places):
        return rows
    if not (places[1:] > places[:-1]).all():
        order = np.argsort(places, kind="stable")
        rows, owners = rows[order], owners[order]
    return rows[_stable_order(owners)]


def _rises(owners: NDArray[np.int32], places: Ints) -> bool:
    return bool(((owners[1:] > owners[:-1]) | ((owners[1:] == owners[:-1]) & (places[1:] > places[:-1]))).all())


def _stable_order(codes: NDArray[np.int32]) -> Index:
    """The order that sorts non-negative codes and leaves equal ones as they are."""
    order = np.argsort((codes % _RADIX).astype(np.uint16), kind="stable")
    if int(codes.max()) < _RADIX:
        return order
    return order[np.argsort((codes // _RADIX).astype(np.uint16)[order], kind="stable")]


def _running_maximum(times_us: Ints, owners: Index) -> Ints:
    """Per owner the largest time so far; the owners are sorted."""
    if ((times_us[1:] >= times_us[:-1]) | (owners[1:] != owners[:-1])).all():
        return times_us
    low, span = int(times_us.min()), int(times_us.max()) - int(times_us.min()) + 1
    if span * (int(owners[-1]) + 1) <= INT_MAX:
        floor = owners * span  # lifts each owner above the one before, so that one running maximum serves all
        return np.maximum.accumulate(times_us - low + floor) - floor + low
    levels, ranks = np.unique(times_us, return_inverse=True)
    floor = owners * len(levels)
    return levels[np.maximum.accumulate(ranks + floor) - floor]
