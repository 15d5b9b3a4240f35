"""Isolation forests, of scikit-learn: how quickly random cuts part the last five values from all others."""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np
from sklearn.ensemble import IsolationForest as Forest

from tallyroll.ports import Score

_LAGS: Final = 5
_TREES: Final = 25
_MEMORY: Final = 3_000
_EVERY: Final = 250  # values between two forests
_SEED: Final = 42  # the same values, the same scores
_SMOOTH: Final = 0.3


class IsolationForest:
    """A ``Detector``. A new forest every 250 values, of the last 3,000. ``expected``: the smoothed series.

    A score takes some 2 ms, most of it checks that scikit-learn makes of each row.
    """

    threshold: Final = 0.79

    def __init__(self) -> None:
        self._values: deque[float] = deque(maxlen=_MEMORY)
        self._forest: Forest | None = None
        self._learned = 0
        self._smoothed = 0.0

    def score(self, value: float) -> Score:
        """See ``Detector``."""
        if self._learned and self._learned % _EVERY == 0:
            shapes = np.lib.stride_tricks.sliding_window_view(np.asarray(self._values), _LAGS)
            self._forest = Forest(n_estimators=_TREES, random_state=_SEED).fit(shapes)
        expected = self._smoothed if self._learned else value
        self._values.append(value)
        self._learned += 1
        self._smoothed = expected + _SMOOTH * (value - expected)
        if self._forest is None:
            return Score(0.0, expected)
        shape = np.asarray([[self._values[at] for at in range(-_LAGS, 0)]])
        return Score(-float(self._forest.score_samples(shape)[0]), expected)
