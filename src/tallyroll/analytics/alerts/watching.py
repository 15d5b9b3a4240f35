"""Rules that are judged from the store: each once per closed pane, over windows of any length, and over what is not there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec.structs import replace

from tallyroll.analytics.alerts.book import Book
from tallyroll.analytics.alerts.evaluate import Judgement, Window, judge_absence, judge_burn, judge_gauge, judge_threshold
from tallyroll.analytics.alerts.reading import Stretch, Windows, read_window
from tallyroll.analytics.alerts.rules import (
    ANOMALY_DETECTORS,
    AbsenceRule,
    AnomalyRule,
    AnyRule,
    GaugeRule,
    MetricRule,
    ThresholdRule,
)
from tallyroll.analytics.pane import EMPTY, Pane
from tallyroll.analytics.signal import Signal
from tallyroll.analytics.spec import FLEET, MetricSpec
from tallyroll.ports import WindowStore

_CATCH_UP: Final = 10
"""How many panes a rule of one pane looks back for, after a pause; older ones were judged live if at all."""


class Watch(NamedTuple):
    """How the service stands: whether it has followed the log to its end, and the numbers that gauge rules watch."""

    caught_up: bool
    gauges: Mapping[str, float] = {}


class Watching:
    """Judges rules against a store. Keeps which panes it has judged, and which keys it has seen, nothing that must be stored.

    Event time is the wall clock while the service has caught up, so that silence is seen; else the newest event's time.
    """

    def __init__(self, rules: Sequence[AnyRule], specs: Sequence[MetricSpec], store: WindowStore) -> None:
        self._specs = {spec.name: spec for spec in specs}
        self._rules = rules
        self._store = store
        self._judged: dict[str, int] = {}  # rule → end of the last pane judged
        self._seen: dict[str, dict[str, int]] = {}  # absence rule → key → when it last had values

    async def judge(self, book: Book, watch: Watch, now: int) -> tuple[list[Judgement | Signal], Mapping[str, int]]:
        """What the rules say now (seconds since 1970), and the marks to hand to ``done`` once it is stored."""
        found: list[Judgement | Signal] = [*self._of_rules_gone(book, now)]
        marks: dict[str, int] = {}
        progress = await self._store.load_progress()
        newest = max((one.watermark_us for one in progress.values()), default=-1) // 1_000_000
        through = now if watch.caught_up else min(now, newest)
        read: dict[tuple[str, Stretch], Windows] = {}
        for rule in self._rules:
            if isinstance(rule, GaugeRule):
                found.append(judge_gauge(rule, watch.gauges.get(rule.gauge), now))
            elif not isinstance(rule, AnomalyRule) and newest >= 0:
                for end in self._ends(rule, through):
                    found += await self._judge(rule, end, book, watch, read)
                    marks[rule.name] = end
        return found, marks

    def done(self, marks: Mapping[str, int]) -> None:
        """What came of these panes is stored: they are not judged again."""
        self._judged.update(marks)

    def _ends(self, rule: MetricRule, through: int) -> Iterable[int]:
        """The ends of the windows to judge: of panes that have closed since the last time."""
        spec = self._specs[rule.metric]
        closed = int(through - spec.disorder_s) // spec.pane_s * spec.pane_s
        last = self._judged.get(rule.name, closed - spec.pane_s)
        if closed <= last:
            return ()
        if rule.window_s > spec.pane_s:
            return (closed,)
        return range(max(last, closed - _CATCH_UP * spec.pane_s) + spec.pane_s, closed + 1, spec.pane_s)

    async def _judge(
        self, rule: MetricRule, end: int, book: Book, watch: Watch, read: dict[tuple[str, Stretch], Windows]
    ) -> list[Judgement]:
        spec = self._specs[rule.metric]
        window = Window(end, end - spec.pane_s)

        async def panes(start: int, end: int) -> dict[str, Pane]:
            over = Stretch(start, end, spec.pane_s)
            if (rule.dimension, over) not in read:
                read[rule.dimension, over] = await read_window(self._store, rule.dimension, over)
            return {key: metrics[rule.metric] for key, metrics in read[rule.dimension, over].items() if rule.metric in metrics}

        if isinstance(rule, AbsenceRule):
            if not watch.caught_up:
                return []  # what is not there may lie in the log
            if rule.name not in self._seen:
                self._seen[rule.name] = dict.fromkeys(await panes(end - rule.window_s - rule.seen_s, end), end - rule.window_s)
            there = await panes(end - rule.window_s, end + 2 * spec.pane_s)  # what is still open counts as well
            return [judge_absence(rule, key, there.get(key, EMPTY), window) for key in self._expected(rule, there, end)] + [
                judge_absence(rule, key, Pane(n=1), window) for key in self._forgotten(rule, book)
            ]
        long = await panes(end - rule.window_s, end)
        keys = rule.keys or (("",) if rule.dimension == FLEET else {**long, **dict.fromkeys(_alerted(rule, book))})
        if isinstance(rule, ThresholdRule):
            return [judge_threshold(rule, spec, key, long.get(key, EMPTY), window) for key in keys]
        short = await panes(end - rule.short_s, end)
        return [judge_burn(rule, key, long.get(key, EMPTY), short.get(key, EMPTY), window) for key in keys]

    def _expected(self, rule: AbsenceRule, there: Mapping[str, Pane], end: int) -> Sequence[str]:
        """The keys that should have values; the fleet for ever, once it had any."""
        seen = self._seen[rule.name]
        seen.update((key, end) for key, pane in there.items() if pane.n)
        oldest = end - rule.seen_s - rule.window_s
        if rule.dimension != FLEET:
            for key in [key for key, when in seen.items() if when < oldest]:
                del seen[key]
        return rule.keys or list(seen)

    def _forgotten(self, rule: AbsenceRule, book: Book) -> Iterable[str]:
        """Keys with an alert that are not expected any more."""
        return [] if rule.keys else [key for key in _alerted(rule, book) if key not in self._seen[rule.name]]

    def _of_rules_gone(self, book: Book, now: int) -> Iterable[Signal]:
        names = {*ANOMALY_DETECTORS, *(rule.name for rule in self._rules)}
        for alert in book.alerts():
            if alert.signal.detector not in names:
                yield replace(
                    alert.signal, state="resolved", at=now, evidence=(), summary=f"over, for its rule is gone: {alert.signal.summary}"
                )


def _alerted(rule: MetricRule, book: Book) -> Iterable[str]:
    return [alert.signal.key for alert in book.alerts() if alert.signal.detector == rule.name]
