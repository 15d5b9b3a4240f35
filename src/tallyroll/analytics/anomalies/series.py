"""One watched series: what is read from its panes, its detector, its incidents, and how it is kept over restarts. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from tallyroll.analytics.anomalies.detectors import Ensemble, EnsembleState, one_sided
from tallyroll.analytics.anomalies.incidents import Change, Incidents
from tallyroll.analytics.pane import Pane
from tallyroll.analytics.signal import amount
from tallyroll.analytics.spec import MetricSpec, One, Success

LEAST_VALUES: Final = 5
"""A mean or a share of fewer values says nothing."""

GONE_PANES: Final = 60
"""After so many panes without events a count is not 0 any more: the series has ended."""


class SeriesName(NamedTuple):
    """Which series: one metric over one key of one dimension."""

    metric: str
    dimension: str
    key: str

    def __str__(self) -> str:
        return f"{self.metric}|{self.dimension}|{self.key}"


class Kept(msgspec.Struct, array_like=True):
    """A series as it was when the pane before ``through`` had been scored."""

    through: int
    empty: int
    detector: EnsembleState
    incidents: Incidents


class Scored(NamedTuple):
    """What a pane gave: its value, what was expected, the score, and what began, became worse or ended with it."""

    value: float
    expected: float
    score: float
    change: Change | None


class Series:
    """Scores the panes of one series in order. Deterministic: what it says depends on the panes alone."""

    def __init__(self, spec: MetricSpec, kept: Kept | None = None) -> None:
        self.spec = spec
        self.detector = Ensemble(None if kept is None else kept.detector)
        self.incidents = Incidents() if kept is None else kept.incidents
        self.empty = 0 if kept is None else kept.empty
        self.through = 0 if kept is None else kept.through
        self.last = 0.0

    def step(self, start: int, pane: Pane | None) -> Scored | None:
        """Takes the closed pane that begins at ``start``; None where it has no value to be judged."""
        self.through = start + self.spec.pane_s
        self.empty = 0 if pane is not None and pane.n else self.empty + 1
        value = reading(self.spec, pane, gone=self.empty > GONE_PANES)
        if value is None:
            change = self.incidents.silent()
            return None if change is None else Scored(self.last, self.last, 0.0, change)
        score, expected, _ = one_sided(self.detector.score(value), value, self.spec.bad)
        self.last = value
        return Scored(value, expected, score, self.incidents.step(start, value, score))

    def kept(self) -> Kept:
        """What is needed to go on from here."""
        return Kept(self.through, self.empty, self.detector.state(), self.incidents)


def reading(spec: MetricSpec, pane: Pane | None, *, gone: bool = False) -> float | None:
    """What is judged of a pane: a count, the share of successes in percent, or the mean. No values are 0 for counts alone."""
    if isinstance(spec.value, One):
        return None if gone else float(0 if pane is None else pane.n)
    if pane is None or pane.n < LEAST_VALUES:
        return None
    if isinstance(spec.value, Success):
        return 100 * pane.ok / pane.n
    return float(pane.sum) / pane.n / spec.scale


def words(spec: MetricSpec, name: SeriesName, scored: Scored) -> str:
    """What happened, in a sentence. Says nothing of a payload but the key of the series."""
    unit = "percent" if isinstance(spec.value, Success) else spec.unit
    whom = "the fleet" if not name.key else f"{name.dimension} {name.key}"
    read = "success" if isinstance(spec.value, Success) else spec.name
    if scored.change is not None and scored.change.what == "over":
        return f"{read} of {whom} is as usual again; its worst was {amount(scored.change.incident.peak_value)} {unit}"
    direction = "above" if scored.value >= scored.expected else "below"
    return f"{read} of {whom} is {amount(scored.value)} {unit}, {direction} the {amount(scored.expected)} that was expected"
