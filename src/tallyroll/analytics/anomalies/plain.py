"""Two detectors that everybody knows, to measure better ones by."""

from __future__ import annotations

import math
from typing import Final

from tallyroll.analytics.anomalies.detectors import said
from tallyroll.analytics.anomalies.history import LEAST, History, deviations
from tallyroll.ports import Score

_WEIGHT: Final = 0.05  # of the newest value: a memory of about forty
_SPREAD_LEAST: Final = 1e-9


class MovingAverage:
    """A ``Detector``: deviations from an exponentially weighted mean, in either direction, by a spread that is weighted alike."""

    threshold: Final = 0.8

    def __init__(self) -> None:
        self._count = 0
        self._mean = self._variance = 0.0

    def score(self, value: float) -> Score:
        """See ``Detector``."""
        if not self._count:
            self._mean = value
        expected, away = self._mean, value - self._mean
        z = abs(away) / max(math.sqrt(self._variance), _SPREAD_LEAST * max(1.0, abs(expected))) if self._count >= LEAST else 0.0
        weight = max(_WEIGHT, 1 / (self._count + 1))
        self._mean += weight * away
        self._variance = (1 - weight) * (self._variance + weight * away * away)
        self._count += 1
        return Score(said(z), expected)


class WindowedGaussian:
    """A ``Detector``: deviations from the mean of the last 3,000 values, in either direction."""

    threshold: Final = 0.69

    def __init__(self) -> None:
        self._values = History()

    def score(self, value: float) -> Score:
        """See ``Detector``."""
        past = self._values.values
        z = deviations(past, value)
        expected = float(past.mean()) if len(past) else value
        self._values.push(value)
        return Score(said(abs(z)), expected)
