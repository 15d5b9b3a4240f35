"""Panes: what is kept of the values of one metric, one key and one stretch of time, and how they merge.

A pane holds count, sum, squared deviations, extremes and a histogram whose bins grow by 2 %; merging is exact for counts and
bins in any order, and for whole sums. Everything that is shown is read from a merge of panes.

Reading a pane needs no NumPy, making and merging some does.

Source of ``m2``: Chan, Golub, LeVeque, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances" (1979).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from math import exp, floor
from typing import TYPE_CHECKING, Final

import msgspec

from tallyroll.analytics.spec import QUANTILES, AggregationFunction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LN_GAMMA: Final = 0.0200006667  # the same text in every engine
_MIDDLE: Final = 2.0 / (exp(LN_GAMMA) + 1.0)
_INDEX_BYTES: Final = 2
_LARGEST: Final = 1e100
_LARGEST_COUNT: Final = 2**32 - 1


def bin_of(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """The bin of each value above 0: ``ceil(ln(v) / LN_GAMMA)``."""
    import numpy as np  # noqa: PLC0415  # the extra; who only reads panes does without

    return np.ceil(np.log(values) / LN_GAMMA).astype(np.int64)


def value_of(index: int) -> float:
    """The value that stands for a bin, within 1 % of all values in it."""
    return exp(index * LN_GAMMA) * _MIDDLE


class Pane(msgspec.Struct, array_like=True, gc=False):
    """Values of one metric and key in one stretch of time.

    ``n`` values, ``ok`` of them true (successes); ``zero`` lay between 0 and the domain, ``over`` above it; both are in ``n``.
    ``neg`` and ``nan`` counted bad values that are in nothing else. ``index`` (ascending) and ``count`` are the histogram as
    bytes of little-endian int16 and uint32; mirrored bins of negative values are in ``mirror_index``, ``mirror_count``.
    ``min`` and ``max`` are meaningless where ``n`` is 0.
    """

    n: int = 0
    sum: int | float = 0
    m2: float = 0.0
    min: float = 0.0
    max: float = 0.0
    ok: int = 0
    zero: int = 0
    over: int = 0
    neg: int = 0
    nan: int = 0
    index: bytes = b""
    count: bytes = b""
    mirror_index: bytes = b""
    mirror_count: bytes = b""

    def read(self, function: AggregationFunction) -> float | int | None:
        """What the function says of the values; None without values, but 0 for COUNT and SUM."""
        if function in (AggregationFunction.COUNT, AggregationFunction.SUM):
            return self.n if function is AggregationFunction.COUNT else self.sum
        if not self.n:
            return None
        if function in QUANTILES:
            return self.quantile(QUANTILES[function])
        return _READ[function](self)

    def quantile(self, q: float) -> float | None:
        """The value at rank ``floor(q (n - 1))``, within 1 %, between the extremes; None without values or histogram.

        Below and above the domain there are no bins: of what lies above ``max`` is given, of what lies nearer to 0 than the
        domain, 0.
        """
        down, down_counts = _unpacked(self.mirror_index, self.mirror_count)
        up, up_counts = _unpacked(self.index, self.count)
        if not self.n or sum(down_counts) + self.zero + sum(up_counts) + self.over != self.n:
            return None
        rank = floor(q * (self.n - 1))
        values = [*((-1, index) for index in reversed(down)), (0, 0), *((1, index) for index in up)]
        for (sign, index), below in zip(values, accumulate([*reversed(down_counts), self.zero, *up_counts]), strict=True):
            if rank < below:
                return min(max(sign * value_of(index), self.min), self.max) if sign else min(max(0.0, self.min), self.max)
        return self.max


EMPTY: Final = Pane()

_READ: Final[Mapping[AggregationFunction, Callable[[Pane], float | int]]] = {
    AggregationFunction.AVG: lambda pane: pane.sum / pane.n,
    AggregationFunction.MIN: lambda pane: pane.min,
    AggregationFunction.MAX: lambda pane: pane.max,
    AggregationFunction.STDDEV: lambda pane: float((max(0.0, pane.m2) / pane.n) ** 0.5),
}


def pack(index: NDArray[np.int64], count: NDArray[np.int64]) -> tuple[bytes, bytes]:
    """A sparse histogram, ascending by bin, in the form that ``Pane`` holds.

    Counts are 4 bytes wide, or 8 where one is too large for 4: the length tells.
    """
    wide = len(count) and int(count.max()) > _LARGEST_COUNT
    return index.astype("<i2").tobytes(), count.astype("<u8" if wide else "<u4").tobytes()


def bins_of(pane: Pane) -> tuple[Sequence[int], Sequence[int]]:
    """The histogram of the values above 0: bins, ascending, and how many values each has."""
    return _unpacked(pane.index, pane.count)


def _unpacked(index: bytes, count: bytes) -> tuple[Sequence[int], Sequence[int]]:
    bins = len(index) // _INDEX_BYTES
    return struct.unpack(f"<{bins}h", index), struct.unpack(f"<{bins}{'Q' if len(count) == 8 * bins else 'I'}", count)


def pane_of(values: NDArray[np.float64], *, domain: tuple[float, float] = (1e-3, 1e10), signed: bool = False, bins: bool = True) -> Pane:
    """The pane of some values, by the rules that every engine keeps to: the reference of whoever is quicker.

    Values that are no finite numbers, or beyond 1e100, whose squares could not be summed, are ``nan``.
    """
    import numpy as np  # noqa: PLC0415  # as above

    valid = values[np.abs(values) <= _LARGEST]
    held = valid if signed else valid[valid >= 0]
    neg, nan = len(valid) - len(held), len(values) - len(valid)
    if not len(held):
        return Pane(neg=neg, nan=nan)
    size = np.abs(held)
    over = held > domain[1]
    inside = (size >= domain[0]) & ~over if bins else np.zeros(len(held), np.bool_)
    index = bin_of(np.minimum(size[inside], domain[1]))
    mirrored = held[inside] < 0
    (up, ups), (down, downs) = np.unique(index[~mirrored], return_counts=True), np.unique(index[mirrored], return_counts=True)
    total = float(held.sum())
    return Pane(
        len(held), total, float(np.square(held - total / len(held)).sum()), float(held.min()), float(held.max()),
        int((held > 0).sum()), int((size < domain[0]).sum()), int(over.sum()), neg, nan, *pack(up, ups), *pack(down, downs),
    )  # fmt: skip


def merge(panes: Sequence[Pane]) -> Pane:
    """One pane of several. Sums of floats depend on the order in their last bits: give panes in a fixed order."""
    full = [pane for pane in panes if pane.n]
    if len(full) <= 1 and not any(pane.neg or pane.nan for pane in panes):
        return full[0] if full else EMPTY
    n, total = sum(pane.n for pane in full), sum(pane.sum for pane in full)
    mean = total / n if n else 0.0
    m2 = sum(pane.m2 + pane.n * (pane.sum / pane.n - mean) ** 2 for pane in full)
    index, count = _add([(pane.index, pane.count) for pane in full])
    mirror_index, mirror_count = _add([(pane.mirror_index, pane.mirror_count) for pane in full])
    return Pane(
        n, total, m2,
        min((pane.min for pane in full), default=0.0), max((pane.max for pane in full), default=0.0),
        sum(pane.ok for pane in full), sum(pane.zero for pane in full), sum(pane.over for pane in full),
        sum(pane.neg for pane in panes), sum(pane.nan for pane in panes),
        index, count, mirror_index, mirror_count,
    )  # fmt: skip


def _add(bins: Sequence[tuple[bytes, bytes]]) -> tuple[bytes, bytes]:
    held = [one for one in bins if one[0]]
    if len(held) <= 1:
        return held[0] if held else (b"", b"")
    import numpy as np  # noqa: PLC0415  # as above

    narrow = [one for one in held if len(one[1]) == 2 * len(one[0])]
    wide = [one for one in held if len(one[1]) != 2 * len(one[0])]
    index = np.frombuffer(b"".join(one[0] for one in (*narrow, *wide)), "<i2").astype(np.int64)
    count = np.concatenate(
        [np.frombuffer(b"".join(one[1] for one in some), width) for some, width in ((narrow, "<u4"), (wide, "<u8")) if some]
    ).astype(np.float64)  # exact to 2**53
    low = int(index.min())
    summed = np.bincount(index - low, weights=count)
    place = np.flatnonzero(summed)
    return pack(place + low, summed[place].astype(np.int64))


_dump: Final = msgspec.msgpack.Encoder().encode
_load: Final = msgspec.msgpack.Decoder(dict[str, Pane]).decode


def dump_row(row: Mapping[str, Pane]) -> bytes:
    """All metrics of one key and stretch of time as bytes."""
    return _dump(row)


def load_row(blob: bytes) -> dict[str, Pane]:
    """What ``dump_row`` has written."""
    return _load(blob)


def join_rows(blobs: Iterable[bytes]) -> bytes:
    """Rows as bytes, merged; what a window store rolls up with."""
    return dump_row(merge_rows(map(load_row, blobs)))


def merge_rows(rows: Iterable[Mapping[str, Pane]]) -> dict[str, Pane]:
    """Rows of several partitions or stretches as one; in the order given."""
    gathered: dict[str, list[Pane]] = {}
    for row in rows:
        for name, pane in row.items():
            gathered.setdefault(name, []).append(pane)
    return {name: merge(panes) for name, panes in gathered.items()}
