"""What is read of many records, all of it numbers: the one form that panes are made from, whoever has read the records. Pure.

A text is the number of a name; names are listed once. Numbers are kept of those records only that have one: of most members
few records have any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

NO_NAME: Final = -1

Sparse = tuple[NDArray[np.int32], NDArray[np.float64]]
"""Which rows have a number, ascending, and the number: NaN for what is none, 1 or 0 of a truth."""


class Coded(NamedTuple):
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
        ids = [self.ids[row] for row in np.flatnonzero(keep).tolist()]
        return Coded(ids, self.times_us[keep], self.names, self.texts[:, keep], numbers)

    def texts_of(self, slot: int) -> list[str | None]:
        """A column of texts as such, None where there is none: for what happens seldom."""
        return [self.names[code] if code >= 0 else None for code in self.texts[slot].tolist()]


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
    numbers_of: dict[str, int] = {}
    texts, start, numbers = [], 0, list[list[Sparse]]([[] for _ in range(slots[1])])
    for part in parts:
        table = np.array([*(numbers_of.setdefault(name, len(numbers_of)) for name in part.names), NO_NAME], np.int32)
        texts.append(table[part.texts])
        for own, (rows, values) in zip(numbers, part.numbers, strict=True):
            own.append((rows + np.int32(start), values))
        start += len(part)
    return Coded(
        [one for part in parts for one in part.ids],
        np.concatenate([part.times_us for part in parts]),
        list(numbers_of),
        np.concatenate(texts, axis=1),
        [(np.concatenate([rows for rows, _ in own]), np.concatenate([values for _, values in own])) for own in numbers],
    )


class Names(dict[str | None, int]):
    """Numbers for names, given when first asked for."""

    def __init__(self) -> None:
        super().__init__({None: NO_NAME})

    def __missing__(self, name: str | None) -> int:
        self[name] = number = len(self) - 1
        return number

    def codes(self, texts: Sequence[str | None]) -> NDArray[np.int32]:
        """The number of each text."""
        if texts.count(None) == len(texts):
            return np.full(len(texts), NO_NAME, np.int32)
        return np.fromiter(map(self.__getitem__, texts), np.int32, len(texts))

    def listed(self) -> list[str]:
        """The names, in the order of their numbers."""
        return [name for name in self if name is not None]


def sparse(column: Sequence[Any]) -> Sparse:
    """The numbers of a column of numbers, texts and None; texts are none, and beyond floats there are none."""
    count = len(column) - column.count(None)
    rows = np.arange(count, dtype=np.int32) if count == len(column) else np.empty(0, np.int32)
    if count < len(column) and count:
        rows = np.array([row for row, one in enumerate(column) if one is not None], np.int32)
        column = [one for one in column if one is not None]
    if not count:
        return rows, np.empty(0)
    if str in set(map(type, column)):
        column = [np.nan if type(one) is str else one for one in column]
    try:
        return rows, np.array(column, np.float64)
    except OverflowError:
        return rows, np.array([_number(one) for one in column], np.float64)


def _number(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.nan
