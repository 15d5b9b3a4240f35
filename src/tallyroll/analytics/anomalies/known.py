"""The detector of single values that users know by name: for values that do not come from the log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from tallyroll.analytics.signal import Severity, amount, severity_of
from tallyroll.errors import MissingExtra
from tallyroll.events.ids import utc_now

if TYPE_CHECKING:
    from tallyroll.analytics.anomalies.history import History


@dataclass(frozen=True, slots=True)
class AnomalyAlert:
    """One value that is not usual: ``deviation`` in standard deviations from ``expected_value``, the mean of those before it."""

    metric: str
    agent_id: str
    value: float
    expected_value: float
    deviation: float
    threshold: float
    severity: Severity
    timestamp: datetime
    description: str


class AnomalyDetector:
    """Judges values one by one, per metric and agent, against those before them; a value never counts for itself.

    ``sensitivity``: so many deviations are an anomaly, in either direction. Silent for the first ``min_data_points`` values
    of a series. Severity: deviation ÷ sensitivity from 1, 1.5, 2.5, 4. Keeps 3,000 values
    of ``max_series`` series; the one unused for longest makes room.
    What is followed from the log has better detectors: see ``AnalyticsEngine`` and the alerts. Raises ValueError for
    values that are no finite numbers; MissingExtra where it is made.
    """

    def __init__(self, sensitivity: float = 2.0, min_data_points: int = 10, *, max_series: int = 10_000) -> None:
        if not sensitivity > 0 or min_data_points < 1 or max_series < 1:
            raise ValueError("sensitivity is above 0, min_data_points and max_series 1 or more")
        try:
            from tallyroll.analytics.anomalies import history  # noqa: PLC0415  # needs the extra, which these names do not
        except ModuleNotFoundError:
            raise MissingExtra("analytics") from None
        self._history = history
        self.sensitivity = sensitivity
        self.min_data_points = min_data_points
        self._max_series = max_series
        self._known: dict[tuple[str, str], History] = {}

    def detect_anomaly(self, metric: str, agent_id: str, value: float) -> AnomalyAlert | None:
        """The alert for this value, or None; then the value is learned."""
        if not math.isfinite(value):
            raise ValueError("value is a finite number")
        history = self._known.pop((metric, agent_id), None)
        if history is None:
            history = self._history.History()
            if len(self._known) >= self._max_series:
                del self._known[next(iter(self._known))]
        self._known[metric, agent_id] = history
        z = self._history.deviations(history.values, value, self.min_data_points)
        expected = float(history.values.mean()) if len(history) else value
        history.push(value)
        severity = severity_of(abs(z), self.sensitivity)
        if severity is None:
            return None
        side = "above" if z > 0 else "below"
        return AnomalyAlert(
            metric, agent_id, value, expected, abs(z), self.sensitivity, severity, utc_now(),
            f"{metric} of {agent_id} is {amount(value)}, {abs(z):.1f} deviations {side} the usual {amount(expected)}",
        )  # fmt: skip
