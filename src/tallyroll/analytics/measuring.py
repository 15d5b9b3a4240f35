"""From the members of many events to the values of each metric, and where each falls in a histogram. Pure, and total: no input raises.

A value is invalid when it is no number, not finite, or too large to be summed; such values are counted, and are in nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal, InvalidOperation
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from tallyroll.analytics.coded import Sparse
from tallyroll.analytics.pairs import kind_of
from tallyroll.analytics.pane import bin_of
from tallyroll.analytics.reading import Kind
from tallyroll.analytics.spec import First, MetricSpec, One, Pair, Path, Success, Total, Value

MAX_FLOAT: Final = 1e100  # squares and sums of such values are still finite
MAX_EXACT: Final = 2**43  # a million such values still have an exact sum in 64 bits; as money, 8.8 million units
FAILURES: Final = frozenset({"failed", "error", "timeout"})

# Where a value falls: its bin, or one of these. Bins lie within ±12,000 for every domain that floats allow.
MIRROR: Final = 1 << 16  # added to the bin of a mirrored value
ZERO: Final = 1 << 18
OVER: Final = ZERO + 1
NEGATIVE: Final = ZERO + 2  # from here on a value is in no sum
INVALID: Final = ZERO + 3

_NO_INTEGER: Final = int(np.iinfo(np.int64).min)

Numbers = NDArray[np.float64] | NDArray[np.int64]


class Events(Protocol):
    """Events of one run as columns. Not promised: any event."""

    def rows_of(self, types: tuple[str, ...]) -> NDArray[np.int32]:
        """The rows of events of these types, ascending; all for ``*``, but those of anomalies."""

    def numbers(self, path: str, kind: Kind, types: tuple[str, ...]) -> Sparse:
        """The numbers (``number``) or truths (``truth``) at a path, of events of some types; texts of exact ones are NaN."""

    def texts(self, path: str, rows: NDArray[np.int32]) -> Sequence[str | None]:
        """The texts at a path in some rows."""

    def among(self, path: str, names: frozenset[str], types: tuple[str, ...]) -> NDArray[np.bool_]:
        """For each of ``rows_of(types)`` whether the text at a path is one of these."""

    def pairs(self, name: str) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """The rows of ends that met their start, and how many µs lay between."""


class Measured(NamedTuple):
    """The values of one metric: ``rows`` ascending, ``values`` float64, or int64 of an exact metric; of bad ones 0.

    ``places``: ``(n,) int32``, where each falls: its bin (0 for all where no histogram is kept), or one of the constants.
    ``invalid``: how many were no numbers.
    """

    rows: NDArray[np.int32]
    values: Numbers
    places: NDArray[np.int32]
    invalid: int = 0

    @property
    def uncounted(self) -> bool:
        """Whether some are in no sum."""
        return bool(len(self.places)) and int(self.places.max()) >= NEGATIVE


def measure(spec: MetricSpec, events: Events) -> Measured:
    """The values of a metric."""
    value = spec.value
    if isinstance(value, One | Success):
        rows = events.rows_of(spec.event_types)
        values = np.ones(len(rows)) if isinstance(value, One) else _successes(value, spec, events)
        return Measured(rows, values.astype(np.int64) if spec.exact else values, np.zeros(len(rows), np.int32))
    if spec.exact and isinstance(value, Path):
        rows, whole = _exact(value, spec, events)
    else:
        rows, numbers = _floats(value, spec, events)
        if not spec.exact:
            return _placed(spec, rows, numbers, ~(np.abs(numbers) <= MAX_FLOAT))
        whole = _rounded(numbers)
    return _placed(spec, rows, whole, whole == _NO_INTEGER)


def _floats(value: Value, spec: MetricSpec, events: Events) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """Rows that have the value, and the value: NaN where it is invalid."""
    if isinstance(value, Path):
        rows, numbers = events.numbers(value.path, "number", spec.event_types)
        return rows, _times(numbers, value.times)
    if isinstance(value, Pair):
        rows, took_us = events.pairs(kind_of(value, spec).name)
        return rows, took_us / 1_000.0
    assert isinstance(value, First | Total)  # noqa: S101  # the others are dealt with in measure()
    found = [_floats(one, spec, events) for one in value.of]
    return _first(found) if isinstance(value, First) else _total(found)


def _total(found: Sequence[tuple[NDArray[np.int32], NDArray[np.float64]]]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """In each row the sum of what there is; invalid where one of it is."""
    held = [one for one in found if len(one[0])]
    if len(held) <= 1:
        return held[0] if held else found[0]
    rows = _any_of([own for own, _ in held])
    result = np.zeros(len(rows))
    for own, numbers in held:
        result[np.searchsorted(rows, own)] += numbers
    return rows, result


def _first(found: Sequence[tuple[NDArray[np.int32], NDArray[np.float64]]]) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """In each row the first valid value; an invalid one only where there is no other."""
    held = [one for one in found if len(one[0])]
    if len(held) <= 1:
        return held[0] if held else found[0]
    rows = _any_of([own for own, _ in held])
    result = np.full(len(rows), np.nan)
    for own, numbers in reversed(held):
        valid = np.abs(numbers) <= MAX_FLOAT
        result[np.searchsorted(rows, own[valid])] = numbers[valid]
    return rows, result


def _any_of(some: Sequence[NDArray[np.int32]]) -> NDArray[np.int32]:
    """The rows that are in any of several, ascending; often all are alike."""
    longest = max(some, key=len)
    if all(one is longest or np.array_equal(one, longest) for one in some):
        return longest
    united: NDArray[np.int32] = np.unique(np.concatenate(some))
    return united


def _times(numbers: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    if factor == 1:
        return numbers
    with np.errstate(over="ignore"):  # what lies beyond floats is invalid
        return numbers * factor


def _exact(value: Path, spec: MetricSpec, events: Events) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Numbers and decimal texts times a factor as whole numbers; ``_NO_INTEGER`` for what is none."""
    rows, numbers = events.numbers(value.path, "number", spec.event_types)
    whole = _rounded(_times(numbers, value.times))  # valid ones are small enough for floats to have them exactly
    odd = np.flatnonzero(np.isnan(numbers))
    if len(odd):
        whole[odd] = [_NO_INTEGER if text is None else _whole(text, value.times) for text in events.texts(value.path, rows[odd])]
    return rows, whole


def _whole(text: str, times: float) -> int:
    try:
        exact = Decimal(text) * Decimal(times)
        if abs(exact) > MAX_EXACT:  # raises for NaN
            return _NO_INTEGER
        return int(exact.to_integral_value(ROUND_HALF_EVEN))
    except (InvalidOperation, ArithmeticError):
        return _NO_INTEGER


def _rounded(numbers: NDArray[np.float64]) -> NDArray[np.int64]:
    """The nearest whole numbers; of two equally near ones the even one."""
    valid = np.abs(numbers) <= MAX_EXACT
    return np.where(valid, np.rint(np.where(valid, numbers, 0)).astype(np.int64), _NO_INTEGER)


def _successes(value: Success, spec: MetricSpec, events: Events) -> NDArray[np.float64]:
    types = spec.event_types
    bad = events.among("type", frozenset(value.failed), types)
    for path in ("payload.status", "payload.result.status"):
        bad |= events.among(path, FAILURES, types)
    rows, said = events.numbers("payload.success", "truth", types)
    if len(rows):
        bad[np.searchsorted(events.rows_of(types), rows[said == 0])] = True
    return (~bad).astype(np.float64)


def _placed(spec: MetricSpec, rows: NDArray[np.int32], values: Numbers, invalid: NDArray[np.bool_]) -> Measured:
    """Where values fall by the rules of the histogram. Of a signed metric, what lies below the domain shares its last bin."""
    if invalid.any():
        values = np.where(invalid, 0, values)
    (low, high), size = spec.domain, np.abs(values)
    if spec.has_bins:
        inside = np.clip(size, low, high)
        places = bin_of(inside.astype(np.float64)).astype(np.int32)
        if spec.signed:
            places[values < 0] += MIRROR
    else:
        places = np.zeros(len(values), np.int32)
    places[size < low] = ZERO
    places[values > high] = OVER
    if not spec.signed:
        negative = values < 0
        if negative.any():
            places[negative] = NEGATIVE
            values = np.where(negative, 0, values)
    count = int(invalid.sum())
    if count:
        places[invalid] = INVALID
    return Measured(rows, values, places, count)
