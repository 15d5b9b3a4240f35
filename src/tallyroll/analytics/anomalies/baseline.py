"""What single values of a series usually are: a histogram that slowly forgets, frozen until the next pane closes. Pure.

Distances are counted in bins of two per cent, so a value ten times the usual is as far from it as one of a tenth, and no
logarithm is taken twice.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
import numpy as np
from msgspec.structs import replace

from tallyroll.analytics.pane import Pane, bins_of, merge, pack

WARM_PANES: Final = 10
WARM_VALUES: Final = 50
FAR: Final = 8.0
"""So many spreads from the median, and one value is an alarm."""
NEAR: Final = 5.0
"""So many, and three values of one pane are."""
NEAR_VALUES: Final = 3

_MOST_VALUES: Final = 20_000  # beyond that all counts are halved: what was a day ago weighs little
_LEAST_SPREAD: Final = 5.0  # bins: a spread below 10 % would call small changes anomalies
_LOW, _MIDDLE, _HIGH = 0.16, 0.5, 0.84


class Usual(NamedTuple):
    """The median bin, and half the way between the 16th and 84th hundredths, in bins."""

    middle: int
    spread: float


class Baseline(msgspec.Struct, array_like=True):
    """The values of one series up to the last closed pane."""

    panes: int = 0
    pane: Pane = msgspec.field(default_factory=Pane)

    def learn(self, closed: Pane) -> None:
        """Takes a pane that has closed."""
        if not closed.n:
            return
        self.panes += 1
        self.pane = merge([self.pane, closed])
        if self.pane.n > _MOST_VALUES:
            self.pane = _halved(self.pane)

    def usual(self) -> Usual | None:
        """What values are measured against; None while there are fewer than ten panes or fifty values."""
        index, count = (np.asarray(one, np.int64) for one in bins_of(self.pane))
        total = int(count.sum())
        if self.panes < WARM_PANES or total < WARM_VALUES:
            return None
        upto = np.cumsum(count)
        low, middle, high = (int(index[np.searchsorted(upto, share * total)]) for share in (_LOW, _MIDDLE, _HIGH))
        return Usual(middle, max((high - low) / 2, _LEAST_SPREAD))


def _halved(pane: Pane) -> Pane:
    index, count = (np.asarray(one, np.int64) for one in bins_of(pane))
    count = count // 2
    packed = pack(index[count > 0], count[count > 0])
    return replace(pane, n=int(count.sum()), sum=pane.sum / 2, m2=pane.m2 / 2, zero=0, over=0, index=packed[0], count=packed[1])
