"""The life of an alert: pending, firing, over; what is told of it, and what is kept quiet.

Pure. An alert is a small record per series (metric, dimension, key, detector), stored as a document; whoever has the
records goes on where another stopped. Of one dedup key the firing notices rise in severity, and at most one resolved
notice ends them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from tallyroll.analytics.alerts.rules import AnomalyRule, AnyRule
from tallyroll.analytics.signal import Severity, Signal


class Alert(msgspec.Struct, frozen=True, gc=False):
    """One series that is not as it should be: its newest signal, and how far its life has come.

    ``began`` is when the condition was first seen, ``quiet_since`` since when it is not, both as ``Signal.at``. ``firing``
    is False while it is pending. ``told`` is the highest severity that was told, None while nobody knows.
    """

    signal: Signal
    began: int
    firing: bool
    told: Severity | None = None
    quiet_since: int | None = None


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Keeps alerts quiet from ``start`` until ``end``, seconds since 1970 on the wall clock.

    Each member that is given must be equal; a ``key`` that ends in ``*`` means every key that begins so. ``rule`` is the
    detector's or the rule's name. What was told before is still told to be over.
    """

    id: str
    start: int
    end: int
    by: str
    why: str
    rule: str | None = None
    metric: str | None = None
    dimension: str | None = None
    key: str | None = None

    def covers(self, signal: Signal, now: int) -> bool:
        """Whether the signal is to be kept quiet now."""
        if not self.start <= now < self.end:
            return False
        if self.key is not None and not (signal.key.startswith(self.key[:-1]) if self.key.endswith("*") else signal.key == self.key):
            return False
        wanted = ((self.rule, signal.detector), (self.metric, signal.metric), (self.dimension, signal.dimension))
        return all(asked is None or asked == has for asked, has in wanted)


class Life(NamedTuple):
    """Where an alert has got to: None when it is over or never was; and what is to be told of its end."""

    alert: Alert | None
    over: Signal | None = None


def series_of(signal: Signal) -> str:
    """What an alert's document is called."""
    return f"{signal.metric}|{signal.dimension}|{signal.key}|{signal.detector}"


def breached(alert: Alert | None, signal: Signal, *, for_s: int) -> Life:
    """A rule found its condition true. The alert keeps the start that it had when it was first seen."""
    if alert is None:
        return Life(Alert(signal, signal.at, for_s == 0))
    if signal.at < alert.signal.at:
        return Life(alert)  # of a pane before the one that is known to be bad
    signal = msgspec.structs.replace(signal, since=alert.signal.since)
    firing = alert.firing or signal.at - alert.began >= for_s
    return Life(msgspec.structs.replace(alert, signal=signal, firing=firing, quiet_since=None))


def unsettled(alert: Alert | None, at: int) -> Life:
    """A rule found a value that is neither bad nor good enough: what fires goes on, what is pending is dropped."""
    if alert is None or at < alert.signal.at:
        return Life(alert)
    return Life(msgspec.structs.replace(alert, quiet_since=None) if alert.firing else None)


def calm(alert: Alert | None, at: int, value: float | None, *, keep_s: int) -> Life:
    """A rule found its condition false, or no values. Over when that has been so for ``keep_s``."""
    if alert is None or at < alert.signal.at:
        return Life(alert)
    if not alert.firing:
        return Life(None)
    since = at if alert.quiet_since is None else alert.quiet_since
    if at - since < keep_s:
        return Life(msgspec.structs.replace(alert, quiet_since=since))
    return Life(None, _over(alert, at, alert.signal.value if value is None else value))


def taken(alert: Alert | None, signal: Signal) -> Life:
    """A detector said something of an incident of its own: a new one ends the one before it; the end of an unknown one is nothing."""
    same = alert is not None and alert.signal.dedup_key == signal.dedup_key
    if signal.state == "resolved":
        if alert is None or not same:
            return Life(alert)
        return Life(None, _over(alert, signal.at, signal.value, signal.summary))
    if alert is not None and same:
        return Life(msgspec.structs.replace(alert, signal=signal, quiet_since=None))
    over = None if alert is None else _over(alert, signal.at, alert.signal.value)
    return Life(Alert(signal, signal.at, firing=True), over)


def spoken(alert: Alert, *, quiet: bool) -> tuple[Alert, Signal | None]:
    """The notice that is due: of what fires and nobody was told of, or not as so severe. Nothing while it is to be ``quiet``."""
    severity = alert.signal.severity
    if quiet or not alert.firing or (alert.told is not None and severity.rank <= alert.told.rank):
        return alert, None
    return msgspec.structs.replace(alert, told=severity), alert.signal


def _over(alert: Alert, at: int, value: float, summary: str = "") -> Signal | None:
    """The last notice of an alert; None where the first was never told."""
    if alert.told is None:
        return None
    said = summary or f"over: {alert.signal.summary}"
    return msgspec.structs.replace(
        alert.signal, state="resolved", at=max(at, alert.signal.at), value=value, severity=alert.told, evidence=(), summary=said
    )


class Quiet(NamedTuple):
    """Who is not to speak now: by silences, and by rules that fire and inhibit others."""

    silences: Sequence[Silence]
    inhibited: Mapping[str, frozenset[str]]
    now: int

    def holds(self, signal: Signal) -> bool:
        """Whether the signal is kept quiet; a rule that speaks for the whole (key "") inhibits for every key."""
        keys = self.inhibited.get(signal.detector, frozenset())
        return signal.key in keys or "" in keys or any(silence.covers(signal, self.now) for silence in self.silences)


def quiet_by(rules: Iterable[AnyRule], alerts: Iterable[Alert], silences: Sequence[Silence], now: int) -> Quiet:
    """What is kept quiet while these alerts are as they are. A rule does not inhibit itself."""
    inhibits = {rule.name: rule.inhibits for rule in rules if rule.inhibits and not isinstance(rule, AnomalyRule)}
    found: dict[str, set[str]] = {}
    for alert in alerts if inhibits else ():
        if alert.firing:
            for name in inhibits.get(alert.signal.detector, ()):
                if name != alert.signal.detector:
                    found.setdefault(name, set()).add(alert.signal.key)
    return Quiet(silences, {name: frozenset(keys) for name, keys in found.items()}, now)


def anomaly_rule(rules: Iterable[AnyRule], signal: Signal) -> AnomalyRule | None:
    """The first rule that makes an alert of what a detector has found; None: nobody wants to know."""
    for rule in rules:
        if (
            isinstance(rule, AnomalyRule)
            and (not rule.metrics or signal.metric in rule.metrics)
            and (not rule.dimensions or signal.dimension in rule.dimensions)
            and signal.severity.rank >= rule.min_severity.rank
        ):
            return rule
    return None
