"""Detectors over one value per pane: each scores a value first, against what came before it, and learns it after.

The ensemble is the mean of three voices between 0 and 1: how far the value left the smoothed series, how strange the shape
of the last five values is, and how rare the value is. The first two are ``z / (z + 4)`` with ``z`` not capped, since
capped scores tie.

Source of the distances on lags: Burnaev, Ishimtsev, "Conformalized density- and distance-based anomaly detection in
time-series data" (2016), without its conformal half.
"""

from __future__ import annotations

import math
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.anomalies.history import LARGEST, LEAST, History, deviations, usual
from tallyroll.analytics.spec import Bad
from tallyroll.ports import Score

SHIPPED_THRESHOLD: Final = 0.78
"""From which score on a value is an alarm; chosen on the series named in ``bench/nab.py`` and on no others."""

_VOICES: Final = 3
_HALF: Final = 4.0  # deviations at which a voice says one half
_SMOOTH: Final = 0.3
_LAGS: Final = 5
_NEAREST: Final = 5
_SAMPLE: Final = 16  # of so many distances one is looked at to find a bound for the nearest
_LATELY: Final = 60  # values: an hour of minutes
_CLOSE: Final = 1 / 8  # deviations within which a value is as good as the same


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


class Ensemble:
    """The three voices of one series: a ``Detector``.

    Memory: three histories of 3,000 values, each twice, 72 KB. Deterministic: the scores depend on the values alone.
    """

    threshold: Final = SHIPPED_THRESHOLD

    def __init__(self, state: EnsembleState | None = None) -> None:
        kept = state or EnsembleState()
        self._smoothed = kept.smoothed
        self._near = kept.near
        self._values, self._residuals, self._distances = (History.of(one) for one in (kept.values, kept.residuals, kept.distances))

    def state(self) -> EnsembleState:
        """Everything it has learned; an ensemble made of it goes on as this one would."""
        return EnsembleState(self._smoothed, self._near, self._values.dump(), self._residuals.dump(), self._distances.dump())

    def score(self, value: float) -> Score:
        """See ``Detector``."""
        value = min(max(value, -LARGEST), LARGEST)
        expected = value if self._smoothed is None else self._smoothed
        voices = self._difference(value, expected) + self._shape(value) + self._rarity(value)
        lately = self._lately()
        self._values.push(value)
        self._smoothed = expected + _SMOOTH * (value - expected)
        return Score(voices / _VOICES, expected, lately)

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
            gap *= gap
            total += gap
        self._near = (self._near[1], self._near[2], math.sqrt(_nearest(total)))
        mean = sum(self._near) / len(self._near)
        z = deviations(self._distances.values[: max(0, len(self._distances) - 8)], mean)
        self._distances.push(mean)
        return said(z)

    def _lately(self) -> float | None:
        last = self._values.values[-_LATELY:]
        middle = len(last) // 2
        return float(np.partition(last, middle)[middle]) if len(last) else None

    def _rarity(self, value: float) -> float:
        """1 where no value was ever close, 0 where all were the same: a past value counts less the farther it is away."""
        past = self._values.values
        if len(past) < LEAST:
            return 0.0
        close = np.float32(_CLOSE * usual(past).spread)
        gap = past - np.float32(value)
        np.abs(gap, out=gap)
        np.maximum(gap, close, out=gap)
        np.divide(close, gap, out=gap)
        return 1.0 - float(np.add.reduce(gap)) / len(gap)


def _nearest(distances: NDArray[np.float32]) -> float:
    """The fifth smallest. That of a sample bounds it, so that few have to be put in order."""
    sample = distances[::_SAMPLE]
    if len(sample) >= _NEAREST:
        distances = distances[distances <= np.partition(sample, _NEAREST - 1)[_NEAREST - 1]]
    return float(np.partition(distances, _NEAREST - 1)[_NEAREST - 1])


def one_sided(scored: Score, value: float, bad: Bad) -> Score:
    """The score, but 0 for a value that is not on the bad side of what was expected.

    It must be at least half as far from the middle of the last values, or the way back from a short time that was better
    would be an alarm.
    """
    if bad == "both":
        return scored
    sign = {"up": 1, "down": -1, "none": 0}[bad]
    away = sign * (value - scored.expected)
    from_lately = away if scored.lately is None else sign * (value - scored.lately)
    return scored if away > 0 and from_lately >= away / 2 else scored._replace(score=0.0)
