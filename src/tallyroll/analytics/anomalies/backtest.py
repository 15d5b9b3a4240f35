"""What a detector would have said of the past: alarms per day, and, where labels are given, how right and how quick it was. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from tallyroll.analytics.anomalies.detectors import one_sided
from tallyroll.analytics.anomalies.incidents import Incidents
from tallyroll.analytics.spec import Bad
from tallyroll.ports import Detector


class Alarm(NamedTuple):
    """One incident as it would have been told: its first pane, its worst score, and the pane after its last loud one."""

    first: int
    peak: float
    end: int


class Judgement(NamedTuple):
    """How a detector did on one series.

    ``precision``: the share of alarms that began in a labelled window; ``recall``: the share of windows with an alarm;
    ``panes_to_detection``: the mean number of panes from a window's begin to its first alarm. None where there is nothing to
    divide by, or no labels.
    """

    alarms: Sequence[Alarm]
    alarms_per_day: float
    precision: float | None
    recall: float | None
    panes_to_detection: float | None


def backtest(  # noqa: PLR0913  # what is tried, and on what
    values: Sequence[float | None],
    detector: Detector,
    *,
    labels: Sequence[tuple[int, int]] | None = None,
    threshold: float | None = None,
    bad: Bad = "both",
    pane_s: int = 60,
    warm_up: int = 0,
) -> Judgement:
    """Runs the detector over one value per pane, None where there is none; ``labels`` are first and last pane, inclusive.

    ``threshold``: the detector's own if None. ``bad``: on which side of what was expected a value is told. Alarms in the first
    ``warm_up`` panes are left out.
    """
    loud = detector.threshold if threshold is None else threshold
    incidents = Incidents()
    alarms: list[Alarm] = []
    for place, value in enumerate(values):
        if value is None:
            incidents.silent()
            continue
        change = incidents.step(place, value, one_sided(detector.score(value), value, bad).score, loud)
        if change is not None and change.what == "began":
            alarms.append(Alarm(place, change.incident.peak, place + 1))
        elif alarms and incidents.open is not None:
            alarms[-1] = Alarm(alarms[-1].first, incidents.open.peak, incidents.open.last_at + 1)
    told = [alarm for alarm in alarms if alarm.first >= warm_up]
    days = len(values) * pane_s / 86_400
    per_day = len(told) / days if days else 0.0
    if labels is None:
        return Judgement(told, per_day, None, None, None)
    right = [alarm for alarm in told if any(first <= alarm.first <= last for first, last in labels)]
    delays = [
        min(inside) for first, last in labels if (inside := [max(0, a.first - first) for a in told if a.first <= last and a.end > first])
    ]
    return Judgement(
        told,
        per_day,
        len(right) / len(told) if told else None,
        len(delays) / len(labels) if labels else None,
        sum(delays) / len(delays) if delays else None,
    )
