"""Members of canonical states for people: times as text, amounts and durations with their units, as a shown state has them."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import money, number, plain
from tallyroll.events.event import iso
from tallyroll.events.moments import moment_at
from tallyroll.replay.differences import MISSING
from tallyroll.replay.values import MICRO

_UNIT: Final = re.compile(r"_(us|micro|micro_percent)\Z")
_DURATIONS: Final = ("execution_time_us", "reported_duration_us")
_SEEN: Final = ("last_seen", "last_refused")  # category -> where and when


def path_shown(path: str) -> str:
    """A path without the unit at its end, which the value carries; predicates and JSON name it with the unit."""
    return plain(_UNIT.sub("", path))


def both_shown(path: str, old: Any, new: Any) -> tuple[str, str]:  # noqa: ANN401  # any values of a state, or that there is none
    """Two values at a path that are not the same, nor do they look it."""
    shown = value_shown(path, old), value_shown(path, new)
    if shown[0] == shown[1] and isinstance(old, int) and isinstance(new, int):
        unit = " s" if path in _DURATIONS else ""
        return f"{old / MICRO:,.6f}{unit}", f"{new / MICRO:,.6f}{unit}"  # both were rounded
    return shown


def value_shown(path: str, value: Any) -> str:  # noqa: ANN401  # any value of a state, or that there is none
    """The value at a path of a built-in view's state."""
    if value is MISSING or value is None:
        return "-"
    if isinstance(value, int) and not isinstance(value, bool):
        return _number_shown(path, value)
    if path.startswith(_SEEN) and isinstance(value, list):
        where, time_us = value
        return plain(f"{where} {iso(moment_at(time_us))}")
    return plain(msgspec.json.encode(value).decode() if isinstance(value, (dict, list)) else value)


def _number_shown(path: str, value: int) -> str:
    if path in _DURATIONS:
        return short_span(value / MICRO)
    if path.endswith("_us"):
        return iso(moment_at(value))
    if path.endswith("_micro"):
        return money(value)
    return f"{value / MICRO:g} %" if path.endswith("_micro_percent") else number(value)
