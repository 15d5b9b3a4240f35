"""Event times of many records at once: text to microseconds since 1970. Pure.

The layout that tallyroll writes, ``2026-01-31T12:00:00.000000Z``, is read as a matrix of digits; every other text, and every
one of that layout that is no moment, goes the long way, one by one, so that no zone and no leap day is got wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from tallyroll.errors import Undecodable
from tallyroll.events.codec import micros_of

NEVER: Final = int(np.iinfo(np.int64).min)
"""Stands for a time that cannot be read: before every other."""

_WIDTH: Final = 27
_DIGITS: Final = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 22, 23, 24, 25])
_MARKS: Final = np.array([4, 7, 10, 13, 16, 19, 26])
_MARKS_ARE: Final = np.frombuffer(b"--T::.Z", np.uint8)
_NO_DAY: Final = -(10**9)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def _weights() -> NDArray[np.float64]:
    """Digits to (yyyymmdd, hour, minute, second, microsecond)."""
    weights = np.zeros((len(_DIGITS), 5))
    for column, (first, last) in enumerate([(0, 8), (8, 10), (10, 12), (12, 14), (14, 20)]):
        for place in range(first, last):
            weights[place, column] = 10.0 ** (last - 1 - place)
    return weights


_WEIGHTS: Final = _weights()


def moments(times: Sequence[str]) -> NDArray[np.int64]:
    """``(n,) int64``: microseconds since 1970 of each text, NEVER for one that names no moment with a zone."""
    if not times:
        return np.empty(0, np.int64)
    if set(map(len, times)) == {_WIDTH} and (joined := "".join(times)).isascii():
        result, odd = _usual(joined, len(times))
        if not odd.any():
            return result
        others: Sequence[int] = np.flatnonzero(odd).tolist()
    else:
        result, others = np.empty(len(times), np.int64), range(len(times))
        usual = [index for index in others if len(times[index]) == _WIDTH and times[index].isascii()]
        if usual:
            found, odd = _usual("".join([times[index] for index in usual]), len(usual))
            result[usual] = found
            others = sorted({*others} - {*np.array(usual)[~odd].tolist()})
    for index in others:
        result[index] = _one(times[index])
    return result


def _usual(joined: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of the usual layout, and which of them have to go the long way."""
    matrix = np.frombuffer(joined.encode(), np.uint8).reshape(count, _WIDTH)
    digits = matrix[:, _DIGITS] - 48  # below 48 wraps around to far above 9
    numbers = (digits.astype(np.float64) @ _WEIGHTS).astype(np.int64)
    days = _days_of(numbers[:, 0])
    hour, minute, second = numbers[:, 1], numbers[:, 2], numbers[:, 3]
    result = ((days * 24 + hour) * 60 + minute) * 60 + second
    result = result * 1_000_000 + numbers[:, 4]
    odd = (digits > 9).any(axis=1) | (matrix[:, _MARKS] != _MARKS_ARE).any(axis=1)  # noqa: PLR2004  # a digit
    odd |= (days == _NO_DAY) | (hour > 23) | (minute > 59) | (second > 59)  # noqa: PLR2004  # a clock
    return result, odd


def _days_of(dates: NDArray[np.int64]) -> NDArray[np.int64]:
    first = int(dates[0])
    if (dates == first).all():
        return np.full(len(dates), _days(first))
    distinct, which = np.unique(dates, return_inverse=True)
    return np.array([_days(int(one)) for one in distinct])[which]


@lru_cache(maxsize=4_096)  # days near each other, over and over
def _days(yyyymmdd: int) -> int:
    try:
        return date(yyyymmdd // 10_000, yyyymmdd // 100 % 100, yyyymmdd % 100).toordinal() - _EPOCH_DAY
    except ValueError:
        return _NO_DAY


def _one(time: str) -> int:
    try:
        return micros_of(time)
    except Undecodable:
        return NEVER
