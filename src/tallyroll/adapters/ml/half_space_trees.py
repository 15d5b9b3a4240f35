"""Half-space trees, of river: how few of the last values lay near this one."""

from __future__ import annotations

from typing import Final

from river.anomaly import HalfSpaceTrees as Trees

from tallyroll.ports import Score

_TREES: Final = 25
_HEIGHT: Final = 8
_WINDOW: Final = 250  # values that the trees are filled with before they are asked
_SEED: Final = 42  # the same values, the same scores
_SMOOTH: Final = 0.3


class HalfSpaceTrees:
    """A ``Detector``. Values are scaled by the smallest and the largest that were seen. ``expected``: the smoothed series."""

    threshold: Final = 0.995

    def __init__(self) -> None:
        self._trees = Trees(n_trees=_TREES, height=_HEIGHT, window_size=_WINDOW, seed=_SEED)
        self._low = self._high = self._smoothed = 0.0
        self._count = 0

    def score(self, value: float) -> Score:
        """See ``Detector``."""
        if not self._count:
            self._low = self._high = self._smoothed = value
        width = self._high - self._low
        placed = {"value": min(1.0, max(0.0, (value - self._low) / width)) if width > 0 else float(value > self._low)}
        found = self._trees.score_one(placed) if self._count >= _WINDOW else 0.0
        self._trees.learn_one(placed)
        expected = self._smoothed
        self._count += 1
        self._low, self._high = min(self._low, value), max(self._high, value)
        self._smoothed += _SMOOTH * (value - expected)
        return Score(float(found), expected)
