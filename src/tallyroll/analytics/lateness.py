"""What becomes of a value that comes behind newer ones: decided for each by the newest event of its own partition. Pure.

A pane is closed soon after its end, and judged. A value that comes for it later still counts, however late it is, as long as the
pane is kept: into the pane itself, or into the quarter hour in which it has been gathered up. ``lateness_s`` of a metric only
says until when live rules and detectors look at such values, for what comes later is the past and no news.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.windows import QUARTER_S, Kept

Bools = NDArray[np.bool_]


class Timing(NamedTuple):
    """What decides when a pane closes and until when late values are looked at; of a spec."""

    pane_s: int
    disorder_us: int
    lateness_us: int


class Judged(NamedTuple):
    """Which values came after their pane was closed, and which of these so late that they are the past; None for none. ``(n,) bool``."""

    late: Bools | None
    past: Bools | None


class Fate(NamedTuple):
    """Which values belong into quarter hours, since their panes are gone, and which into nothing at all; None for none. ``(n,) bool``."""

    gathered: Bools | None
    gone: Bools | None


IN_TIME = Judged(None, None)
KEPT = Fate(None, None)


def judge(timing: Timing, times_us: NDArray[np.int64], watermarks_us: NDArray[np.int64]) -> Judged:
    """Which of some values are late; ``watermarks_us`` is the largest event time of the partition at each of them."""
    pane_us = timing.pane_s * 1_000_000
    behind = watermarks_us - timing.disorder_us - (times_us // pane_us + 1) * pane_us  # at 0 the pane is closed
    late = behind >= 0
    if not late.any():
        return IN_TIME
    past = behind >= timing.lateness_us
    return Judged(late, past if past.any() else None)


def fate(pane_s: int, kept: Kept, times_us: NDArray[np.int64], watermarks_us: NDArray[np.int64]) -> Fate:
    """What becomes of the values of some panes. The same for every batching, and whether or not anything was tidied away yet."""
    unit_us = (QUARTER_S if kept.gathered else pane_s) * 1_000_000
    behind_us = watermarks_us - (times_us // unit_us + 1) * unit_us
    old: Bools = behind_us >= kept.own_s * 1_000_000
    if not old.any():
        return KEPT
    if not kept.gathered:
        return Fate(None, old)
    gone: Bools = behind_us >= kept.quarters_s * 1_000_000
    return Fate(old & ~gone, gone if gone.any() else None)
