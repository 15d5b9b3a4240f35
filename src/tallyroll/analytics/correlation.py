"""Which series move together: correlation of closed panes over keys, with the lag at which one runs before the other.

Pure. What is compared are the changes from pane to pane, for two trends correlate with each other whatever they are about.
From ten keys on, what most of them do at the same time is taken off first, or a busy hour would join everything.

Sources: effective sample size after Bartlett (1946) in the form of Pyper and Peterman (1998); significance by Fisher's z;
false discovery rate after Benjamini and Hochberg (1995).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

MAX_LAG: Final = 10
MAX_KEYS: Final = 200
MIN_PANES: Final = 30
MIN_COEFFICIENT: Final = 0.7
MAX_Q: Final = 0.01

_COMMON_FROM: Final = 10  # with two keys the median of the others would make them mirror images
_CLIP: Final = 3.0  # deviations; one outlier at the same pane must not make a correlation of its own
_MAD: Final = 1.4826  # of a normal distribution, the deviation in units of the median absolute one
_FEWEST: Final = 4.0  # Fisher's z needs more than three
_MAX_ABS_R: Final = 1 - 1e-12  # where atanh is still a number

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Correlation(msgspec.Struct, frozen=True):
    """Two keys whose changes go together: ``coefficient`` over ``n`` common changes, ``lag`` panes apart.

    A positive lag: ``a`` leads, ``b`` does ``lag`` panes later what ``a`` did. ``q`` is the false discovery rate of a list
    that ends with this pair. Not promised: that one brings the other about; both may follow from a third.
    """

    a: str
    b: str
    coefficient: float
    lag: int
    n: int
    q: float

    def __str__(self) -> str:
        first, second = (self.a, self.b) if self.lag >= 0 else (self.b, self.a)
        way = "moves with" if self.coefficient > 0 else "moves against"
        when = f", {abs(self.lag)} panes later" if self.lag else ""
        return f"{second} {way} {first}{when} (r {self.coefficient:.2f} over {self.n} panes, q {self.q:.2g})"


class Correlations(msgspec.Struct, frozen=True):
    """What was found, the strongest first. ``keys`` were compared; ``left_out`` were not, for only the busiest are."""

    found: tuple[Correlation, ...]
    keys: int
    left_out: int


class _Best(NamedTuple):
    """Of each pair a < b the lag that is least likely by chance."""

    r: Floats
    lag: Ints
    n: Ints
    z: Floats


def correlate(keys: Sequence[str], values: Floats, counts: Ints | None = None) -> Correlations:
    """The pairs of keys whose changes correlate with at least 0.7 in size, at a false discovery rate of at most 0.01.

    ``values``: ``(keys, panes) float64``, one row per key, in the order of time, NaN where a pane has no value. ``counts``:
    ``(keys,)``, how busy each is; without it, by panes with a value. At most 200 keys are compared, and the answer says so.
    """
    busy = np.isfinite(values).sum(axis=1) if counts is None else counts
    chosen = np.sort(np.argsort(-busy, kind="stable")[:MAX_KEYS])
    left_out = len(keys) - len(chosen)
    if len(chosen) < 2 or values.shape[1] <= MIN_PANES:  # noqa: PLR2004  # a pair
        return Correlations((), len(chosen), left_out)
    known = np.where(np.isfinite(values[chosen]), values[chosen], np.nan)
    changes = _without_common(_of_one_size(_clipped(np.diff(known, axis=1))))
    names = [keys[index] for index in chosen.tolist()]
    return Correlations(_significant(names, _best_lags(changes)), len(chosen), left_out)


def _clipped(changes: Floats) -> Floats:
    """Every row within three deviations of its middle; by the median deviation, else, where most changes are alike, by the plain one."""
    with np.errstate(invalid="ignore"):
        middle = _median(changes)
        spread = _median(np.abs(changes - middle)) * _MAD
        n = np.maximum(np.isfinite(changes).sum(axis=1, keepdims=True), 1)
        off = np.nansum(np.square(changes - middle), axis=1, keepdims=True) / n
        width = _CLIP * np.where(spread > 0, spread, np.sqrt(off))
    return np.clip(changes, middle - width, middle + width)


def _median(rows: Floats) -> Floats:
    """The median of each row without its gaps, as a column; NaN for a row of gaps alone."""
    ordered = np.sort(rows, axis=1)
    n = np.isfinite(rows).sum(axis=1, keepdims=True)
    low = np.take_along_axis(ordered, np.maximum(n - 1, 0) // 2, axis=1)
    return (low + np.take_along_axis(ordered, np.minimum(n // 2, np.maximum(n - 1, 0)), axis=1)) / 2


def _of_one_size(changes: Floats) -> Floats:
    """Every row around 0 and of deviation 1, so that no sum swallows another; a row that does not change stays 0."""
    held = np.isfinite(changes)
    n = np.maximum(held.sum(axis=1, keepdims=True), 1)
    off = changes - np.where(held, changes, 0.0).sum(axis=1, keepdims=True) / n
    size = np.sqrt(np.where(held, off**2, 0.0).sum(axis=1, keepdims=True) / n)
    scaled: Floats = off / np.where(size > 0, size, 1.0)
    return scaled


def _without_common(changes: Floats) -> Floats:
    """Takes off what the middle one of the other keys did, as far as a key goes with it, in panes with at least ten keys.

    Taken off whole, it would be put into every key that does not go with it, and join those.
    """
    if len(changes) < _COMMON_FROM:
        return changes
    ordered = np.sort(changes, axis=0)
    rank = np.argsort(np.argsort(changes, axis=0), axis=0)
    others = np.isfinite(changes).sum(axis=0, keepdims=True) - 1
    low, high = np.maximum(others - 1, 0) // 2, np.maximum(others, 0) // 2
    places = [np.minimum(place + (place >= rank), len(changes) - 1) for place in (low, high)]  # among all, its own left out
    middle = sum(np.take_along_axis(ordered, place, axis=0) for place in places) / 2
    common = np.where((others + 1 >= _COMMON_FROM) & np.isfinite(changes), middle, 0.0)
    share = np.nansum(changes * common, axis=1, keepdims=True) / np.maximum((common**2).sum(axis=1, keepdims=True), 1e-12)
    rest: Floats = changes - share * common
    return rest


def _best_lags(changes: Floats) -> _Best:
    held = np.isfinite(changes)
    filled = np.where(held, _of_one_size(changes), 0.0)
    mask = held.astype(np.float64)
    memory = _autocorrelations(filled, mask)
    pairs = np.triu_indices(len(changes), 1)
    count = len(pairs[0])
    best = _Best(np.zeros(count), np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count))
    for shift in range(MAX_LAG + 1):
        r, common = _at(filled, mask, shift)
        for lag in (shift, -shift) if shift else (0,):
            one, many = (r[pairs], common[pairs]) if lag >= 0 else (r.T[pairs], common.T[pairs])
            z = np.abs(np.arctanh(np.clip(one, -_MAX_ABS_R, _MAX_ABS_R))) * np.sqrt(_effective(many, memory, pairs) - 3)
            better = (many >= MIN_PANES) & (z > best.z)
            for column, new in zip(best, (one, np.full(len(one), lag), many, z), strict=True):
                column[better] = new[better]
    return best


def _at(x: Floats, mask: Floats, shift: int) -> tuple[Floats, Floats]:
    """Pearson's r of row a with row b ``shift`` panes later, over the panes that both have, and how many those are."""
    end = x.shape[1] - shift
    a, b, held_a, held_b = x[:, :end], x[:, shift:], mask[:, :end], mask[:, shift:]
    n = held_a @ held_b.T
    sum_a, sum_b = a @ held_b.T, held_a @ b.T
    some = np.maximum(n, 1)
    var_a = (a**2) @ held_b.T - sum_a**2 / some
    var_b = held_a @ (b**2).T - sum_b**2 / some
    with np.errstate(invalid="ignore", divide="ignore"):
        r = (a @ b.T - sum_a * sum_b / some) / np.sqrt(var_a * var_b)
    return np.where((var_a > 1e-9 * some) & (var_b > 1e-9 * some), r, 0.0), n  # what does not change goes with nothing


def _autocorrelations(x: Floats, mask: Floats) -> Floats:
    """``(keys, MAX_LAG)``: how far each row remembers itself."""
    rows = []
    for shift in range(1, MAX_LAG + 1):
        held = mask[:, :-shift] * mask[:, shift:]
        rows.append((x[:, :-shift] * x[:, shift:]).sum(axis=1) / np.maximum(held.sum(axis=1), 1))
    return np.stack(rows, axis=1)


def _effective(n: Floats, memory: Floats, pairs: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Floats:
    """How many independent observations ``n`` are worth, where both rows remember themselves."""
    shared = memory[pairs[0]] * memory[pairs[1]]
    some = np.maximum(n, 1)
    inflation = 1 + 2 * sum(shared[:, at] * np.maximum(1 - (at + 1) / some, 0) for at in range(MAX_LAG))
    return np.clip(n / np.maximum(inflation, 1), _FEWEST, np.maximum(n, _FEWEST))


def _significant(names: Sequence[str], best: _Best) -> tuple[Correlation, ...]:
    """The rate is over all pairs, and each pair has tried every lag."""
    tried = 2 * MAX_LAG + 1
    p = np.array([min(1.0, math.erfc(z / math.sqrt(2)) * tried) for z in best.z.tolist()])
    order = np.argsort(p, kind="stable")
    rising = p[order] * len(p) / np.arange(1, len(p) + 1)
    q = np.empty(len(p))
    q[order] = np.minimum(np.minimum.accumulate(rising[::-1])[::-1], 1.0)
    a, b = np.triu_indices(len(names), 1)
    kept = np.flatnonzero((np.abs(best.r) >= MIN_COEFFICIENT) & (q <= MAX_Q))
    found = [
        Correlation(
            names[a[at]], names[b[at]], round(float(np.clip(best.r[at], -1, 1)), 6), int(best.lag[at]), int(best.n[at]), float(q[at])
        )
        for at in kept.tolist()
    ]
    return tuple(sorted(found, key=lambda one: (-abs(one.coefficient), one.a, one.b)))
