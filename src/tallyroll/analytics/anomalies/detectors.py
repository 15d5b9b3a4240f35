"""Detectors over one value per pane: each scores a value first, against what came before it, and learns it after.

The ensemble is the mean of four voices, each ``z / (z + 4)`` with ``z`` not capped, since capped scores tie: how far the
value left the smoothed series, how strange the shape of the last five values is, and whether the level of the last half
hour went up or down.

Source of the distances on lags: Burnaev, Ishimtsev, "Conformalized density- and distance-based anomaly detection in
time-series data" (2016), without its conformal half.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np

from tallyroll.analytics.anomalies.history import LEAST, History, deviations
from tallyroll.analytics.spec import Bad

SHIPPED_THRESHOLD: Final = 0.45
"""From which score on a value is an alarm; chosen on the series named in ``bench/nab.py`` and on no others."""

_HALF: Final = 4.0  # deviations at which a voice says one half
_SMOOTH: Final = 0.3
_LAGS: Final = 5
_NEAREST: Final = 5
_LEVEL: Final = 30


class Score(NamedTuple):
    """What a detector says of one value: 0 (usual) to 1, and the level that it expected."""

    score: float
    expected: float


class Detector(Protocol):
    """Scores the values of one series, in order.

    Not promised: a score for the first values of a series; they are 0. That two detectors' scores mean the same.
    """

    def score(self, value: float) -> Score:
        """The score of a value against those before it; then the value is learned. NaN and infinities are refused by the caller."""


def said(z: float) -> float:
    """A number of deviations as a voice between 0 and 1."""
    return z / (z + _HALF) if z > 0 else 0.0


def deviations_of(score: float) -> float:
    """The number of deviations at which every voice would say so much: what severities are measured by."""
    return _HALF * score / (1 - score) if score < 1 else float("inf")


class EnsembleState(msgspec.Struct, array_like=True, frozen=True):
    """What an ensemble has learned: the histories as little-endian float32."""

    smoothed: float | None = None
    near: tuple[float, float, float] = (0.0, 0.0, 0.0)
    values: bytes = b""
    residuals: bytes = b""
    distances: bytes = b""
    levels: bytes = b""


class Ensemble:
    """The four voices of one series. ``bad``: a value on the good side of what was expected is learned and not told.

    Memory: four histories of 3,000 values, each twice, 96 KB. Deterministic: the scores depend on the values alone.
    """

    def __init__(self, bad: Bad = "both", state: EnsembleState | None = None) -> None:
        self._bad = bad
        kept = state or EnsembleState()
        self._smoothed = kept.smoothed
        self._near = list(kept.near)
        self._values, self._residuals, self._distances, self._levels = (
            History.of(one) for one in (kept.values, kept.residuals, kept.distances, kept.levels)
        )

    def state(self) -> EnsembleState:
        """Everything it has learned; an ensemble made of it goes on as this one would."""
        parts = (one.dump() for one in (self._values, self._residuals, self._distances, self._levels))
        return EnsembleState(self._smoothed, (self._near[0], self._near[1], self._near[2]), *parts)

    def score(self, value: float) -> Score:
        """See ``Detector``."""
        expected = value if self._smoothed is None else self._smoothed
        voices = [self._difference(value, expected), self._shape(value), *self._level(value)]
        self._values.push(value)
        self._smoothed = expected + _SMOOTH * (value - expected)
        up, down = self._bad in ("up", "both"), self._bad in ("down", "both")
        if (value >= expected and not up) or (value < expected and not down):
            voices[0] = voices[1] = 0.0
        voices[2] *= up
        voices[3] *= down
        return Score(sum(voices) / len(voices), expected)

    def _difference(self, value: float, expected: float) -> float:
        residual = abs(value - expected)
        z = deviations(self._residuals.values[: max(0, len(self._residuals) - 6)], residual)
        self._residuals.push(residual)
        return said(z)

    def _shape(self, value: float) -> float:
        past = self._values.values
        count = len(past) - 2 * _LAGS + 2  # windows of five that end before the present one begins
        if count < LEAST:
            return 0.0
        total = np.zeros(count, np.float32)
        recent = [*past[len(past) - _LAGS + 1 :].tolist(), value]
        for lag in range(_LAGS):
            gap = past[lag : lag + count] - np.float32(recent[lag])
            total += gap * gap
        distance = float(np.sqrt(np.partition(total, _NEAREST - 1)[_NEAREST - 1]))
        self._near = [*self._near[1:], distance]
        mean = sum(self._near) / len(self._near)
        z = deviations(self._distances.values[: max(0, len(self._distances) - 8)], mean)
        self._distances.push(mean)
        return said(z)

    def _level(self, value: float) -> tuple[float, float]:
        past = self._values.values
        newest = past[max(0, len(past) - _LEVEL + 1) :]
        level = (float(newest.sum(dtype=np.float64)) + value) / (len(newest) + 1)
        z = deviations(self._levels.values[: max(0, len(self._levels) - 2 * _LEVEL)], level)
        self._levels.push(level)
        return said(z), said(-z)


def scores(detector: Detector, values: Sequence[float]) -> list[float]:
    """The score of each value of a series."""
    return [detector.score(value).score for value in values]
