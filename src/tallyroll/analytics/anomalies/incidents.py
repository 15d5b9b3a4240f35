"""One alarm per incident: a score speaks only above all scores of the last hundred panes, and within an incident only if it is worse.

Pure. What speaks begins an incident or raises its severity; five quiet panes end it.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from tallyroll.analytics.anomalies.detectors import SHIPPED_THRESHOLD, deviations_of
from tallyroll.analytics.signal import Severity, severity_of

LOOK_BACK: Final = 100
QUIET_PANES: Final = 5


class Incident(msgspec.Struct, array_like=True):
    """What is going on in a series: since when, how bad, and its worst moment. Times are pane starts, seconds since 1970."""

    since: int
    severity: Severity
    peak: float
    peak_at: int
    peak_value: float
    last_at: int
    quiet: int = 0


class Change(NamedTuple):
    """An incident began, became worse, or is over."""

    what: Literal["began", "worse", "over"]
    incident: Incident


class Incidents(msgspec.Struct, array_like=True):
    """The recent scores of one series, and the incident that is open."""

    recent: list[float] = []
    open: Incident | None = None

    def step(self, at: int, value: float, score: float, threshold: float = SHIPPED_THRESHOLD) -> Change | None:
        """Takes the score of the pane that begins at ``at``."""
        highest = max(self.recent, default=0.0)
        self.recent.append(score)
        if len(self.recent) > LOOK_BACK:
            del self.recent[0]
        loud = score >= threshold
        incident = self.open
        if incident is None:
            return self._begin(at, value, score, threshold) if loud and score > highest else None
        if not loud:
            incident.quiet += 1
            return self._end() if incident.quiet >= QUIET_PANES else None
        incident.quiet, incident.last_at = 0, at
        if score > incident.peak:
            incident.peak, incident.peak_at, incident.peak_value = score, at, value
            severity = severity_of(deviations_of(score), deviations_of(threshold)) or Severity.LOW
            if severity.rank > incident.severity.rank:
                incident.severity = severity
                return Change("worse", incident)
        return None

    def silent(self) -> Change | None:
        """Takes a pane without a value: it is as quiet as a usual one."""
        if self.open is None:
            return None
        self.open.quiet += 1
        return self._end() if self.open.quiet >= QUIET_PANES else None

    def _begin(self, at: int, value: float, score: float, threshold: float) -> Change:
        severity = severity_of(deviations_of(score), deviations_of(threshold)) or Severity.LOW
        self.open = Incident(at, severity, score, at, value, at)
        return Change("began", self.open)

    def _end(self) -> Change:
        incident, self.open = self.open, None
        assert incident is not None  # noqa: S101  # asked before
        return Change("over", incident)
