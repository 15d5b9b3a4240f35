"""A series as a picture of characters: columns of eighths of a block, a scale to the left, times below. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Final

_EIGHTHS: Final = " ▁▂▃▄▅▆▇█"
_NOTHING: Final = "·"  # a window without events is not a zero


def chart(values: Sequence[float | None], starts: Sequence[datetime], *, columns: int = 80, rows: int = 12) -> list[str]:
    """The lines of the picture, from the top; ``values`` and ``starts`` of equal length, at least one.

    Where there are more values than columns, a column shows the largest of its values: a spike stays visible. The scale
    begins at 0, or at the smallest value where there are negative ones.
    """
    known = [value for value in values if value is not None]
    low, high = min([0.0, *known]), max([0.0, *known])
    if high <= low:
        high = low + 1.0
    scale = [_short(high), _short((high + low) / 2), _short(low)]
    margin = max(len(text) for text in scale)
    wide = max(1, columns - margin - 2)
    shown, first = _squeezed(values, wide)
    steps = [None if value is None else round((value - low) / (high - low) * rows * 8) for value in shown]
    lines = []
    for row in range(rows - 1, -1, -1):
        cells = "".join(_cell(step, row) for step in steps)
        label = scale[0] if row == rows - 1 else scale[1] if row == (rows - 1) // 2 else scale[2] if row == 0 else ""
        lines.append(f"{label:>{margin}} ┤{cells}" if label else f"{'':>{margin}} │{cells}")
    lines.append(f"{'':>{margin}} └{'─' * len(shown)}")
    lines.append(f"{'':>{margin}}  {_times([starts[place] for place in first])}")
    return lines


def sparkline(values: Sequence[float | None], *, columns: int = 20) -> str:
    """The series on one line, newest to the right."""
    known = [value for value in values if value is not None]
    high = max([0.0, *known]) or 1.0
    shown, _ = _squeezed(values, columns)
    return "".join(_NOTHING if value is None else _EIGHTHS[max(1, math.ceil(max(0.0, value) / high * 8))] for value in shown)


def _squeezed(values: Sequence[float | None], columns: int) -> tuple[list[float | None], list[int]]:
    per = math.ceil(len(values) / columns)
    first = list(range(0, len(values), per))
    shown: list[float | None] = []
    for place in first:
        known = [value for value in values[place : place + per] if value is not None]
        shown.append(max(known) if known else None)
    return shown, first


def _cell(step: int | None, row: int) -> str:
    if step is None:
        return _NOTHING if row == 0 else " "
    return _EIGHTHS[min(8, max(0, step - row * 8))]


def _times(starts: Sequence[datetime]) -> str:
    """Clock times below their columns, the day instead where the series is longer than two days."""
    form = "%m-%d" if (starts[-1] - starts[0]).days >= 2 else "%H:%M"  # noqa: PLR2004  # one day may be two dates
    line, free = "", 0
    for place in range(0, len(starts), max(8, math.ceil(len(starts) / 8))):
        if place >= free:
            line = f"{line:<{place}}{starts[place]:{form}}"
            free = len(line) + 1
    return line


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"
