"""The life of an alert: told once, told to be over once, whatever happens in between, and wherever a restart falls."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.alerting import START, signal

from tallyroll.analytics.alerts.book import Book
from tallyroll.analytics.alerts.evaluate import Judgement, settle, speak_up
from tallyroll.analytics.alerts.lifecycle import Alert, Silence, anomaly_rule, breached, calm, series_of, spoken, unsettled
from tallyroll.analytics.alerts.rules import AnomalyRule, GaugeRule, ThresholdRule
from tallyroll.analytics.signal import Severity, Signal

RULES = (
    ThresholdRule(
        name="slow", metric="response_time", function="max", comparison=">", value=10, dimension="agent", for_s=60, keep_s=120,
        inhibits=("late",),
    ),
    ThresholdRule(name="late", metric="queue_time", function="max", comparison=">", value=10, dimension="agent", keep_s=0),
    GaugeRule(name="away", gauge="log_unavailable", comparison=">", value=0, inhibits=("slow", "live")),
    AnomalyRule(name="unusual", min_severity=Severity.MEDIUM),
)  # fmt: skip
SLOW, LATE, AWAY, _ = RULES


def of_rule(rule: ThresholdRule | GaugeRule, key: str, at: int) -> Signal:
    return signal(key, detector=rule.name, severity=rule.severity, metric=getattr(rule, "metric", "log_unavailable"), since=at - 60, at=at)


def judged(rule: ThresholdRule | GaugeRule, key: str, verdict: str, at: int) -> Judgement:
    one = of_rule(rule, key, at)
    return Judgement(rule, series_of(one), verdict, at, 11.0, one if verdict == "breach" else None)


class History:
    """Steps over a book that is stored and read again whenever it is asked to be."""

    def __init__(self) -> None:
        self.book = Book()
        self.told: list[Signal] = []
        self.silences: list[Silence] = []

    def step(self, found: list[Judgement | Signal], now: int) -> list[Signal]:
        layer = self.book.open()
        outcome = settle(self.book, found, RULES, self.silences, now)
        layer.update(outcome.changes)
        more = speak_up(self.book, RULES, self.silences, now)
        layer.update(more.changes)
        self.book.keep(layer)
        self.told += [*outcome.notices, *more.notices]
        return [*outcome.notices, *more.notices]

    def restart(self) -> None:
        stored = {series: msgspec.msgpack.encode(alert) for series, alert in self.book.items()}
        self.book = Book()
        self.book.refresh({series: msgspec.msgpack.decode(data, type=Alert) for series, data in stored.items()})


def test_a_condition_must_hold_before_it_fires_and_be_gone_before_it_is_over() -> None:
    history, told = History(), []
    for minute, verdict in enumerate(["breach", "clear", "breach", "breach", "clear", "between", "clear", "clear", "clear"], 1):
        told.append([one.state for one in history.step([judged(SLOW, "a", verdict, START + 60 * minute)], START)])
    assert told == [[], [], [], ["firing"], [], [], [], [], ["resolved"]]
    first, last = history.told
    assert first.dedup_key == last.dedup_key == f"response_time|agent|a|slow|{START + 120}"
    assert first.event_id != last.event_id
    assert last.evidence == ()


def test_what_is_known_of_a_later_pane_is_not_undone_by_an_earlier_one() -> None:
    alert = breached(None, of_rule(LATE, "a", START + 120), for_s=0).alert
    assert calm(alert, START + 60, 1.0, keep_s=0).alert is alert
    assert unsettled(alert, START + 60).alert is alert
    assert breached(alert, of_rule(LATE, "a", START + 60), for_s=0).alert is alert


def test_a_worse_incident_speaks_again_and_a_lesser_one_does_not() -> None:
    history = History()
    for severity in (Severity.MEDIUM, Severity.LOW, Severity.HIGH, Severity.HIGH, Severity.MEDIUM):
        history.step([signal(severity=severity)], START)
    history.step([signal(state="resolved", severity=Severity.LOW)], START)
    assert [(one.state, one.severity) for one in history.told] == [("firing", "medium"), ("firing", "high"), ("resolved", "high")]
    assert len({one.event_id for one in history.told}) == 3


def test_a_new_incident_ends_the_one_before_it() -> None:
    history = History()
    history.step([signal()], START)
    history.step([signal(since=START + 600, at=START + 660)], START)
    history.step([signal(state="resolved")], START)  # of the first, which is over already
    assert [(one.state, one.since - START) for one in history.told] == [("firing", 0), ("resolved", 0), ("firing", 600)]


def test_nobody_hears_that_something_is_over_of_which_nobody_heard() -> None:
    history = History()
    history.step([signal(state="resolved"), judged(LATE, "a", "clear", START)], START)
    history.silences = [Silence(id="s", start=START, end=START + 600, by="ann", why="tests")]
    history.step([judged(LATE, "a", "breach", START)], START)
    history.step([judged(LATE, "a", "clear", START + 60)], START + 60)
    assert history.told == []
    assert list(history.book.alerts()) == []


def test_a_silence_keeps_quiet_and_its_end_lets_speak() -> None:
    history = History()
    history.silences = [Silence(id="s", start=START, end=START + 600, by="ann", why="tests", key="pl*", rule="live")]
    assert history.step([signal("planner"), signal("coder")], START) == history.told
    assert [one.key for one in history.told] == ["coder"]
    assert history.step([], START + 599) == []
    assert [one.key for one in history.step([], START + 600)] == ["planner"]
    history.silences = [Silence(id="s", start=START, end=START + 9_999, by="ann", why="tests")]
    assert [one.state for one in history.step([signal("planner", state="resolved")], START + 700)] == ["resolved"]


@pytest.mark.parametrize(
    ("members", "covers"),
    [({}, True), ({"metric": "response_time"}, True), ({"metric": "cost"}, False), ({"dimension": "tool"}, False), ({"key": "plan"}, False),
     ({"key": "planner"}, True), ({"key": "plan*"}, True), ({"rule": "panes"}, False), ({"start": START + 1}, False),
     ({"end": START}, False)],
)  # fmt: skip
def test_a_silence_covers_what_it_names(members: dict[str, object], covers: object) -> None:
    silence = Silence(**{"id": "s", "start": START, "end": START + 1, "by": "ann", "why": "tests", **members})
    assert silence.covers(signal(), START) is covers


def test_a_rule_that_fires_inhibits_for_its_key_and_one_about_the_whole_for_all() -> None:
    history = History()
    for at in (START, START + 60):
        found = [judged(SLOW, "a", "breach", at), judged(LATE, "a", "breach", at), judged(LATE, "b", "breach", at)]
        history.step(found, START)
    assert [(one.detector, one.key) for one in history.told] == [("late", "a"), ("late", "b"), ("slow", "a")]  # slow had to hold first
    history = History()
    history.step([judged(LATE, "a", "breach", START), signal("b"), judged(AWAY, "", "breach", START)], START)
    assert [one.detector for one in history.told] == ["late", "away"]  # though the anomaly came before what inhibits it
    assert [one.detector for one in history.step([judged(AWAY, "", "clear", START + 60)], START)] == []
    assert [one.detector for one in history.step([judged(AWAY, "", "clear", START + 120)], START)] == ["away", "live"]


def test_of_anomalies_only_what_a_rule_wants_is_told() -> None:
    assert anomaly_rule(RULES, signal(severity=Severity.LOW)) is None
    assert anomaly_rule(RULES, signal()) is RULES[3]
    picky = [AnomalyRule(name="a", metrics=("cost",)), AnomalyRule(name="b", dimensions=("tool",))]
    assert anomaly_rule(picky, signal()) is None
    assert anomaly_rule(picky, signal(metric="cost")) is picky[0]


def test_a_pending_alert_says_nothing() -> None:
    alert = Alert(of_rule(SLOW, "a", START), START, firing=False)
    assert spoken(alert, quiet=False) == (alert, None)


KEYS = st.sampled_from(["a", "b"])
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["slow", "late", "away"]), KEYS, st.sampled_from(["breach", "between", "clear"])),
    st.tuples(st.just("live"), KEYS, st.sampled_from([*Severity, "resolved"]), st.integers(0, 2)),
    st.tuples(st.just("silence"), KEYS),
    st.tuples(st.just("unsilence")),
)  # fmt: skip


def play(steps: list[list[tuple[object, ...]]], restarts: frozenset[int]) -> History:
    history, named = History(), {rule.name: rule for rule in RULES}
    for minute, events in enumerate(steps):
        at = START + 60 * minute
        found: list[Judgement | Signal] = []
        for what, *rest in events:
            if what == "silence":
                history.silences.append(Silence(id="s", start=at, end=at + 120, by="ann", why="tests", key=rest[0]))
            elif what == "unsilence":
                history.silences.clear()
            elif what == "live":
                key, said, incident = rest
                over = said == "resolved"
                members = {"state": "resolved" if over else "firing", "severity": Severity.LOW if over else said}
                found.append(signal(key, since=START + incident, at=at, **members))
            else:
                found.append(judged(named[what], "" if what == "away" else rest[0], rest[1], at))
        if minute in restarts:
            history.restart()
        history.step(found, at)
    return history


@given(st.lists(st.lists(EVENTS, max_size=4), max_size=25), st.frozensets(st.integers(0, 24)))
def test_any_history_tells_each_incident_rising_and_ends_it_once_and_restarts_change_nothing(
    steps: list[list[tuple[object, ...]]], restarts: frozenset[int]
) -> None:
    history = play(steps, frozenset())
    runs: dict[str, list[Signal]] = {}
    for one in history.told:
        runs.setdefault(series_of(one), []).append(one)
    for told in runs.values():
        assert told[0].state == "firing"
        for before, after in pairwise(told):
            if after.state == "resolved":
                assert before.state == "firing"
                assert before.dedup_key == after.dedup_key
            elif before.state == "firing":
                assert before.dedup_key == after.dedup_key
                assert after.severity.rank > before.severity.rank
    assert play(steps, restarts).told == history.told
    assert dict(play(steps, restarts).book.items()) == dict(history.book.items())
