"""Analytics under the names that users know: every form in which they call them, on the default roll."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from tests.environment import environment

import tallyroll
from tallyroll.compat import analytics_pipeline
from tallyroll.compat.analytics_pipeline import (
    AgentAnalyticsEngine,
    AgentPerformance,
    AggregationFunction,
    AnomalyAlert,
    AnomalyDetector,
    Metric,
    MetricType,
    OptimizedAnalyticsEngine,
    OptimizedTimeSeries,
    PerformanceProfile,
    SystemPerformance,
    TimeSeries,
    TimeWindow,
    get_agent_performance_metrics,
    get_analytics_engine,
    get_system_performance_dashboard,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
FLAT = {
    *("agent_id", "time_window", "window_start", "window_end", "watermark", "truncated", "coverage", "as_of"),
    *("events_processed", "tasks_started", "tasks_completed", "tasks_failed", "tokens"),
    *("response_time_avg", "response_time_median", "response_time_p95", "response_time_p99", "tool_latency_p95"),
    *("success_rate", "error_rate", "throughput", "cost", "resource_usage"),
}


@pytest.fixture
async def published() -> AsyncIterator[None]:
    """Two tasks of one agent on the default roll, of 2 s and of 4 s, the second one failed."""
    tallyroll.configure("sqlite://:memory:", flush_interval_ms=20)
    usage = {"agent_id": "agent-12", "tokens": 500, "cost": "0.25"}
    await tallyroll.publish_task_event("task.started", "task-1", {"agent_id": "agent-12"})
    await tallyroll.publish_task_event("task.completed", "task-1", {**usage, "duration_ms": 2_000})
    await tallyroll.publish_task_event("task.failed", "task-2", {**usage, "execution_time": 4})
    yield
    await tallyroll.close_default()
    tallyroll.reset_defaults()


@pytest.mark.usefixtures("published")
async def test_the_numbers_of_an_agent_in_every_form_of_the_call() -> None:
    found = await get_agent_performance_metrics("agent-12")
    assert FLAT <= found.keys() == AgentPerformance.__annotations__.keys() | _inherited(AgentPerformance)
    assert (found["agent_id"], found["time_window"]) == ("agent-12", "1hour")
    assert (found["events_processed"], found["tasks_started"], found["tasks_completed"], found["tasks_failed"]) == (3, 1, 1, 1)
    assert (found["response_time_avg"], found["response_time_min"], found["response_time_max"]) == (3_000, 2_000, 4_000)
    assert (found["success_rate"], found["error_rate"], found["tokens"], found["cost"]) == (50, 50, 1_000, Decimal("0.5"))
    assert found["throughput"] == pytest.approx(1 / 60, rel=0.02)
    for window in ("1min", "5min", "15min", "1hour", "1day"):
        assert (await get_agent_performance_metrics("agent-12", window))["time_window"] == window
        assert (await get_agent_performance_metrics("agent-12", time_window=window))["tokens"] == 1_000
        assert (await get_agent_performance_metrics(agent_id="agent-12", time_window=window))["tokens"] == 1_000
    assert (await get_agent_performance_metrics("agent-12", TimeWindow(timedelta(hours=2))))["tokens"] == 1_000
    assert (await tallyroll.get_agent_performance_metrics("agent-12", "1day"))["tokens"] == 1_000


def _inherited(of: type) -> set[str]:
    return set(inspect.get_annotations(of)) | set(getattr(of, "__required_keys__", ()))


@pytest.mark.usefixtures("published")
async def test_an_unknown_agent_has_no_invented_values_and_an_unknown_window_is_an_error() -> None:
    found = await get_agent_performance_metrics("agent-1")
    assert {name for name in FLAT if found[name] is None} >= {  # type: ignore[literal-required]  # every name is one of it
        *("response_time_avg", "response_time_median", "response_time_p95", "response_time_p99"),
        *("success_rate", "error_rate", "tool_latency_p95"),
    }
    assert (found["events_processed"], found["tokens"], found["cost"], found["throughput"]) == (0, 0, 0, 0)
    assert found["resource_usage"] == {}
    with pytest.raises(ValueError, match="accepted: 1min, 5min, 15min, 1hour, 1day"):
        await get_agent_performance_metrics("agent-12", "2hours")


@pytest.mark.usefixtures("published")
async def test_the_dashboard_and_the_engine() -> None:
    whole = await get_system_performance_dashboard()
    assert whole.keys() == SystemPerformance.__annotations__.keys() | _inherited(SystemPerformance)
    assert (whole["agents"], whole["events_processed"], whole["alerts"]) == (1, 3, [])
    assert [one["agent_id"] for one in whole["top_performers"]] == ["agent-12"]
    engine = await get_analytics_engine()
    assert engine is await get_analytics_engine()
    assert type(engine) is AgentAnalyticsEngine is OptimizedAnalyticsEngine
    assert list(engine.windows) == ["1min", "5min", "15min", "1hour", "1day"]
    await engine.start()
    one = await engine.get_agent_analytics("agent-12", "5min")
    assert (await engine.get_system_analytics("5min"))["tokens"] == one["tokens"] == 1_000
    profile = PerformanceProfile.of(one)
    assert (profile.success_rate, profile.task_completion_rate, profile.response_time_avg) == (50, 100, 3_000)
    assert profile.to_dict()["last_updated"] == profile.last_updated.isoformat()  # type: ignore[union-attr]  # there were events
    await engine.stop()
    assert (await engine.get_agent_analytics("agent-12", "5min"))["tokens"] == 1_000


@pytest.mark.slow
def test_the_setting_chooses_the_default_window() -> None:
    code = (
        "import asyncio, tallyroll\n"
        "from tallyroll.compat.analytics_pipeline import get_agent_performance_metrics\n"
        "async def main():\n"
        "    print((await get_agent_performance_metrics('a'))['time_window'])\n"
        "    await tallyroll.close_default()\n"
        "asyncio.run(main())\n"
    )

    def run(window: str) -> subprocess.CompletedProcess[str]:
        environ = environment(TALLYROLL_URL="sqlite://:memory:", ANALYTICS_WINDOW_SIZE=window)
        return subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)

    done = run("15min")
    assert done.stdout == "15min\n", done.stderr
    done = run("1week")
    assert "ANALYTICS_WINDOW_SIZE: expected one of 1min, 5min, 15min, 1hour, 1day" in done.stderr


def test_names_are_all_there_and_no_other() -> None:
    assert not hasattr(analytics_pipeline, "AnomalyDetectors")
    assert all(hasattr(analytics_pipeline, name) for name in analytics_pipeline.__all__)
    assert [function.value for function in AggregationFunction] == ["sum", "avg", "min", "max", "count", "median", "p95", "p99", "stddev"]
    metric = Metric("queue", MetricType.GAUGE, "How many wait.", {"region": "eu"}, 3.0, NOON)
    assert metric.to_dict() == {
        "name": "queue", "type": "gauge", "description": "How many wait.", "labels": {"region": "eu"}, "value": 3.0,
        "timestamp": "2026-01-05T12:00:00+00:00",
    }  # fmt: skip


def test_windows_are_whole_panes_side_by_side_or_sliding() -> None:
    assert TimeWindow(timedelta(minutes=5)).containing(NOON) == [(NOON, NOON + timedelta(minutes=5))]
    assert len(TimeWindow(timedelta(minutes=5), timedelta(minutes=1)).containing(NOON)) == 5
    assert TimeWindow(duration=timedelta(minutes=5), slide=None) == TimeWindow(timedelta(minutes=5))
    with pytest.raises(ValueError, match="pane"):
        TimeWindow(timedelta(seconds=90))


async def test_a_series_of_values() -> None:
    assert TimeSeries is OptimizedTimeSeries
    series = TimeSeries(max_points=100_000, compression_threshold=50_000)
    for second in range(120):
        await series.add_point(NOON + timedelta(seconds=second), float(second))
    assert (await series.get_range(NOON, NOON + timedelta(seconds=1))) == [(NOON, 0.0), (NOON + timedelta(seconds=1), 1.0)]
    minutes = await series.aggregate(TimeWindow(timedelta(minutes=1)), AggregationFunction.AVG, NOON + timedelta(seconds=120))
    assert minutes == [(NOON + timedelta(minutes=1), 89.5)]


def test_the_detector_of_single_values() -> None:
    detector = AnomalyDetector(sensitivity=2.0, min_data_points=10)
    for number in range(60):
        detector.detect_anomaly("response_time", "agent-1", 100 + number % 5)
    alert = detector.detect_anomaly("response_time", "agent-1", 900.0)
    assert isinstance(alert, AnomalyAlert)
    assert (alert.severity, alert.agent_id, alert.metric) == ("critical", "agent-1", "response_time")
    assert alert.expected_value == pytest.approx(102, abs=1)
    assert detector.detect_anomaly("response_time", "agent-12", 900.0) is None, "another agent's values are not its own"


WITHOUT = """
import sys
for name in ("numpy", "prometheus_client", "pyarrow", "confluent_kafka"):
    sys.modules[name] = None  # as if it were not installed
import asyncio, tallyroll
from tallyroll import MissingExtra

async def main():
    async with tallyroll.Roll.open("sqlite://:memory:") as roll:
        await roll.publish(tallyroll.AgentEvent("agent.started", "a", "agent", {}))
        for ask in (roll.analytics, roll.open_alerts, lambda: roll.follow("analytics"), lambda: roll.end_silence("x")):
            try:
                await ask()
            except MissingExtra as error:
                print(error)
    tallyroll.configure("sqlite://:memory:")
    from tallyroll.compat.analytics_pipeline import get_agent_performance_metrics
    try:
        await get_agent_performance_metrics("a")
    except MissingExtra as error:
        print(error)
    try:
        from tallyroll.compat.analytics_pipeline import AnomalyDetector
        AnomalyDetector()
    except MissingExtra as error:
        print(error)
    await tallyroll.close_default()

asyncio.run(main())
"""


@pytest.mark.slow
def test_without_the_extra_everything_else_works_and_analytics_says_how_to_get_it(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["extra 'analytics': not installed; run: pip install 'tallyroll[analytics]'"] * 6
