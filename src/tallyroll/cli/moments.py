"""Moments and durations as people write them, and as they read them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_UNIT_S: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_MAX_S: Final = 3_155_760_000.0  # a hundred years: more is a slip, and near the bounds of datetime
SPAN_HELP: Final = "10m, 2h, 1d, or combined as 1h30m"
MOMENT_HELP: Final = "ISO 8601 with a zone, or an age such as 10m, 2h, 1d"


def parse_span(text: str) -> timedelta:
    """The duration that ``10m`` or ``1h30m`` names. Raises ValueError that says what is accepted."""
    parts = _SPAN.findall(text)
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in parts)
    if not parts or "".join(number + unit for number, unit in parts) != text or seconds > _MAX_S:
        raise ValueError(f"{text!r} is no duration; write {SPAN_HELP}")
    return timedelta(seconds=seconds)


def parse_moment(text: str, now: datetime) -> datetime:
    """The moment that ISO 8601 text with a zone names, or that lies the given duration before ``now``; in UTC.

    Raises ValueError that says what is accepted.
    """
    if text == "now":
        return now
    if _SPAN.match(text) and "-" not in text:
        return now - parse_span(text)
    try:
        moment = datetime.fromisoformat(text)
        if moment.utcoffset() is not None:
            return moment.astimezone(UTC)
    except (ValueError, OverflowError):  # the latter of a first or last day that is in no year in UTC
        raise ValueError(f"{text!r} is no moment; write {MOMENT_HELP}") from None
    raise ValueError(f"{text!r} has no zone and could mean any hour; add Z for UTC")


def short_span(seconds: float) -> str:
    """A duration for a narrow column: ``850 ms``, ``4.2 s``, ``3 min``, ``5.1 h``, ``12 d``."""
    if seconds < 1:
        return f"{seconds * 1_000:.0f} ms"
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.1f} s"
    if seconds < 3_600:  # noqa: PLR2004  # an hour
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:  # noqa: PLR2004  # two days
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.0f} d"


def age(moment: datetime, now: datetime) -> str:
    """How long ago a moment is, for a narrow column."""
    seconds = (now - moment).total_seconds()
    return f"in {short_span(-seconds)}" if seconds < -1 else f"{short_span(max(seconds, 0.0))} ago"
