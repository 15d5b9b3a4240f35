"""``compat.analytics_pipeline.AnomalyDetector``: single values of one's own, judged one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tallyroll.compat.analytics_pipeline import AnomalyAlert, AnomalyDetector


def warm(detector: AnomalyDetector, agent: str = "planner", count: int = 200) -> AnomalyDetector:
    for value in np.random.default_rng(7).normal(100, 10, count).clip(85, 115).tolist():
        detector.detect_anomaly("response_time", agent, value)
    return detector


def test_usual_values_give_none_and_an_unusual_one_an_alert_that_explains_itself() -> None:
    detector = warm(AnomalyDetector(sensitivity=3))
    assert detector.detect_anomaly("response_time", "planner", 104) is None
    alert = detector.detect_anomaly("response_time", "planner", 180)
    assert isinstance(alert, AnomalyAlert)
    assert (alert.metric, alert.agent_id, alert.value, alert.threshold) == ("response_time", "planner", 180, 3)
    assert alert.expected_value == pytest.approx(100, rel=0.02)
    assert alert.deviation > 3
    assert alert.timestamp.utcoffset() is not None
    assert f"response_time of planner is 180, {alert.deviation:.1f} deviations above the usual" in alert.description


def test_both_directions_are_anomalies() -> None:
    alert = warm(AnomalyDetector()).detect_anomaly("response_time", "planner", 5)
    assert alert is not None
    assert "below the usual" in alert.description


def test_severity_is_the_deviation_over_the_sensitivity() -> None:
    found = []
    for times in (1.05, 1.6, 2.6, 4.2):
        detector = warm(AnomalyDetector(sensitivity=4))
        probe = warm(AnomalyDetector(sensitivity=0.001)).detect_anomaly("response_time", "planner", 200)
        assert probe is not None
        spread = (200 - probe.expected_value) / probe.deviation
        alert = detector.detect_anomaly("response_time", "planner", probe.expected_value + 4 * times * spread)
        assert alert is not None
        found.append(str(alert.severity))
    assert found == ["low", "medium", "high", "critical"]


def test_it_is_silent_for_the_first_values_of_each_series() -> None:
    detector = AnomalyDetector(min_data_points=10)
    assert [detector.detect_anomaly("m", "a", value) for value in (1, 1e6, 2, 1e7, 3, 1e5, 1, 2, 3, 4)] == [None] * 10
    for value in range(10):
        assert detector.detect_anomaly("m", "b", value) is None
    assert detector.detect_anomaly("m", "b", 1e6) is not None


def test_series_are_apart_by_metric_and_agent() -> None:
    detector = warm(AnomalyDetector())
    assert detector.detect_anomaly("response_time", "coder", 9_000) is None
    assert detector.detect_anomaly("tokens", "planner", 9_000) is None
    assert detector.detect_anomaly("response_time", "planner", 9_000) is not None


def test_a_value_does_not_count_for_itself_and_an_outlier_does_not_hide_the_next() -> None:
    detector = warm(AnomalyDetector())
    first, second = (detector.detect_anomaly("response_time", "planner", 1e6) for _ in range(2))
    assert first is not None
    assert second is not None
    assert first.deviation > 1e4
    assert second.severity == "critical"


def test_the_series_unused_for_longest_makes_room() -> None:
    detector = warm(warm(AnomalyDetector(max_series=2), "a"), "b")
    assert detector.detect_anomaly("response_time", "a", 100) is None  # used
    detector.detect_anomaly("response_time", "c", 100)
    assert detector.detect_anomaly("response_time", "a", 9_000) is not None
    assert detector.detect_anomaly("response_time", "b", 9_000) is None  # forgotten


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_finite_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="finite"):
        AnomalyDetector().detect_anomaly("m", "a", value)


@pytest.mark.parametrize(("sensitivity", "least", "most"), [(0, 10, 9), (-1, 10, 9), (math.nan, 10, 9), (2, 0, 9), (2, 10, 0)])
def test_settings_that_make_no_sense_are_refused(sensitivity: float, least: int, most: int) -> None:
    with pytest.raises(ValueError, match="sensitivity is above 0"):
        AnomalyDetector(sensitivity, least, max_series=most)
