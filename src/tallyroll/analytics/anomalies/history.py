"""The last values of a series in constant memory, and how far a value lies outside of them. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

LONGEST: Final = 3_000  # two days of minutes: the detectors' memory
LEAST: Final = 30  # a spread of fewer values says nothing
_CLIP: Final = 3.0  # deviations at which the scale is clipped, or one anomaly would hide the next
_FLAT: Final = 1e-6  # the least spread, relative to the level: a constant series has none
_SILENCE: Final = 1e-9


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
        """Appends a value; the oldest one goes when there are too many."""
        if self._end == len(self._buffer):
            kept = self._buffer[self._end - self.capacity + 1 : self._end]
            self._buffer[: len(kept)] = kept
            self._start, self._end = 0, len(kept)
        self._buffer[self._end] = value
        self._end += 1
        self._start = max(self._start, self._end - self.capacity)


def deviations(history: NDArray[np.float32], value: float, least: int = LEAST) -> float:
    """How many deviations the value lies above the mean of the history; 0 while there are fewer than ``least`` values.

    The scale is winsorised: values beyond three deviations count as three.
    """
    if len(history) < least:
        return 0.0
    mean, spread = float(history.mean()), float(history.std())
    if spread > 0:
        clipped = np.clip(history, mean - _CLIP * spread, mean + _CLIP * spread)
        mean, spread = float(clipped.mean()), float(clipped.std())
    return (value - mean) / max(spread, _FLAT * abs(mean), _SILENCE)
