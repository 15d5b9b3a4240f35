"""Values that wait to be put into panes, and how they get there: cells grouped once per dimension, all its metrics in turn. Pure.

A cell is a partition, a key and a pane. Values wait as columns until somebody wants to see or store their panes; what one
value costs is a few array operations, and what a cell costs is paid once per store, not once per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.measuring import INVALID, MIRROR, NEGATIVE, OVER, ZERO, Numbers
from tallyroll.analytics.pane import Pane
from tallyroll.analytics.spec import MetricSpec

_INDEX: Final = np.dtype("<i2")
_COUNT: Final = np.dtype("<u4")
_DENSE: Final = 8  # a table of marks may have so many entries per row before sorting is cheaper
_MAX_INTEGER: Final = 2**63 - 1

Get = Callable[[int, int, int], "dict[str, Pane] | None"]
"""The panes of a cell, by lane, key and pane number, to be changed; None if they are not at hand: the values go on waiting."""


class Part(NamedTuple):
    """Values of one metric in one batch of cells: ``at`` are rows of the batch."""

    at: NDArray[np.int32]
    values: Numbers
    places: NDArray[np.int32]


class Waiting(NamedTuple):
    """Rows of one dimension: ``(n,)`` lane, key and pane number of each, and the values per metric, by its number."""

    lane: NDArray[np.int32]
    key: NDArray[np.int32]
    pane: NDArray[np.int64]
    parts: dict[int, Part]


class Cells(NamedTuple):
    """Distinct cells of some rows: lane, key and pane number of each, and which of them each row is in."""

    lane: NDArray[np.int32]
    key: NDArray[np.int32]
    pane: NDArray[np.int64]
    of: NDArray[np.intp]


def join(waiting: Sequence[Waiting]) -> Waiting:
    """Several as one, in their order."""
    if len(waiting) == 1:
        return waiting[0]
    offsets = np.cumsum([0, *(len(one.lane) for one in waiting)])
    parts: dict[int, list[Part]] = {}
    for offset, one in zip(offsets.tolist(), waiting, strict=False):
        for number, part in one.parts.items():
            parts.setdefault(number, []).append(part._replace(at=part.at + np.int32(offset)))
    return Waiting(
        np.concatenate([one.lane for one in waiting]),
        np.concatenate([one.key for one in waiting]),
        np.concatenate([one.pane for one in waiting]),
        {number: Part(*map(np.concatenate, zip(*some, strict=True))) for number, some in parts.items()},
    )


def group(waiting: Waiting) -> Cells:
    """The cells of the rows."""
    lanes, keys, panes = int(waiting.lane.max()) + 1, int(waiting.key.max()) + 1, waiting.pane
    first = int(panes.min())
    span = int(panes.max()) - first + 1
    if lanes * keys * span <= _DENSE * len(panes):
        codes = (waiting.lane.astype(np.int64) * keys + waiting.key) * span + (panes - first)
        marks = np.zeros(lanes * keys * span, np.bool_)
        marks[codes] = True
        distinct = np.flatnonzero(marks)
        number = np.empty(len(marks), np.intp)
        number[distinct] = np.arange(len(distinct))
        of = number[codes]
    else:
        stretches, pane = np.unique(panes, return_inverse=True)  # event times may lie millennia apart
        codes = (waiting.lane.astype(np.int64) * keys + waiting.key) * len(stretches) + pane
        distinct, of = np.unique(codes, return_inverse=True)
        rest, pane = np.divmod(distinct, len(stretches))
        return Cells((rest // keys).astype(np.int32), (rest % keys).astype(np.int32), stretches[pane], of)
    rest, pane = np.divmod(distinct, span)
    return Cells((rest // keys).astype(np.int32), (rest % keys).astype(np.int32), pane + first, of)


def settle(waiting: Waiting, metrics: Sequence[MetricSpec], get: Get) -> Waiting | None:
    """Puts the values into their panes; gives back those whose panes are not at hand."""
    cells = group(waiting)
    rows = list(map(get, cells.lane.tolist(), cells.key.tolist(), cells.pane.tolist()))
    missing = np.array([row is None for row in rows])
    left = None
    if missing.any():
        left = _only(waiting, missing[cells.of])
        waiting, keep = _only(waiting, ~missing[cells.of]), np.cumsum(~missing) - 1
        cells = cells._replace(of=keep[cells.of[~missing[cells.of]]])
    there = [row for row in rows if row is not None]
    for number, part in waiting.parts.items():
        if len(part.at):
            _put(metrics[number], cells.of[part.at], part, there)
    return left


def _only(waiting: Waiting, keep: NDArray[np.bool_]) -> Waiting:
    place = np.cumsum(keep) - 1
    parts = {}
    for number, part in waiting.parts.items():
        own = keep[part.at]
        parts[number] = Part(place[part.at[own]].astype(np.int32), part.values[own], part.places[own])
    return Waiting(waiting.lane[keep], waiting.key[keep], waiting.pane[keep], parts)


def _put(spec: MetricSpec, of: NDArray[np.intp], part: Part, rows: Sequence[dict[str, Pane]]) -> None:
    """Values of one metric into the panes of their cells; ``of`` says which row each is of."""
    name = spec.name
    touched = np.zeros(len(rows), np.bool_)
    touched[of] = True
    cells = np.flatnonzero(touched)
    if len(cells) < len(rows):
        of = (np.cumsum(touched) - 1)[of]
    own = [rows[cell] for cell in cells.tolist()]
    olds = [row.get(name) for row in own]
    new = _sums(spec, of, part, len(own))
    for row, pane in zip(own, _merged(olds, new, spec), strict=True):
        row[name] = pane


class _Sums(NamedTuple):
    """What some values amount to in each cell; the histogram as codes ``cell * 2**18 + place``, ascending, with counts."""

    n: NDArray[np.int64]
    sum: NDArray[np.int64] | NDArray[np.float64]
    m2: NDArray[np.float64]
    min: NDArray[np.float64]
    max: NDArray[np.float64]
    ok: NDArray[np.int64]
    special: Sequence[NDArray[np.int64]]
    bins: tuple[NDArray[np.int64], NDArray[np.int64]]


def _sums(spec: MetricSpec, of: NDArray[np.intp], part: Part, count: int) -> _Sums:
    _, values, places = part
    special = [np.zeros(count, np.int64)] * 4
    if len(places) and int(places.max()) >= ZERO:
        special = [np.bincount(of[places == one], minlength=count) for one in (ZERO, OVER, NEGATIVE, INVALID)]
        counted = places < NEGATIVE
        if not counted.all():
            of, values, places = of[counted], values[counted], places[counted]
    n = np.bincount(of, minlength=count)
    total: NDArray[np.int64] | NDArray[np.float64]
    if spec.exact:
        total = np.zeros(count, np.int64)
        np.add.at(total, of, values)
    else:
        total = np.bincount(of, weights=values, minlength=count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    floats = values.astype(np.float64, copy=False)
    np.minimum.at(low, of, floats)
    np.maximum.at(high, of, floats)
    if (low == high).all():
        m2 = np.zeros(count)  # one value, or all alike, as counts are
    else:
        away = floats - (total / np.maximum(n, 1))[of]
        m2 = np.bincount(of, weights=away * away, minlength=count)
    ok = np.bincount(of[values > 0], minlength=count)
    bins = (np.empty(0, np.int64), np.empty(0, np.int64))
    if spec.has_bins:
        inside = places < ZERO
        if not inside.all():
            of, places = of[inside], places[inside]
        bins = np.unique(of * ZERO + (places + _SHIFT), return_counts=True)
    return _Sums(n, total, m2, low, high, ok, special, bins)
