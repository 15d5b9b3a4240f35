"""Counters: there from the start, bounded, and the same however observations arrive."""

from __future__ import annotations

import ast
import math
import re
from bisect import bisect_left
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll import telemetry
from tallyroll.events.names import OTHER_NAME
from tallyroll.telemetry import LABELS, MAX_VALUES, METRICS, Counters, Metric

ROOT = Path(__file__).parents[2]
PLAIN = Metric("plain_total", "counter", "things", "Things.")
SORTED = Metric("sorted_total", "counter", "things", "Things by outcome.", ("outcome",), known={"outcome": ("good", "bad")})
TOOLS = Metric("tools_total", "counter", "calls", "Calls.", ("tool", "outcome"), known={"outcome": ("good", "bad")})
LEVEL = Metric("level", "gauge", "things", "Now.", ("topic",))
TOOK = Metric("took_seconds", "histogram", "seconds", "How long.", buckets=(0.1, 1, 10))
BY_PARTITION = Metric("lag", "gauge", "records", "Lag.", ("topic", "partition"))


def readings(counters: Counters, metric: Metric) -> dict[tuple[str, ...], float]:
    return {reading.values: reading.value for found, rows in counters.readings() if found.name == metric.name for reading in rows}


def test_counters_are_there_at_0_before_anything_is_counted() -> None:
    counters = Counters([PLAIN, SORTED, LEVEL, TOOLS])
    assert readings(counters, PLAIN) == {(): 0}
    assert readings(counters, SORTED) == {("good",): 0, ("bad",): 0}
    assert readings(counters, TOOLS) == {}, "which tools there are is not known"
    assert readings(counters, LEVEL) == {}, "a gauge at 0 would be a statement"


def test_the_first_count_brings_its_neighbours() -> None:
    counters = Counters([TOOLS])
    counters.count(TOOLS, tool="search", outcome="good")
    assert readings(counters, TOOLS) == {("search", "good"): 1, ("search", "bad"): 0}


def test_counting_0_announces_what_can_be_counted() -> None:
    counters = Counters([])
    counters.count(TOOLS, 0, tool="search", outcome="bad")
    assert readings(counters, TOOLS) == {("search", "good"): 0, ("search", "bad"): 0}


def test_the_order_of_labels_does_not_matter() -> None:
    counters = Counters([])
    counters.count(TOOLS, 2, tool="a", outcome="good")
    counters.count(TOOLS, 3, outcome="good", tool="a")
    assert counters.value(TOOLS, tool="a", outcome="good") == counters.value(TOOLS, tool="a") == counters.value(TOOLS) == 5


def test_a_label_has_few_values_and_nothing_is_lost() -> None:
    counters = Counters([])
    for number in range(MAX_VALUES + 100):
        counters.count(TOOLS, tool=f"tool-{number}", outcome="good")
    found = readings(counters, TOOLS)
    assert len({values[0] for values in found}) == MAX_VALUES + 1
    assert found[OTHER_NAME, "good"] == 100
    assert sum(found.values()) == MAX_VALUES + 100


def test_memory_does_not_grow_with_values_that_have_no_place() -> None:
    counters = Counters([])
    for number in range(5_000):
        counters.count(TOOLS, tool=f"tool-{number}", outcome="good", unheard_of=str(number))
    assert len(counters._called) <= 2 * MAX_VALUES


def test_partitions_are_kept_apart_beyond_that() -> None:
    counters = Counters([])
    for number in range(200):
        counters.observe(BY_PARTITION, number, topic="task-events", partition=str(number))
    assert len(readings(counters, BY_PARTITION)) == 200


def test_nan_ends_a_gauge_and_is_no_observation() -> None:
    counters = Counters([LEVEL, TOOK])
    for topic in ("a", "b"):
        counters.observe(LEVEL, 4, topic=topic)
    counters.observe(LEVEL, math.nan, topic="a")
    counters.observe(LEVEL, math.nan, topic="never seen")
    counters.observe(TOOK, math.nan)
    assert readings(counters, LEVEL) == {("b",): 4}
    assert readings(counters, TOOK) == {(): 0}
    counters.observe(LEVEL, 5, topic="a")
    assert readings(counters, LEVEL) == {("a",): 5, ("b",): 4}


@given(st.lists(st.floats(0, 100), max_size=50))
def test_many_observations_at_once_are_many_single_ones(values: list[float]) -> None:
    singly, together = Counters([TOOK]), Counters([TOOK])
    for value in values:
        singly.observe(TOOK, value)
    places = [bisect_left(TOOK.buckets, value) for value in values]
    together.observe_many(TOOK, [places.count(place) for place in range(len(TOOK.buckets) + 1)], sum(values))
    one, other = (rows[0] for counters in (singly, together) for _, rows in counters.readings())
    assert one.counts == other.counts
    assert one.value == pytest.approx(other.value)
    assert sum(one.counts) == len(values)


def test_a_bound_belongs_to_its_bucket() -> None:
    counters = Counters([TOOK])
    for value in (0.1, 0.10001, 10, 10.1):
        counters.observe(TOOK, value)
    ((_, (reading,)),) = counters.readings()
    assert reading.counts == (1, 1, 1, 1)


@pytest.mark.parametrize("label", ["agent", "agent_id", "task_id", "user", "session"])
def test_a_label_without_a_bound_is_refused(label: str) -> None:
    with pytest.raises(ValueError, match=label):
        Metric("some_total", "counter", "things", "Things.", (label,))


def test_no_metric_names_an_agent_a_task_or_a_user() -> None:
    assert not {label for label in LABELS if re.search("agent|task|user|session|event|workflow", label)}
    assert {label for metric in METRICS for label in metric.labels} <= LABELS


def test_buckets_belong_to_histograms_and_ascend() -> None:
    for buckets, kind in product([(), (2.0, 1.0), (1.0, 1.0)], ["histogram"]):
        with pytest.raises(ValueError, match="buckets"):
            Metric("took_seconds", kind, "seconds", "How long.", buckets=buckets)
    with pytest.raises(ValueError, match="buckets"):
        Metric("some_total", "counter", "things", "Things.", buckets=(1,))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_names_say_kind_and_base_unit(metric: Metric) -> None:
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert metric.unit not in ("ms", "milliseconds", "us", "kB", "MB", "percent")
    if metric.unit in ("seconds", "bytes"):
        assert metric.name.removesuffix("_total").endswith(metric.unit)
    assert re.fullmatch(r"[a-z][a-z0-9_]*", metric.name)
    assert metric.help.endswith(".")


def test_every_call_gives_the_labels_of_its_metric() -> None:
    metrics = {name: value for name, value in vars(telemetry).items() if isinstance(value, Metric)}
    wrong, checked = [], 0
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("count", "observe", "observe_many") and node.args):
                continue
            metric = metrics.get(getattr(node.args[0], "id", ""))
            given_labels = [keyword.arg for keyword in node.keywords if keyword.arg != "amount"]
            if metric is not None and None not in given_labels:
                checked += 1
                if set(given_labels) != set(metric.labels):
                    wrong.append(f"{path.name}:{node.lineno} {metric.name}")
    assert wrong == []
    assert checked > 20
