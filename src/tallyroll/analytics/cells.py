"""Values that wait to be put into panes, and how they get there: cells grouped once per dimension, all its metrics in turn. Pure.

A cell is a partition, a key and a pane. Values wait as columns until somebody wants to see or store their panes; what one
value costs is a few array operations, and what a cell costs is paid once per store, not once per batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.lane import HeldRow
from tallyroll.analytics.measuring import INVALID, MIRROR, NEGATIVE, OVER, ZERO, Numbers
from tallyroll.analytics.pane import Pane
from tallyroll.analytics.spec import MetricSpec, Success

_INDEX: Final = np.dtype("<i2")
_COUNT: Final = np.dtype("<u4")
_DENSE: Final = 8  # a table of marks may have so many entries per row before sorting is cheaper
_STEP_CELLS: Final = 1_000  # some milliseconds
_MAX_INTEGER: Final = 2**63 - 1
_SHIFT: Final = 1 << 14  # bins are negative below 1

Get = Callable[[int, int, int], HeldRow | None]
"""The row of a cell, by lane, key and pane number, to be changed; None if it is not at hand: the values go on waiting."""


class Part(NamedTuple):
    """Values of one metric in one batch of cells: ``at`` are rows of the batch."""

    at: NDArray[np.int32]
    values: Numbers
    places: NDArray[np.int32]

    def only(self, keep: NDArray[np.bool_]) -> Part:
        """Some of them."""
        return Part(self.at[keep], self.values[keep], self.places[keep])


class Waiting(NamedTuple):
    """Rows of one dimension: ``(n,)`` lane, key and pane number of each, whether it is late, and the values by number of metric."""

    lane: NDArray[np.int32]
    key: NDArray[np.int32]
    pane: NDArray[np.int64]
    late: NDArray[np.bool_]
    parts: dict[int, Part]

    def only(self, keep: NDArray[np.bool_]) -> Waiting:
        """Some of the rows."""
        place, parts = np.cumsum(keep) - 1, {}
        for number, part in self.parts.items():
            own = keep[part.at]
            parts[number] = part._replace(at=place[part.at].astype(np.int32)).only(own)
        return Waiting(self.lane[keep], self.key[keep], self.pane[keep], self.late[keep], parts)


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
    offsets = np.cumsum([0, *(len(one.lane) for one in waiting)], dtype=np.int32)
    parts: dict[int, list[tuple[np.int32, Part]]] = {}
    for offset, one in zip(offsets, waiting, strict=False):
        for number, part in one.parts.items():
            parts.setdefault(number, []).append((offset, part))
    return Waiting(
        np.concatenate([one.lane for one in waiting]),
        np.concatenate([one.key for one in waiting]),
        np.concatenate([one.pane for one in waiting]),
        np.concatenate([one.late for one in waiting]),
        {number: _joined(some) for number, some in parts.items()},
    )


def _joined(some: Sequence[tuple[np.int32, Part]]) -> Part:
    """Parts as one, given how many rows lie before the batch of each."""
    at = np.concatenate([part.at for _, part in some])
    at += np.repeat(np.array([offset for offset, _ in some], np.int32), [len(part.at) for _, part in some])
    return Part(at, np.concatenate([part.values for _, part in some]), np.concatenate([part.places for _, part in some]))


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


def settle(waiting: Waiting, metrics: Sequence[MetricSpec], get: Get, left: list[Waiting]) -> Iterator[None]:
    """Puts the values into their panes, a step at a time; adds those whose panes are not at hand to ``left``."""
    cells = group(waiting)
    found = list(map(get, cells.lane.tolist(), cells.key.tolist(), cells.pane.tolist()))
    if None in found:
        there = np.array([row is not None for row in found])
        here = there[cells.of]
        left.append(waiting.only(~here))
        waiting, cells = waiting.only(here), cells._replace(of=(np.cumsum(there) - 1)[cells.of[here]])
    rows = [row for row in found if row is not None]
    if waiting.late.any():
        for cell in np.unique(cells.of[waiting.late]).tolist():
            rows[cell].revise()
    panes = [row.panes for row in rows]
    for number, part in waiting.parts.items():
        for of, some in _pieces(cells.of[part.at], part, len(panes)):
            yield
            _put(metrics[number], of, some, panes)


def _pieces(of: NDArray[np.intp], part: Part, cells: int) -> Iterator[tuple[NDArray[np.intp], Part]]:
    """Values in as many pieces as keep a step short, those of one cell together: a cell costs some µs, a value little."""
    if cells <= _STEP_CELLS:
        if len(of):
            yield of, part
        return
    for first in range(0, cells, _STEP_CELLS):
        own = (of >= first) & (of < first + _STEP_CELLS)
        if own.any():
            yield of[own], part.only(own)


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
    sum: Numbers
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
    total: Numbers
    if spec.exact:
        total = np.zeros(count, np.int64)
        np.add.at(total, of, values)
    else:
        total = np.bincount(of, weights=values, minlength=count)
    low, high = np.full(count, np.inf), np.full(count, -np.inf)
    floats = values.astype(np.float64, copy=False)
    np.minimum.at(low, of, floats)
    np.maximum.at(high, of, floats)
    m2: NDArray[np.float64] = np.zeros(count)
    if not (low == high).all():  # else one value, or all alike, as counts are
        away = floats - (total / np.maximum(n, 1))[of]
        m2 = np.bincount(of, weights=away * away, minlength=count).astype(np.float64, copy=False)
    ok = np.bincount(of, weights=floats, minlength=count).astype(np.int64) if isinstance(spec.value, Success) else np.zeros(count, np.int64)
    bins = (np.empty(0, np.int64), np.empty(0, np.int64))
    if spec.has_bins:
        inside = places < ZERO
        if not inside.all():
            of, places = of[inside], places[inside]
        bins = np.unique(of * ZERO + (places + _SHIFT), return_counts=True)
    return _Sums(n, total, m2, low, high, ok, special, bins)


def _merged(olds: Sequence[Pane | None], new: _Sums, spec: MetricSpec) -> list[Pane]:
    """The panes with what was added to them. Deviations by Chan's rule; whole sums stay whole, also beyond 64 bits of a run."""
    n, total, m2, low, high, ok = new.n, new.sum, new.m2, new.min, new.max, new.ok
    special = [np.asarray(one) for one in new.special]
    codes, counts = new.bins
    held = [(cell, old) for cell, old in enumerate(olds) if old is not None]
    sums: list[int | float] = total.tolist()
    if held:
        at = np.array([cell for cell, _ in held])
        before = np.zeros(len(olds), np.int64)
        before[at] = [old.n for _, old in held]
        average, away = np.zeros(len(olds)), np.zeros(len(olds))
        average[at] = [old.sum / old.n if old.n else 0.0 for _, old in held]
        away[at] = [old.m2 for _, old in held]
        both = before * n / np.maximum(before + n, 1)
        m2 = m2 + away + both * (average - total / np.maximum(n, 1)) ** 2
        n = n + before
        low[at] = np.minimum(low[at], [old.min if old.n else np.inf for _, old in held])
        high[at] = np.maximum(high[at], [old.max if old.n else -np.inf for _, old in held])
        ok = ok.copy()
        ok[at] += np.array([old.ok for _, old in held])
        olds_special = np.array([(old.zero, old.over, old.neg, old.nan) for _, old in held])
        if olds_special.any() or any(one.any() for one in special):
            special = [one.copy() for one in special]
            for place, one in enumerate(special):
                one[at] += olds_special[:, place]
        for cell, old in held:
            sums[cell] += old.sum
        if spec.has_bins:
            codes, counts = _with_old_bins(codes, counts, held)
    if spec.exact:
        sums = [one if -_MAX_INTEGER <= one <= _MAX_INTEGER else float(one) for one in sums]
    none = n == 0
    if none.any():
        low[none] = high[none] = 0.0
    columns = [n.tolist(), sums, m2.tolist(), low.tolist(), high.tolist(), ok.tolist(), *(one.tolist() for one in special)]
    bins_of = _histograms(codes, counts, len(olds)) if spec.has_bins else ()
    return list(map(Pane, *columns, *bins_of))


def _with_old_bins(
    codes: NDArray[np.int64], counts: NDArray[np.int64], held: Sequence[tuple[int, Pane]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """A histogram over cells, and what the panes had before."""
    all_codes, all_counts = [codes], [counts]
    for mirror in (0, MIRROR):
        pairs = [(old.mirror_index, old.mirror_count) if mirror else (old.index, old.count) for _, old in held]
        index = np.frombuffer(b"".join([one[0] for one in pairs]), _INDEX).astype(np.int64)
        if len(index):
            cells = np.repeat([cell for cell, _ in held], [len(one[0]) // _INDEX.itemsize for one in pairs])
            all_codes.append(cells * ZERO + (index + (_SHIFT + mirror)))
            all_counts.append(np.frombuffer(b"".join([one[1] for one in pairs]), _COUNT).astype(np.int64))
    if len(all_codes) == 1:
        return codes, counts
    distinct, of = np.unique(np.concatenate(all_codes), return_inverse=True)
    return distinct, np.bincount(of, weights=np.concatenate(all_counts)).astype(np.int64)


def _histograms(codes: NDArray[np.int64], counts: NDArray[np.int64], cells: int) -> Sequence[list[bytes]]:
    """The histogram of each cell in the form that a pane holds, a column per member: one conversion for all, then slices."""
    cell, place = np.divmod(codes, ZERO)
    mirrored = place >= MIRROR
    if not mirrored.any():
        return _slices(cell, place - _SHIFT, counts, cells)
    up = _slices(cell[~mirrored], place[~mirrored] - _SHIFT, counts[~mirrored], cells)
    return *up, *_slices(cell[mirrored], place[mirrored] - _SHIFT - MIRROR, counts[mirrored], cells)


def _slices(cell: NDArray[np.int64], index: NDArray[np.int64], count: NDArray[np.int64], cells: int) -> Sequence[list[bytes]]:
    ends = np.searchsorted(cell, np.arange(cells), side="right").tolist()
    indexes, counts = index.astype(_INDEX).tobytes(), count.astype(_COUNT).tobytes()
    bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    return [indexes[2 * a : 2 * b] for a, b in bounds], [counts[4 * a : 4 * b] for a, b in bounds]
