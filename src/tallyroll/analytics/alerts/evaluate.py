"""What a rule says of a reading, and what follows for the alerts: decided here, without a clock and without a store."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Literal, NamedTuple

from msgspec.structs import replace

from tallyroll.analytics.alerts.book import Book
from tallyroll.analytics.alerts.lifecycle import Alert, Life, Silence, breached, calm, quiet_by, series_of, spoken, taken, unsettled
from tallyroll.analytics.alerts.rules import (
    GAUGE_UNITS,
    OF_SUCCESS,
    SERVICE,
    AbsenceRule,
    AnyRule,
    BurnRateRule,
    GaugeRule,
    JudgedRule,
    Reads,
    ThresholdRule,
)
from tallyroll.analytics.pane import Pane
from tallyroll.analytics.signal import Signal
from tallyroll.analytics.spec import MINUTE_S, AggregationFunction, MetricSpec

_COMPARE: Final[Mapping[str, Callable[[float, float], bool]]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_WORDS: Final = {">": "above", ">=": "at or above", "<": "below", "<=": "at or below"}


class Subject(NamedTuple):
    """What an alert is about."""

    metric: str
    dimension: str
    key: str

    def __str__(self) -> str:
        return f"{self.dimension} {self.key}".replace("\x1f", ", ") if self.key else "all"


class Window(NamedTuple):
    """A stretch of event time, seconds since 1970, that ends at ``end`` (exclusive); ``pane`` is the start of its last pane."""

    end: int
    pane: int


class Judgement(NamedTuple):
    """What a rule says of one key: ``breach`` with the signal it would give, ``between`` bad and good again, or ``clear``."""

    rule: JudgedRule
    series: str
    verdict: Literal["breach", "between", "clear"]
    at: int
    value: float | None
    signal: Signal | None = None


class Outcome(NamedTuple):
    """What follows from some judgements: the alerts that changed (None: gone), by series, and the notices that are due."""

    changes: dict[str, Alert | None]
    notices: list[Signal]


def read(pane: Pane, function: Reads, spec: MetricSpec, window_s: int) -> float | None:
    """What a function says of a pane, in the unit of the metric, in percent, or per minute; None without values, counts are 0."""
    if function == "per_minute":
        return pane.n * MINUTE_S / window_s
    if function in OF_SUCCESS:
        if not pane.n:
            return None
        good = 100 * pane.ok / pane.n
        return good if function == "success_rate" else 100 - good
    value = pane.read(AggregationFunction(function))
    return value if value is None or function == "count" else value / spec.scale


def is_beyond(rule: ThresholdRule | GaugeRule, value: float) -> bool:
    """Whether a value is on the bad side of the rule's bound."""
    return _COMPARE[rule.comparison](value, rule.value)


def judge_threshold(rule: ThresholdRule, spec: MetricSpec, key: str, pane: Pane, window: Window) -> Judgement:
    """A bound on a window's value. Fewer values than ``min_count`` say nothing, so what fires becomes quiet."""
    about = Subject(rule.metric, rule.dimension, key)
    value = read(pane, rule.function, spec, rule.window_s)
    counts = rule.function in ("count", "sum", "per_minute")
    if value is None or (pane.n < rule.min_count and not (counts and rule.min_count == 1)):
        return _good(rule, about, window, value)
    if not is_beyond(rule, value):
        back = rule.clear is None or not _COMPARE[rule.comparison](value, rule.clear)
        return _good(rule, about, window, value, between=not back)
    unit = "percent" if rule.function.endswith("_rate") else "per minute" if rule.function == "per_minute" else spec.unit
    said = (
        f"{rule.metric} {rule.function} of {about} is {value:.6g} {unit}, {_WORDS[rule.comparison]} {rule.value:.6g}, "
        f"over {_span(rule.window_s)}"
    )
    signal = _signal(rule, about, window, value, said)
    signal = replace(signal, unit=unit, threshold=rule.value, deviation=value, window_s=rule.window_s)
    return Judgement(rule, series_of(signal), "breach", window.end, value, signal)


def judge_burn(rule: BurnRateRule, key: str, long: Pane, short: Pane, window: Window) -> Judgement:
    """How fast the error budget burns, over both windows."""
    about = Subject(rule.metric, rule.dimension, key)
    allowed = 100 - rule.objective
    failed = 100 * (1 - long.ok / long.n) if long.n else None
    failed_of_late = 100 * (1 - short.ok / short.n) if short.n else 0.0
    if failed is None or long.n < rule.min_count or failed < rule.factor * allowed or failed_of_late < rule.factor * allowed:
        return _good(rule, about, window, failed)
    burn = failed / allowed
    said = (
        f"{failed:.4g} percent of {long.n} {rule.metric} of {about} failed within {_span(rule.window_s)}: "
        f"the budget of an objective of {rule.objective:g} percent burns {burn:.3g} times too fast"
    )
    signal = _signal(rule, about, window, failed, said)
    signal = replace(signal, unit="percent", baseline=allowed, threshold=rule.factor, deviation=burn, window_s=rule.window_s)
    return Judgement(rule, series_of(signal), "breach", window.end, failed, signal)


def judge_absence(rule: AbsenceRule, key: str, pane: Pane, window: Window) -> Judgement:
    """Whether a key that should have values has none."""
    about = Subject(rule.metric, rule.dimension, key)
    if pane.n:
        return _good(rule, about, window, float(pane.n))
    said = f"{about} has no {rule.metric} for {_span(rule.window_s)}"
    signal = _signal(rule, about, window, 0.0, said)
    signal = replace(signal, unit="values", threshold=1.0, window_s=rule.window_s, since=window.end - rule.window_s)
    return Judgement(rule, series_of(signal), "breach", window.end, 0.0, signal)


def judge_gauge(rule: GaugeRule, value: float | None, at: int) -> Judgement:
    """A number of the service itself; None, where nobody measured it, is neither good nor bad."""
    about, window = Subject(rule.gauge, SERVICE, ""), Window(at, at)
    if value is None or not is_beyond(rule, value):
        return _good(rule, about, window, value, between=value is None)
    unit = GAUGE_UNITS[rule.gauge]
    said = f"{rule.gauge} is {value:.6g}{unit and ' '}{unit}, {_WORDS[rule.comparison]} {rule.value:.6g}"
    signal = _signal(rule, about, window, value, said)
    signal = replace(signal, unit=unit, threshold=rule.value, deviation=value)
    return Judgement(rule, series_of(signal), "breach", at, value, signal)


def settle(book: Book, found: Sequence[Judgement | Signal], rules: Sequence[AnyRule], silences: Sequence[Silence], now: int) -> Outcome:
    """What follows from what rules and detectors have found; the book is read, not written.

    First every alert moves, then it is decided who may speak: an alert that begins together with one that inhibits it is quiet.
    """
    out = Outcome({}, [])
    for judged in _rounds(found):
        moved: dict[str, Alert | None] = {}
        for series, one in judged.items():
            before = out.changes[series] if series in out.changes else book.get(series)
            life = taken(before, one) if isinstance(one, Signal) else _moved(before, one)
            if life.alert is not before:
                moved[series] = life.alert
            if life.over is not None:
                out.notices.append(life.over)
        out.changes.update(moved)
        quiet = quiet_by(rules, _after(book.alerts(), out.changes), silences, now)
        for series, alert in moved.items():
            if alert is not None:
                out.changes[series], notice = spoken(alert, quiet=quiet.holds(alert.signal))
                if notice is not None:
                    out.notices.append(notice)
    return out


def _rounds(found: Sequence[Judgement | Signal]) -> list[dict[str, Judgement | Signal]]:
    """The first of each series, then the second of each: one that began and ended within a pause is told of both."""
    rounds: list[dict[str, Judgement | Signal]] = []
    count: dict[str, int] = {}
    for one in found:
        series = series_of(one) if isinstance(one, Signal) else one.series
        at = count.get(series, 0)
        count[series] = at + 1
        if at == len(rounds):
            rounds.append({})
        rounds[at][series] = one
    return rounds


def speak_up(book: Book, rules: Sequence[AnyRule], silences: Sequence[Silence], now: int) -> Outcome:
    """Tells of alerts that fire and were kept quiet, where nothing keeps them quiet any more."""
    quiet = quiet_by(rules, book.alerts(), silences, now)
    out = Outcome({}, [])
    for series, alert in book.items():
        after, notice = spoken(alert, quiet=quiet.holds(alert.signal))
        if notice is not None:
            out.changes[series] = after
            out.notices.append(notice)
    return out


def _after(alerts: Iterable[Alert], changes: Mapping[str, Alert | None]) -> list[Alert]:
    kept = [alert for alert in alerts if series_of(alert.signal) not in changes]
    return kept + [alert for alert in changes.values() if alert is not None]


def _moved(alert: Alert | None, judged: Judgement) -> Life:
    if judged.signal is not None:
        return breached(alert, judged.signal, for_s=judged.rule.for_s)
    if judged.verdict == "between":
        return unsettled(alert, judged.at)
    return calm(alert, judged.at, judged.value, keep_s=judged.rule.keep_s)


def _good(rule: JudgedRule, about: Subject, window: Window, value: float | None, *, between: bool = False) -> Judgement:
    series = f"{about.metric}|{about.dimension}|{about.key}|{rule.name}"
    return Judgement(rule, series, "between" if between else "clear", window.end, value)


def _signal(rule: JudgedRule, about: Subject, window: Window, value: float, summary: str) -> Signal:
    return Signal(
        state="firing", metric=about.metric, dimension=about.dimension, key=about.key, detector=rule.name, severity=rule.severity,
        since=window.pane, at=window.end, value=value, baseline=None, threshold=0.0, deviation=0.0, unit="", window_s=0, summary=summary,
    )  # fmt: skip


def _span(seconds: int) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"
