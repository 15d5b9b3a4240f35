"""The fleet's metrics are what its values come to, whatever runs they arrive in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.alerting import Seen

from tallyroll.analytics.exposition import Exposition
from tallyroll.analytics.pane import EMPTY, Pane
from tallyroll.analytics.spec import BUILT_IN, FLEET
from tallyroll.events.names import OTHER_NAME
from tallyroll.events.position import Position
from tallyroll.telemetry import MAX_VALUES, TASK_DURATION, TASKS, TOKENS, TOOL_CALLS, Counters

SPECS = {spec.name: spec for spec in BUILT_IN}


class Run(NamedTuple):
    observed: Sequence[Seen]

    def evidence(self, row: int) -> tuple[str, Position]:
        return str(row), Position("task-events", 0, row)

    def open_pane(self, metric: str, dimension: str, key: str, start: int) -> Pane:  # noqa: ARG002
        return EMPTY


def seen(metric: str, values: Sequence[float], dimension: str = FLEET, keys: Sequence[str] | None = None) -> Seen:
    names = list(dict.fromkeys(keys)) if keys is not None else [""]
    key_of = [names.index(key) for key in keys] if keys is not None else [0] * len(values)
    count = len(values)
    return Seen(
        SPECS[metric], dimension, names, np.array(key_of, np.int32), np.array(values, np.float64), np.zeros(count, np.int64),
        np.arange(count, dtype=np.int32),
    )  # fmt: skip


def exposed(*runs: Sequence[Seen]) -> Counters:
    counters = Counters()
    exposition = Exposition(counters)
    for observed in runs:
        exposition.observed(Run(observed))
    return counters


@given(st.lists(st.lists(st.floats(0, 1e7), min_size=1, max_size=20), max_size=5))
def test_durations_fall_into_the_buckets_that_single_observations_would(runs: list[list[float]]) -> None:
    singly = Counters()
    for milliseconds in (one for run in runs for one in run):
        singly.observe(TASK_DURATION, milliseconds / 1_000)
    (one,), (other,) = (
        [rows[0] for metric, rows in counters.readings() if metric is TASK_DURATION]
        for counters in (singly, exposed(*([seen("response_time", run)] for run in runs)))
    )
    assert one.counts == other.counts
    assert other.value == pytest.approx(one.value)


def test_tasks_and_tokens_of_the_fleet_are_summed() -> None:
    counters = exposed([seen("success", [1, 0, 1]), seen("tokens", [100, 50])], [seen("success", [0])])
    assert (counters.value(TASKS, outcome="succeeded"), counters.value(TASKS, outcome="failed")) == (2, 2)
    assert counters.value(TOKENS) == 150


def test_what_is_measured_per_agent_is_not_counted_again() -> None:
    counters = exposed([seen("success", [1, 1], "agent", ["a-1", "a-2"]), seen("cost", [3])])
    assert sum(counters.value(metric) for metric in (TASKS, TOKENS, TOOL_CALLS, TASK_DURATION)) == 0


def test_tools_are_counted_by_name_while_they_are_few() -> None:
    calls = ["search", "search", *(f"tool-{number}" for number in range(MAX_VALUES + 9))]
    counters = exposed([seen("tool_success", [1, 0, *([1] * (MAX_VALUES + 9))], "tool", calls)])
    assert (
        counters.value(TOOL_CALLS, tool="search", outcome="succeeded"),
        counters.value(TOOL_CALLS, tool="search", outcome="failed"),
    ) == (1, 1)
    assert counters.value(TOOL_CALLS, tool=OTHER_NAME, outcome="succeeded") == 10
    assert counters.value(TOOL_CALLS) == len(calls)


def test_nothing_of_it_is_stored() -> None:
    exposition = Exposition(Counters())
    assert (exposition.is_urgent, list(exposition.take_documents())) == (False, [])
