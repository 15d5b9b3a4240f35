"""What a rule says of a window: bounds, hysteresis, percentages, burn rates, silence."""

from __future__ import annotations

import pytest
from tests.unit.alerting import SPECS, START, pane_of, tasks

from tallyroll.analytics.alerts.evaluate import Window, judge_absence, judge_burn, judge_gauge, judge_threshold, read
from tallyroll.analytics.alerts.rules import AbsenceRule, BurnRateRule, GaugeRule, ThresholdRule, rules_from
from tallyroll.analytics.pane import EMPTY, Pane
from tallyroll.analytics.signal import Severity

WINDOW = Window(START + 60, START)


def rule(**members: object) -> ThresholdRule:
    given = {"name": "slow", "metric": "response_time", "function": "avg", "comparison": ">", "value": 100, "dimension": "agent"}
    return ThresholdRule(**{**given, **members})


def verdict(pane: Pane, metric: str = "response_time", **members: object) -> str:
    return judge_threshold(rule(metric=metric, **members), SPECS[metric], "planner", pane, WINDOW).verdict


@pytest.mark.parametrize(
    ("comparison", "beyond"),
    [(">", {101: True, 100: False}), (">=", {100: True, 99: False}),
     ("<", {99: True, 100: False}), ("<=", {100: True, 101: False})],
)  # fmt: skip
def test_comparisons_at_the_bound(comparison: str, beyond: dict[int, bool]) -> None:
    for value, bad in beyond.items():
        assert verdict(pane_of([value]), comparison=comparison) == ("breach" if bad else "clear")


def test_with_hysteresis_a_value_has_to_come_back_all_the_way() -> None:
    assert [verdict(pane_of([value]), clear=80) for value in (101, 100, 81, 80, 79)] == ["breach", "between", "between", "clear", "clear"]
    below = [verdict(pane_of([value]), comparison="<", clear=120) for value in (99, 100, 119, 120)]
    assert below == ["breach", "between", "between", "clear"]


def test_too_few_values_say_nothing() -> None:
    assert verdict(pane_of([500, 500]), min_count=3) == "clear"
    assert verdict(pane_of([500, 500, 500]), min_count=3) == "breach"
    assert verdict(EMPTY) == "clear"


def test_no_values_are_no_zero_but_for_counts() -> None:
    assert verdict(EMPTY, comparison="<", function="min") == "clear"
    assert verdict(EMPTY, comparison="<", function="count", value=1) == "breach"
    assert verdict(EMPTY, metric="throughput", comparison="<", function="per_minute", value=1) == "breach"


def test_percentages_and_rates_per_minute() -> None:
    success, throughput, cost = SPECS["success"], SPECS["throughput"], SPECS["cost"]
    assert read(tasks(8, 2), "success_rate", success, 60) == 75
    assert read(tasks(8, 2), "error_rate", success, 60) == 25
    assert read(EMPTY, "success_rate", success, 60) is None
    assert read(pane_of([1] * 30), "per_minute", throughput, 300) == 6
    assert read(pane_of([2_500_000]), "sum", cost, 60) == 2.5  # kept in millionths
    assert read(pane_of([2_500_000]), "count", cost, 60) == 1


def test_a_signal_says_what_who_since_when_and_how_much() -> None:
    judged = judge_threshold(rule(severity=Severity.HIGH), SPECS["response_time"], "planner", pane_of([5_200]), WINDOW)
    signal = judged.signal
    assert signal is not None
    assert judged.series == "response_time|agent|planner|slow"
    assert signal.dedup_key == f"response_time|agent|planner|slow|{START}"
    assert signal.summary == "response_time avg of agent planner is 5200 ms, above 100, over 1 min"
    assert (signal.value, signal.threshold, signal.unit, signal.window_s, signal.severity) == (5_200, 100, "ms", 60, "high")


BURN = BurnRateRule(name="burn", objective=99, factor=14.4, window_s=3_600, short_s=300, min_count=50)


@pytest.mark.parametrize(
    ("long", "short", "burns"),
    [
        (tasks(100, 20), tasks(10, 2), True),
        (tasks(1000, 144), tasks(1000, 144), True),  # exactly 14.4 times
        (tasks(1000, 143), tasks(10, 5), False),
        (tasks(100, 20), tasks(10, 0), False),  # it is over
        (tasks(100, 20), EMPTY, False),
        (tasks(49, 49), tasks(49, 49), False),  # too few to say
        (tasks(50, 50), tasks(1, 1), True),
        (EMPTY, EMPTY, False),
    ],
)
def test_a_budget_burns_when_both_windows_say_so(long: Pane, short: Pane, burns: object) -> None:
    judged = judge_burn(BURN, "", long, short, WINDOW)
    assert (judged.verdict == "breach") is burns
    if judged.signal is not None:
        assert judged.signal.deviation == pytest.approx(judged.signal.value / judged.signal.baseline)
        assert judged.signal.deviation >= 14.4 - 1e-9


def test_a_burn_rate_is_told_in_words() -> None:
    signal = judge_burn(BURN, "", tasks(200, 40), tasks(20, 4), WINDOW).signal
    assert signal is not None
    assert signal.summary == (
        "20 percent of 200 success of all failed within 1 h: the budget of an objective of 99 percent burns 20 times too fast"
    )


def test_absence_is_a_key_without_values() -> None:
    silent = AbsenceRule(name="silent", metric="events_processed", dimension="agent", window_s=300)
    assert judge_absence(silent, "planner", pane_of([1]), WINDOW).verdict == "clear"
    judged = judge_absence(silent, "planner", EMPTY, WINDOW)
    assert judged.signal is not None
    assert judged.signal.summary == "agent planner has no events_processed for 5 min"
    assert judged.signal.since == WINDOW.end - 300


def test_a_gauge_that_nobody_measured_is_neither_good_nor_bad() -> None:
    behind = GaugeRule(name="behind", gauge="lag_records", comparison=">", value=100)
    assert [judge_gauge(behind, value, START).verdict for value in (101, 100, None)] == ["breach", "clear", "between"]
    judged = judge_gauge(behind, 101, START)
    assert judged.signal is not None
    assert judged.signal.summary == "lag_records is 101 records, above 100"


def test_rules_of_a_file_can_be_judged() -> None:
    text = '[[rule]]\nkind = "threshold"\nname = "failing"\nmetric = "success"\nfunction = "success_rate"\ncomparison = "<"\nvalue = 90'
    failing = rules_from(text, SPECS.values(), toml=True)[-1]
    assert isinstance(failing, ThresholdRule)
    assert judge_threshold(failing, SPECS["success"], "", tasks(100, 11), WINDOW).verdict == "breach"
