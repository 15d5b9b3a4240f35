"""A series of values in memory, with bounded memory: new points as they are, old ones as one-minute panes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import groupby
from math import isfinite
from typing import Final

from tallyroll.analytics.pane import Pane, merge, pane_of
from tallyroll.analytics.spec import MINUTE_S, AggregationFunction
from tallyroll.analytics.windows import TimeWindow, moment_of, window_named
from tallyroll.events.moments import moment_at, us_of

_US: Final = timedelta(microseconds=1)
_MINUTE_US: Final = MINUTE_S * 1_000_000
_ENDLESS: Final = float("inf")


class TimeSeries:
    """Points of time and value, in order of time whatever the order they come in.

    Past ``compression_threshold`` points the older half becomes one-minute panes; points and panes together are at most
    ``max_points``, the oldest go first. Moments are aware datetimes, values finite numbers, else ValueError.
    Not promised: that old points come back one by one; that it survives the process; use from several threads.
    """

    def __init__(self, max_points: int = 100_000, compression_threshold: int = 50_000) -> None:
        if not 0 < compression_threshold <= max_points:
            raise ValueError("compression_threshold is from 1 to max_points")
        self._max_points = max_points
        self._threshold = compression_threshold
        self._points: list[tuple[int, float]] = []  # µs since 1970, and value
        self._panes: dict[int, Pane] = {}  # by µs since 1970, ascending
        self._compressed_us = -1  # everything before lies in panes

    def __len__(self) -> int:
        return len(self._points) + sum(pane.n for pane in self._panes.values())

    async def add_point(self, timestamp: datetime, value: float) -> None:
        """Takes one point."""
        at = _micros(timestamp)
        if not isfinite(value):
            raise ValueError("a point is a finite number")
        if at < self._compressed_us:
            self._into_panes([(at, value)])
            self._panes = dict(sorted(self._panes.items()))
        else:
            insort(self._points, (at, value))
        if len(self._points) > self._threshold:
            self._compress()
        while len(self._points) + len(self._panes) > self._max_points:
            del self._panes[next(iter(self._panes))]

    async def get_range(self, start_time: datetime, end_time: datetime) -> list[tuple[datetime, float]]:
        """Points from start to end, both included, in order of time; of a pane its start and its mean."""
        start, end = _micros(start_time), _micros(end_time)
        old = [(at, pane.sum / pane.n) for at, pane in self._panes.items() if start <= at <= end]
        new = self._points[bisect_left(self._points, (start, -_ENDLESS)) : bisect_right(self._points, (end, _ENDLESS))]
        return [(moment_at(at), value) for at, value in (*old, *new)]

    async def aggregate(
        self, window: TimeWindow | str, func: AggregationFunction, end_time: datetime | None = None
    ) -> list[tuple[datetime, float]]:
        """Start and value of every window that shares time with the last ``duration`` before ``end_time`` and holds a point.

        Points at or after ``end_time`` are left out; without it the newest point is the last one taken. Windows are aligned
        to the epoch, and the first is whole. Functions are those of panes: quantiles within 1 %, STDDEV of the population.
        """
        window = window_named(window) if isinstance(window, str) else window
        end = self._end() if end_time is None else _micros(end_time)
        if end is None:
            return []
        last = -(-end // 1_000_000)
        result = []
        for stretch in window.between(last - window.duration_s, last):
            pane = merge(list(self._between(stretch.start * 1_000_000, min(end, stretch.end * 1_000_000))))
            value = pane.read(func)
            if pane.n and value is not None:
                result.append((moment_of(stretch.start), float(value)))
        return result

    def _end(self) -> int | None:
        if self._points:
            return self._points[-1][0] + 1
        return max(self._panes) + _MINUTE_US if self._panes else None

    def _between(self, start: int, end: int) -> Iterator[Pane]:
        yield from (pane for at, pane in self._panes.items() if start <= at < end)
        new = self._points[bisect_left(self._points, (start, -_ENDLESS)) : bisect_left(self._points, (end, -_ENDLESS))]
        if new:
            yield _pane(new)

    def _compress(self) -> None:
        middle = self._points[len(self._points) // 2][0]
        cut = middle // _MINUTE_US * _MINUTE_US
        if cut <= self._points[0][0]:
            cut += _MINUTE_US  # all in one minute: the whole of it
        place = bisect_left(self._points, (cut, -_ENDLESS))
        self._into_panes(self._points[:place])
        del self._points[:place]
        self._compressed_us = cut

    def _into_panes(self, points: list[tuple[int, float]]) -> None:
        for start, some in groupby(points, lambda point: point[0] // _MINUTE_US * _MINUTE_US):
            held = self._panes.get(start)
            self._panes[start] = merge([*([held] if held is not None else []), _pane(list(some))])


def _pane(points: list[tuple[int, float]]) -> Pane:
    import numpy as np  # noqa: PLC0415  # the extra; a series can be filled and looked at without

    return pane_of(np.array([value for _, value in points], np.float64), signed=True)


def _micros(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise ValueError("a moment needs a time zone: datetime(..., tzinfo=UTC)")
    return us_of(moment)
