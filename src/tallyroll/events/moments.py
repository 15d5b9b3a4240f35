"""Moments: aware datetimes in UTC, and whole microseconds since 1970, which everything stored has. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def us_of(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (moment - EPOCH) // _MICROSECOND


def moment_at(us: int) -> datetime:
    """The datetime so many microseconds after 1970."""
    return EPOCH + timedelta(microseconds=us)
