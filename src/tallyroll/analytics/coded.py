"""What is read of many records, all of it numbers: the one form that panes are made from, whoever has read the records. Pure.

A text is the number of a name; names are listed once. Numbers are kept of those records only that have one: of most members
few records have any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NO_NAME: Final = -1

Sparse = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Which rows have a number, ascending, and the number: NaN for what is none, 1 or 0 of a truth."""


@dataclass(frozen=True, slots=True)
class Coded:
    """Some records in the order of the log, ``n`` of them.

    ``texts``: ``(slots, n) int32``, places in ``names``, which has no text twice, or NO_NAME. ``numbers``: one for each slot.
    ``times_us``: ``(n,) int64`` event time; NEVER where it cannot be read.
    """

    ids: Sequence[str]
    times_us: NDArray[np.int64]
    names: Sequence[str]
    texts: NDArray[np.int32]
    numbers: Sequence[Sparse]

    def __len__(self) -> int:
        return len(self.times_us)

    def only(self, keep: NDArray[np.bool_]) -> Coded:
        """Without the other records."""
        place, numbers = np.cumsum(keep, dtype=np.int32) - np.int32(1), []
        for rows, values in self.numbers:
            own = keep[rows]
            numbers.append((place[rows[own]], values[own]))
        ids = list(compress(self.ids, keep.tolist()))
        return Coded(ids, self.times_us[keep], self.names, self.texts[:, keep], numbers)


def translated(codes: NDArray[np.int32], names: Sequence[str], of: Callable[[str], int], none: int) -> NDArray[np.int32]:
    """Each text as a number of somebody's, who is asked once for each name that occurs; ``none`` where there is no text."""
    table = np.full(len(names) + 1, none, np.int32)  # the last is for NO_NAME
    occurs = np.zeros(len(table), np.bool_)
    occurs[codes] = True
    used = np.flatnonzero(occurs[:-1])
    table[used] = [of(names[code]) for code in used.tolist()]
    return table[codes]


def joined(parts: Sequence[Coded], slots: tuple[int, int]) -> Coded:
    """Several as one, in their order; ``slots``: how many texts and numbers there are where there is no part."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        nothing = np.empty(0, np.int32), np.empty(0)
        return Coded([], np.empty(0, np.int64), [], np.empty((slots[0], 0), np.int32), [nothing] * slots[1])
    names, texts = _with_names_of_one(parts)
    starts = np.cumsum([0, *map(len, parts)], dtype=np.int32)
    numbers = []
    for own in zip(*(part.numbers for part in parts), strict=True):
        rows = [rows + start for (rows, _), start in zip(own, starts, strict=False)]
        numbers.append((np.concatenate(rows), np.concatenate([values for _, values in own])))
    ids = list(chain.from_iterable(part.ids for part in parts))
    return Coded(ids, np.concatenate([part.times_us for part in parts]), names, np.concatenate(texts, axis=1), numbers)


def _with_names_of_one(parts: Sequence[Coded]) -> tuple[Sequence[str], list[NDArray[np.int32]]]:
    """The texts of all with the same names."""
    lists = {id(part.names): part.names for part in parts}
    if len(lists) == 1:  # what the reader lists in one run
        return parts[0].names, [part.texts for part in parts]
    names = Names()
    tables = {which: np.array([*(names[name] for name in own), NO_NAME], np.int32) for which, own in lists.items()}
    return names.listed, [tables[id(part.names)][part.texts] for part in parts]


class Names(dict[str | None, int]):
    """Numbers for names, given when first asked for; ``listed`` are the names in their order."""

    def __init__(self) -> None:
        super().__init__({None: NO_NAME})
        self.listed: list[str] = []

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self.listed)
        self.listed.append(name)
        return number

    def codes(self, texts: Sequence[str | None]) -> NDArray[np.int32] | int:
        """The number of each text, or that of all, NO_NAME, where there is none."""
        if texts.count(None) == len(texts):
            return NO_NAME
        return np.fromiter(map(self.__getitem__, texts), np.int32, len(texts))


def sparse(column: Sequence[Any]) -> Sparse:
    """The numbers of a column of numbers, texts and None; texts are none, and beyond floats there are none."""
    missing = column.count(None)
    if missing == len(column):
        return np.empty(0, np.int32), np.empty(0)
    numbers = _floats(column)
    there = ~np.isnan(numbers)
    if int(there.sum()) + missing < len(column):  # some are something, and no number
        there = np.array([one is not None for one in column])
    rows = np.flatnonzero(there).astype(np.int32)
    return rows, numbers if len(rows) == len(column) else numbers[rows]


def _floats(column: Sequence[Any]) -> NDArray[np.float64]:
    if str in set(map(type, column)):  # the array would read them
        column = [np.nan if type(one) is str else one for one in column]
    try:
        return np.array(column, np.float64)  # NaN for None
    except OverflowError:
        return np.array([_float(one) for one in column], np.float64)


def _float(value: float | None) -> float:
    try:
        return np.nan if value is None else float(value)
    except OverflowError:
        return np.nan
