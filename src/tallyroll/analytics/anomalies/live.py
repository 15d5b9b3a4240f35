"""Alarms while values arrive: single values, or several in one pane, far from what is usual for their series.

Baselines are frozen between two closes of panes, so that no value is measured against itself. A run is looked at as
columns; only what is far away is looked at one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.anomalies.baseline import FAR, NEAR, NEAR_VALUES, Usual
from tallyroll.analytics.anomalies.series import SeriesName
from tallyroll.analytics.pane import value_of
from tallyroll.analytics.run import KernelRun, Observed
from tallyroll.analytics.signal import MOST_EVIDENCE, Evidence, Signal, amount, severity_of
from tallyroll.events.names import OTHER_NAME
from tallyroll.ports import DocumentWrite

LIVE: Final = "live"
OLDEST_S: Final = 86_400
"""Panes that began longer ago are history, an import for instance: nobody is woken up for them."""
QUIET_S: Final = 300
_MOST_SERIES: Final = 10_000  # whose open panes are remembered; each is a small list


class _Seen(NamedTuple):
    """What was far away in one pane of one series."""

    start: int
    far: list[Evidence]


class LiveDetector:
    """An ``Observer`` that holds values against baselines, and hands what it finds to ``offer``.

    ``usual`` gives the baseline of a series, or None while it is warming up. ``open_since`` says since when an incident of a
    series is told, so that a restart goes on with it. Keeps nothing that must be stored.
    """

    def __init__(
        self,
        usual: Callable[[SeriesName], Usual | None],
        open_since: Callable[[SeriesName], tuple[int, int] | None],
        offer: Callable[[Sequence[Signal]], None],
        now_s: Callable[[], int],
    ) -> None:
        self._usual = usual
        self._open_since = open_since
        self._offer = offer
        self._now_s = now_s
        self._near: dict[SeriesName, _Seen] = {}

    def observed(self, run: KernelRun) -> None:
        found: list[Signal] = []
        oldest = self._now_s() - OLDEST_S
        for seen in run.observed:
            if seen.spec.bad != "none" and seen.spec.has_bins:
                found += self._far(run, seen, oldest)
        if found:
            self._offer(found)

    @property
    def goes_ahead(self) -> bool:
        return False

    @property
    def is_urgent(self) -> bool:
        return False  # who was offered something is

    def take_documents(self) -> Sequence[DocumentWrite]:
        return ()

    def stored(self) -> None:
        """Nothing of it is stored."""

    def give_back(self) -> None:
        """As above."""

    def forget(self) -> None:
        self._near.clear()

    def _far(self, run: KernelRun, seen: Observed, oldest: int) -> list[Signal]:
        middle, spread = self._baselines(seen)
        distance = (seen.bins - middle[seen.key_of]) / spread[seen.key_of]
        if seen.spec.bad == "down":
            distance = -distance
        elif seen.spec.bad == "both":
            distance = np.abs(distance)
        rows = np.flatnonzero((distance >= NEAR) & (seen.starts >= oldest))  # NaN, of a series without baseline, is not
        together: dict[tuple[int, int], list[int]] = {}
        for row in rows.tolist():
            together.setdefault((int(seen.key_of[row]), int(seen.starts[row])), []).append(row)
        signals = [self._judge(run, seen, some, distance, float(middle[key])) for (key, _), some in together.items()]
        return [signal for signal in signals if signal is not None]

    def _baselines(self, seen: Observed) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        middle = np.full(len(seen.keys), np.nan)
        spread = np.ones(len(seen.keys))
        for place, key in enumerate(seen.keys):
            usual = None if key == OTHER_NAME else self._usual(SeriesName(seen.spec.name, seen.dimension, key))
            if usual is not None:
                middle[place], spread[place] = usual
        return middle, spread

    def _judge(self, run: KernelRun, seen: Observed, rows: list[int], distances: NDArray[np.float64], middle: float) -> Signal | None:
        """The farthest of some values of one pane, with the newest as evidence."""
        row = max(rows, key=lambda one: distances[one])
        distance, start = float(distances[row]), int(seen.starts[row])
        name = SeriesName(seen.spec.name, seen.dimension, seen.keys[int(seen.key_of[row])])
        known = self._near.get(name)
        if known is None or known.start != start:
            if len(self._near) >= _MOST_SERIES:
                self._near.clear()
            known = self._near[name] = _Seen(start, [])
        newest = [*[one for one in rows[-MOST_EVIDENCE:] if one != row], row]
        known.far.extend(Evidence(*run.evidence(int(seen.rows[one]))) for one in newest)
        del known.far[:-MOST_EVIDENCE]
        threshold = FAR if distance >= FAR else NEAR
        if threshold == NEAR and len(known.far) < NEAR_VALUES:
            return None
        severity = severity_of(distance, threshold)
        if severity is None:  # never: it is at least its threshold
            return None
        opened = self._open_since(name)
        since = start if opened is None or start - opened[1] > QUIET_S else opened[0]
        value, usual = float(seen.values[row]), value_of(round(middle)) / seen.spec.scale
        whom = "the fleet" if not name.key else f"{name.dimension} {name.key}"
        return Signal(
            state="firing", metric=name.metric, dimension=name.dimension, key=name.key, detector=LIVE, severity=severity,
            since=since, at=start + seen.spec.pane_s, value=value, baseline=usual, threshold=threshold, deviation=distance,
            unit=seen.spec.unit, window_s=seen.spec.pane_s, evidence=tuple(known.far[::-1]),
            summary=f"{name.metric} of {whom} is {amount(value)} {seen.spec.unit}, where {amount(usual)} is usual",
        )  # fmt: skip


def quiet_again(alerts: Mapping[SeriesName, Signal], closed: int) -> list[Signal]:
    """The ends of live incidents that nothing was added to for five minutes before ``closed`` (seconds since 1970)."""
    from msgspec.structs import replace  # noqa: PLC0415  # only here

    return [
        replace(signal, state="resolved", at=closed, evidence=(), summary=f"over: {signal.summary}")
        for signal in alerts.values()
        if signal.detector == LIVE and signal.at + QUIET_S <= closed
    ]
