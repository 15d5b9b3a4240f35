"""Single values against a baseline that closed panes have made: what is far away is told as it arrives, with the events that show it."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.alerting import START, Kernel, Value, event_id, pane_of

from tallyroll.analytics.anomalies.baseline import FAR, NEAR, WARM_PANES, WARM_VALUES, Baseline, Usual
from tallyroll.analytics.anomalies.live import OLDEST_S, QUIET_S, LiveDetector, quiet_again
from tallyroll.analytics.anomalies.series import SeriesName
from tallyroll.analytics.kernel import Kernel as RealKernel
from tallyroll.analytics.pane import bin_of, value_of
from tallyroll.analytics.signal import Severity, Signal
from tallyroll.analytics.spec import MetricSpec, Path
from tallyroll.events.batch import Batch
from tallyroll.events.names import OTHER_NAME
from tallyroll.events.position import TopicPartition
from tallyroll.events.schema import SCHEMAS


def warm(values: np.ndarray | None = None, panes: int = 20) -> Baseline:
    baseline = Baseline()
    values = np.random.default_rng(3).normal(100, 10, 400) if values is None else values
    for part in np.array_split(values, panes):
        baseline.learn(pane_of(part.tolist()))
    return baseline


def at_distance(usual: Usual, spreads: float) -> float:
    return value_of(round(usual.middle + spreads * usual.spread))


# Baselines


def test_a_baseline_is_the_median_and_half_of_the_middle_two_thirds_in_bins() -> None:
    values = np.random.default_rng(3).lognormal(5, 1, 4_000)
    usual = warm(values).usual()
    assert usual is not None
    low, middle, high = bin_of(np.quantile(values, [0.16, 0.5, 0.84], method="lower")).tolist()
    assert abs(usual.middle - middle) <= 1
    assert usual.spread == pytest.approx((high - low) / 2, abs=1)


def test_it_is_silent_before_ten_panes_and_fifty_values() -> None:
    assert Baseline().usual() is None
    assert warm(np.full(500, 10.0), panes=WARM_PANES - 1).usual() is None
    assert warm(np.full(WARM_VALUES - 1, 10.0), panes=WARM_PANES).usual() is None
    assert warm(np.full(WARM_VALUES, 10.0), panes=WARM_PANES).usual() is not None


def test_panes_without_values_are_not_counted() -> None:
    baseline = warm(panes=WARM_PANES - 1)
    for _ in range(50):
        baseline.learn(pane_of([]))
    assert (baseline.panes, baseline.usual()) == (WARM_PANES - 1, None)


def test_equal_values_have_a_spread_of_ten_percent_nevertheless() -> None:
    assert warm(np.full(400, 250.0)).usual() == Usual(int(bin_of(np.array([250.0]))[0]), 5.0)


def test_it_forgets_slowly_and_stays_small() -> None:
    baseline = warm()
    for _ in range(200):
        baseline.learn(pane_of([1_000.0] * 1_000))
    usual = baseline.usual()
    assert usual is not None
    assert value_of(usual.middle) == pytest.approx(1_000, rel=0.02)
    assert baseline.pane.n <= 21_000
    assert len(msgspec.msgpack.encode(baseline)) < 1_000


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30), st.integers(1, 20))
def test_kept_and_read_again_it_is_the_same(values: list[float], panes: int) -> None:
    baseline = warm(np.array(values * 3), panes)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(baseline), type=Baseline)
    assert (again.usual(), again) == (baseline.usual(), baseline)


# Live


class Watched:
    """A live detector, one baseline for all series, and what it offers."""

    def __init__(self, kernel: Kernel, baseline: Baseline | None, *, opened: tuple[int, int] | None = None, now: int = START) -> None:
        self.kernel = kernel
        self.told: list[Signal] = []
        self.asked: list[SeriesName] = []
        self.usual = None if baseline is None else baseline.usual()
        self.live = LiveDetector(self._usual, lambda _: opened, self.told.extend, lambda: now)

    def _usual(self, name: SeriesName) -> Usual | None:
        self.asked.append(name)
        return self.usual

    def see(self, *values: Value) -> list[Signal]:
        before = len(self.told)
        self.live.observed(self.kernel.run(*values))
        return self.told[before:]

    def far(self, spreads: float, **members: int) -> Value:
        assert self.usual is not None
        return Value("a", at_distance(self.usual, spreads), **members)


def test_one_value_at_eight_spreads_is_told_and_one_nearer_is_not() -> None:
    watched = Watched(Kernel(), warm())
    assert watched.see(watched.far(FAR - 1)) == []
    [signal] = watched.see(watched.far(FAR + 0.2))
    assert (signal.metric, signal.dimension, signal.key, signal.detector) == ("response_time", "agent", "a", "live")
    assert (signal.since, signal.at, signal.severity, signal.threshold) == (START, START + 60, Severity.LOW, FAR)
    assert signal.baseline == pytest.approx(100, rel=0.05)
    assert [(one.event_id, str(one.position)) for one in signal.evidence] == [
        (event_id(1), "task-events/0/1"),
        (event_id(0), "task-events/0/0"),
    ]
    assert f"{signal.value:.4g} ms, where" in signal.summary


def test_three_values_of_one_pane_at_five_spreads_are_told() -> None:
    watched = Watched(Kernel(), warm())
    assert watched.see(watched.far(NEAR + 0.2), watched.far(NEAR + 0.2)) == []
    assert len(watched.see(watched.far(NEAR + 0.2))) == 1
    assert watched.see(watched.far(NEAR + 0.2, start=START + 60)) == []


def test_severity_grows_with_the_distance() -> None:
    watched = Watched(Kernel(), warm())
    found = [watched.see(watched.far(FAR * times + 0.3))[0].severity for times in (1, 1.5, 2.5, 4)]
    assert found == list(Severity)


def test_values_on_the_good_side_are_left_alone() -> None:
    slow = Watched(Kernel(), warm())
    assert slow.see(slow.far(-20)) == []
    assert slow.see(slow.far(20))


def test_without_a_baseline_and_for_the_rest_of_the_keys_nothing_is_told() -> None:
    assert Watched(Kernel(), None).see(Value("a", 1e9)) == []
    watched = Watched(Kernel(), warm())
    assert watched.see(Value(OTHER_NAME, 1e9)) == []
    assert watched.asked == []


def test_a_value_does_not_change_what_it_is_measured_by() -> None:
    watched = Watched(Kernel(), warm())
    assert [one.baseline for _ in range(30) for one in watched.see(watched.far(10))] == [watched.told[0].baseline] * 30


def test_a_metric_that_is_kept_in_millionths_is_held_against_millionths_and_told_of_in_units() -> None:
    price = MetricSpec(
        name="price", unit="EUR", help="Of a task.", event_types=("task.completed",), value=Path("payload.price", 1_000_000),
        per=("agent",), exact=True, scale=1_000_000, bad="up",
    )  # fmt: skip
    kernel, baseline, told = RealKernel([price], SCHEMAS), Baseline(), list[Signal]()
    lane = kernel.open(TopicPartition("task-events", 0))
    live = LiveDetector(lambda _: baseline.usual(), lambda _: None, told.extend, lambda: START)
    for number, cost in enumerate([*[100, 101, 99, 1e-12, 100] * WARM_PANES * 2, 10_000]):
        minute = START + number // 5 * 60
        if number % 5 == 0 and number:
            baseline.learn(kernel.pane("price", "agent", "a", minute - 60))
        body = {
            "specversion": "1.0", "id": str(number), "source": "test", "type": "task.completed",
            "aggregatetype": "task", "aggregateid": "t", "time": datetime.fromtimestamp(minute, UTC).isoformat(),
            "schemaversion": "1.0.0", "data": {"agent_id": "a", "price": cost},
        }  # fmt: skip
        value = msgspec.json.encode(body)
        lane.batches.append(Batch("task-events", 0, offsets=[number], keys=[None], values=[value], timestamps_ms=[-1]))
        run = kernel.run(2**52, observe=True)
        assert run is not None
        live.observed(run)
    [signal] = told
    assert (signal.value, signal.unit) == (10_000, "EUR")
    assert signal.baseline == pytest.approx(100, rel=0.02)
    assert signal.severity is Severity.CRITICAL


def test_history_wakes_nobody() -> None:
    watched = Watched(Kernel(), warm(), now=START + OLDEST_S + 1)
    assert watched.see(watched.far(20)) == []
    assert watched.see(watched.far(20, start=START + 60))


def test_metrics_that_may_not_alarm_are_not_looked_at() -> None:
    watched = Watched(Kernel("tasks_started"), warm())
    assert watched.see(Value("a", 1e9)) == []
    assert watched.asked == []


def test_it_goes_on_with_an_incident_that_is_open_and_begins_anew_after_five_minutes() -> None:
    start = START + 600
    goes_on = Watched(Kernel(), warm(), opened=(START, start - QUIET_S))
    assert goes_on.see(goes_on.far(10, start=start))[0].since == START
    anew = Watched(Kernel(), warm(), opened=(START, start - QUIET_S - 60))
    assert anew.see(anew.far(10, start=start))[0].since == start


def test_an_incident_that_nothing_was_added_to_for_five_minutes_is_over() -> None:
    watched = Watched(Kernel(), warm())
    [signal] = watched.see(watched.far(10))
    alerts = {SeriesName("response_time", "agent", "a"): signal}
    assert quiet_again(alerts, signal.at + QUIET_S - 1) == []
    [over] = quiet_again(alerts, signal.at + QUIET_S)
    assert (over.state, over.dedup_key, over.evidence) == ("resolved", signal.dedup_key, ())
