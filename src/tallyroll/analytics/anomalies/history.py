"""The last values of a series in constant memory, and how far a value lies outside of them. Pure."""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

LONGEST: Final = 3_000  # two days of minutes: the detectors' memory
LEAST: Final = 30  # a spread of fewer values says nothing
_CLIP: Final = 3.0  # deviations at which the scale is clipped, or one anomaly would hide the next
_FLAT: Final = 1e-6  # the least spread, relative to the level: a constant series has none
_SILENCE: Final = 1e-9
LARGEST: Final = 1e15
"""Values are cut to this, so that squares of float32 stay finite."""


class History:
    """The newest ``capacity`` values, oldest first, as one stretch of memory."""

    __slots__ = ("_buffer", "_end", "_start", "capacity")

    def __init__(self, capacity: int = LONGEST) -> None:
        self.capacity = capacity
        self._buffer = np.empty(2 * capacity, np.float32)
        self._start = self._end = 0

    @classmethod
    def of(cls, dumped: bytes) -> History:
        """A history with the values that ``dump`` gave."""
        made = cls()
        values = np.frombuffer(dumped, "<f4")[-made.capacity :]
        made._buffer[: len(values)] = values
        made._end = len(values)
        return made

    def dump(self) -> bytes:
        """The values as bytes."""
        return self.values.astype("<f4").tobytes()

    def __len__(self) -> int:
        return self._end - self._start

    @property
    def values(self) -> NDArray[np.float32]:
        """All of them; a view that the next ``push`` changes."""
        return self._buffer[self._start : self._end]

    def push(self, value: float) -> None:
        """Appends a value, cut to ±1e15; the oldest one goes when there are too many."""
        if self._end == len(self._buffer):
            kept = self._buffer[self._end - self.capacity + 1 : self._end]
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        self._buffer[self._end] = min(max(value, -LARGEST), LARGEST)
        self._end += 1
        self._start = max(self._start, self._end - self.capacity)


class Usual(NamedTuple):
    """The mean of some values and their standard deviation, which is never 0."""

    mean: float
    spread: float


def usual(history: NDArray[np.float32]) -> Usual:
    """What the values usually are, winsorised: those beyond three deviations count as three."""
    count = len(history)
    mean = float(np.add.reduce(history)) / count
    away = history - np.float32(mean)
    spread = math.sqrt(float(away @ away) / count)
    if spread > 0:
        bound = np.float32(_CLIP * spread)
        np.clip(away, -bound, bound, out=away)
        shift = float(np.add.reduce(away)) / count
        mean += shift
        spread = math.sqrt(max(float(away @ away) / count - shift * shift, 0.0))
    return Usual(mean, max(spread, _FLAT * abs(mean), _SILENCE))


def deviations(history: NDArray[np.float32], value: float, least: int = LEAST) -> float:
    """How many deviations the value lies above the mean of the history; 0 while there are fewer than ``least`` values."""
    if len(history) < least:
        return 0.0
    mean, spread = usual(history)
    return (value - mean) / spread
