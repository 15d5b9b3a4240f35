"""What detectors and rules hand to the alerts: something began to be wrong with one series, became worse, or is over."""

from __future__ import annotations

from bisect import bisect_right
from enum import StrEnum
from hashlib import sha256
from typing import Final, Literal

import msgspec

from tallyroll.events.ids import id_at
from tallyroll.events.position import Position

MOST_EVIDENCE: Final = 5
"""How many events a signal points to at most."""


class Severity(StrEnum):
    """How far beyond its threshold something is: 1, 1.5, 2.5 or 4 times. In rising order, as ``rank`` counts."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"

    @property
    def rank(self) -> int:
        """0 for low to 3 for critical."""
        return _ORDER.index(self)


_ORDER: Final = tuple(Severity)
SEVERITY_FROM: Final = (1.0, 1.5, 2.5, 4.0)


def severity_of(deviation: float, threshold: float) -> Severity | None:
    """The severity of a deviation against the threshold that it must reach; None below it, and for a deviation that is no number."""
    place = bisect_right(SEVERITY_FROM, deviation / threshold) if deviation >= threshold else 0
    return _ORDER[place - 1] if place else None


class Evidence(msgspec.Struct, frozen=True, gc=False):
    """One event that shows what is meant, and where it lies in the log."""

    event_id: str
    position: Position


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One series of one metric is outside of what is usual or allowed (``firing``), or is not any more (``resolved``).

    Signals with one ``dedup_key`` are of one incident: the first, each that is more severe, and the one that ends it.
    ``detector`` is who noticed: ``live`` or ``panes`` for anomalies, else the name of a rule. ``since`` is the start of the
    incident's first pane and ``at`` the end of the pane this was seen in, both event time in seconds since 1970.
    ``value`` and ``baseline`` are in the ``unit`` of the metric; ``baseline`` is None where a rule has none. ``deviation``
    and ``threshold`` are in the detector's own measure. ``window_s`` is the stretch the value was read from.
    ``summary`` says it in words. Nothing in it comes from a payload but the key itself.
    """

    state: Literal["firing", "resolved"]
    metric: str
    dimension: str
    key: str
    detector: str
    severity: Severity
    since: int
    at: int
    value: float
    baseline: float | None
    threshold: float
    deviation: float
    unit: str
    window_s: int
    summary: str
    evidence: tuple[Evidence, ...] = ()

    @property
    def dedup_key(self) -> str:
        """``metric|dimension|key|detector|since``: equal for all signals of one incident, also when it is found again after a restart."""
        return f"{self.metric}|{self.dimension}|{self.key}|{self.detector}|{self.since}"

    @property
    def event_id(self) -> str:
        """The id of the event that tells of this signal: a UUIDv7 of the moment ``since``, the same whenever it is found again."""
        told = f"{self.dedup_key}|{self.state}|{self.severity}"
        return id_at(self.since * 1_000_000, sha256(told.encode()).digest())


def amount(value: float) -> str:
    """A value in a sentence: whole where it is large, four digits where it is not."""
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"  # noqa: PLR2004  # where decimals stop to matter
