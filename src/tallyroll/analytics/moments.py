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
_LINE: Final = _WIDTH + 1
_DIGITS: Final = np.array([0, 1, 2, 3, 5, 6, 8, 9, 11, 12, 14, 15, 17, 18, 20, 21, 22, 23, 24, 25])
_MARKS: Final = np.array([4, 7, 10, 13, 16, 19, 26, 27])
_MARKS_ARE: Final = np.frombuffer(b"--T::.Z\n", np.uint8)
_NO_DAY: Final = -(10**9)
_EPOCH_DAY: Final = date(1970, 1, 1).toordinal()


def moments(times: Sequence[str]) -> NDArray[np.int64]:
    """``(n,) int64``: microseconds since 1970 of each text, NEVER for one that names no moment with a zone."""
    if not times:
        return np.empty(0, np.int64)
    lines = _lines(times)
    # Where each line is a time, as long as all of them should be, each text is one line: there are no more line ends than texts.
    if len(lines) == _LINE * len(times) and lines.isascii():
        result, odd = _usual(lines, len(times))
        if not odd.any():
            return result
    result = np.empty(len(times), np.int64)
    others: Sequence[int] = range(len(times))
    usual = [index for index in others if len(times[index]) == _WIDTH and times[index].isascii()]
    if usual:
        found, odd = _usual(_lines([times[index] for index in usual]), len(usual))
        result[usual] = found
        others = sorted({*others} - {*np.array(usual)[~odd].tolist()})
    for index in others:
        result[index] = _one(times[index])
    return result


def _lines(times: Sequence[str]) -> str:
    return "\n".join(times) + "\n"


def _usual(lines: str, count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Times of the usual layout, a line each, and which of them have to go the long way."""
    rows = np.ascontiguousarray(np.frombuffer(lines.encode(), np.uint8).reshape(count, _LINE).T)  # a row per place in the text
    digits = rows[_DIGITS] - 48  # what lies below 48 wraps around to far above 9
    odd = (digits > 9).any(axis=0) | (rows[_MARKS] != _MARKS_ARE[:, np.newaxis]).any(axis=0)  # noqa: PLR2004  # a digit
    # All numbers have two digits, or are made of some that have.
    century, year, month, day, hour, minute, second, *fraction = (digits[0::2] * 10 + digits[1::2]).astype(np.int64)
    days = _days_of(((century * 100 + year) * 100 + month) * 100 + day)
    odd |= (days == _NO_DAY) | (hour > 23) | (minute > 59) | (second > 59)  # noqa: PLR2004  # a clock
    micros = (fraction[0] * 100 + fraction[1]) * 100 + fraction[2]
    return (((days * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + micros, odd


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
