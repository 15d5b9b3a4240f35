"""Threshold rules on open panes: they fire when the pane does, look only where they have to, and show the events."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.alerting import SPECS, START, Kernel, Run, Seen, Value, event_id
from tests.yardstick import at_most

from tallyroll.analytics.alerts.evaluate import Window, judge_threshold
from tallyroll.analytics.alerts.live import OLDEST_S, LiveRules
from tallyroll.analytics.alerts.rules import ThresholdRule


def rule(**members: object) -> ThresholdRule:
    given = {"name": "slow", "metric": "response_time", "function": "max", "comparison": ">", "value": 100, "dimension": "agent"}
    return ThresholdRule(**{**given, **members})


def fired(kernel: Kernel, live: LiveRules, *values: Value, firing: frozenset[str] = frozenset(), now: int = START) -> list[str]:
    return [one.signal.key for one in live.judge(kernel.run(*values), firing.__contains__, now) if one.signal is not None]


@pytest.mark.parametrize("function", ["max", "avg", "median", "p95", "p99"])
def test_a_value_beyond_the_bound_fires_with_its_evidence(function: str) -> None:
    kernel, live = Kernel(), LiveRules([rule(function=function)], list(SPECS.values()))
    [judged] = live.judge(kernel.run(Value("a", 50), Value("b", 500), Value("c", 20)), lambda _: False, START)
    assert judged.signal is not None
    assert (judged.signal.key, judged.signal.since, judged.signal.at) == ("b", START, START + 60)
    assert [(one.event_id, str(one.position)) for one in judged.signal.evidence] == [(event_id(1), "task-events/0/1")]


def test_at_most_five_events_are_shown_the_newest_first() -> None:
    kernel, live = Kernel(), LiveRules([rule()], list(SPECS.values()))
    [judged] = live.judge(kernel.run(*[Value("a", 500)] * 8), lambda _: False, START)
    assert judged.signal is not None
    assert [one.position.offset for one in judged.signal.evidence] == [7, 6, 5, 4, 3]


def test_what_fires_already_is_not_looked_at_again() -> None:
    kernel, live = Kernel(), LiveRules([rule()], list(SPECS.values()))
    assert fired(kernel, live, Value("a", 500), firing=frozenset({"response_time|agent|a|slow"})) == []
    assert kernel.looked == []


def test_keys_without_a_value_beyond_the_bound_are_not_looked_at() -> None:
    kernel, live = Kernel(), LiveRules([rule(function="avg")], list(SPECS.values()))
    assert fired(kernel, live, *[Value(f"agent-{at}", 60) for at in range(100)]) == []
    assert kernel.looked == []


def test_other_keys_other_metrics_and_old_panes_are_left_alone() -> None:
    kernel, live = Kernel(), LiveRules([rule(keys=("a",)), rule(name="other", metric="queue_time")], list(SPECS.values()))
    assert fired(kernel, live, Value("a", 500), Value("b", 500)) == ["a"]
    assert fired(kernel, live, Value("a", 500, START - OLDEST_S), now=START + 1) == []


def test_a_rule_that_has_to_hold_or_spans_panes_is_not_judged_live() -> None:
    kernel = Kernel()
    live = LiveRules([rule(for_s=60), rule(name="b", window_s=300), rule(name="c", function="stddev")], list(SPECS.values()))
    assert fired(kernel, live, Value("a", 500)) == []


def test_a_pane_with_too_few_values_is_watched_until_it_has_enough() -> None:
    kernel, live = Kernel(), LiveRules([rule(function="avg", min_count=3)], list(SPECS.values()))
    assert [fired(kernel, live, Value("a", value)) for value in (900, 1, 1)] == [[], [], ["a"]]


def test_counts_are_looked_at_when_they_can_have_got_there() -> None:
    kernel, live = Kernel(), LiveRules([rule(function="count", comparison=">=", value=50)], list(SPECS.values()))
    assert [fired(kernel, live, Value("a", 1)) for _ in range(50)] == [*[[]] * 49, ["a"]]
    assert len(kernel.looked) == 2


def test_a_falling_success_rate_fires() -> None:
    kernel = Kernel("success")
    live = LiveRules([rule(metric="success", function="success_rate", comparison="<", value=60, min_count=4)], list(SPECS.values()))
    assert [fired(kernel, live, Value("a", ok)) for ok in (1, 0, 1, 0)] == [[], [], [], ["a"]]


VALUES = st.lists(
    st.lists(
        st.builds(Value, st.sampled_from("abc"), st.sampled_from([1.0, 90.0, 99.5, 101.0, 300.0]), st.sampled_from([START, START + 60])),
        min_size=1, max_size=5,
    ),
    max_size=12,
)  # fmt: skip


@given(
    VALUES,
    st.sampled_from(["max", "min", "avg", "median", "p95", "count", "sum", "per_minute"]),
    st.sampled_from([">", ">=", "<", "<="]),
    st.integers(1, 4),
    st.sampled_from([3.0, 100.0, 400.0]),
)
def test_it_fires_exactly_when_a_pane_that_was_looked_at_whole_would(
    runs: list[list[Value]], function: str, comparison: str, min_count: int, bound: float
) -> None:
    if comparison[0] == "<" and function in ("count", "sum", "per_minute"):
        return  # judged when the pane is closed
    one = rule(function=function, comparison=comparison, min_count=min_count, value=bound)
    kernel, live = Kernel(), LiveRules([one], list(SPECS.values()))
    told: set[tuple[str, int]] = set()
    for values in runs:
        touched = {(value.key, value.start) for value in values}
        found = {(judged.signal.key, judged.signal.since) for judged in live.judge(kernel.run(*values), lambda _: False, START)}
        judged = [
            judge_threshold(one, SPECS["response_time"], key, kernel.panes[key, start], Window(start + 60, start)) for key, start in touched
        ]
        due = {(place.signal.key, place.signal.since) for place in judged if place.signal is not None}
        told |= found
        assert found <= due
        assert due <= told


@pytest.mark.slow
def test_ten_thousand_events_a_second_cost_a_small_part_of_a_core() -> None:
    """Runs of 200 values over 1,000 agents, as 20 ms of 10,000 events a second are, with five rules."""
    rules = [
        rule(name="r1", value=1e6), rule(name="r2", function="p95", value=1e6), rule(name="r3", function="avg", value=1e6),
        rule(name="r4", function="count", value=1e6), rule(name="r5", function="min", comparison="<", value=1),
    ]  # fmt: skip
    rng, live, kernel = np.random.default_rng(1), LiveRules(rules, list(SPECS.values())), Kernel()
    keys = [f"agent-{at}" for at in range(1_000)]
    runs = []
    for _ in range(250):  # five seconds
        which, key_of = np.unique(rng.integers(0, 1_000, 200), return_inverse=True)
        observed = Seen(
            SPECS["response_time"], "agent", [keys[at] for at in which], key_of.astype(np.int32), rng.lognormal(6, 1, 200),
            np.full(200, START), np.arange(200, dtype=np.int32),
        )  # fmt: skip
        runs.append(Run(kernel, [observed], 0))
    with at_most(1.0):
        for run in runs:
            assert list(live.judge(run, lambda _: False, START)) == []
