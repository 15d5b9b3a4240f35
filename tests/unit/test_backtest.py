"""What a detector would have said of the past: alarms, how many a day, how right, how quick."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.analytics.anomalies.backtest import Alarm, backtest
from tallyroll.analytics.anomalies.detectors import Ensemble
from tallyroll.ports import Score


class Told:
    """A detector that takes values for scores, and expects a half."""

    threshold: Final = 0.75

    def score(self, value: float) -> Score:
        return Score(value, 0.5)


def scores(count: int, loud: dict[int, float]) -> list[float | None]:
    return [loud.get(at, 0.1) for at in range(count)]


def test_alarms_have_their_first_pane_their_worst_score_and_their_end() -> None:
    found = backtest(scores(1_440, {100: 0.8, 102: 0.9, 500: 0.95}), Told())
    assert found.alarms == [Alarm(100, 0.9, 103), Alarm(500, 0.95, 501)]
    assert found.alarms_per_day == 2
    assert (found.precision, found.recall, found.panes_to_detection) == (None, None, None)


def test_alarms_per_day_go_by_the_length_of_a_pane() -> None:
    assert backtest(scores(1_440, {100: 0.8}), Told(), pane_s=3_600).alarms_per_day == pytest.approx(1 / 60)
    assert backtest([], Told()).alarms_per_day == 0


def test_precision_recall_and_time_to_detection() -> None:
    labels = [(100, 119), (400, 419), (800, 819)]
    found = backtest(scores(1_440, {104: 0.8, 300: 0.85, 410: 0.9}), Told(), labels=labels)
    assert found.precision == pytest.approx(2 / 3)
    assert found.recall == pytest.approx(2 / 3)
    assert found.panes_to_detection == (4 + 10) / 2


def test_a_label_holds_its_first_and_its_last_pane() -> None:
    for at, precision in ((99, 0), (100, 1), (119, 1), (120, 0)):
        assert backtest(scores(300, {at: 0.9}), Told(), labels=[(100, 119)]).precision == precision


def test_an_alarm_that_began_before_and_goes_on_is_found_at_once_but_not_right() -> None:
    found = backtest(scores(300, dict.fromkeys(range(98, 104), 0.9)), Told(), labels=[(100, 119)])
    assert (found.precision, found.recall, found.panes_to_detection) == (0, 1, 0)


def test_where_there_is_nothing_to_divide_by_there_is_no_number() -> None:
    silent = backtest(scores(300, {}), Told(), labels=[(100, 119)])
    assert (silent.precision, silent.recall, silent.panes_to_detection) == (None, 0, None)
    unlabelled = backtest(scores(300, {10: 0.9}), Told(), labels=[])
    assert (unlabelled.precision, unlabelled.recall, unlabelled.panes_to_detection) == (0, None, None)


def test_the_threshold_is_the_detectors_own_unless_another_is_given() -> None:
    values = scores(300, {100: 0.7, 200: 0.8})
    assert [alarm.first for alarm in backtest(values, Told()).alarms] == [200]
    assert [alarm.first for alarm in backtest(values, Told(), threshold=0.6).alarms] == [100, 200]
    assert backtest(values, Told(), threshold=0.9).alarms == []


def test_the_good_side_and_the_warm_up_are_left_out() -> None:
    values = scores(300, {100: 0.8, 250: 0.9})
    assert backtest(values, Told(), bad="down").alarms == []
    assert [alarm.first for alarm in backtest(values, Told(), bad="up").alarms] == [100, 250]
    assert [alarm.first for alarm in backtest(values, Told(), warm_up=101).alarms] == [250]


def test_panes_without_a_value_are_no_zeros_and_end_incidents() -> None:
    values = scores(300, {100: 0.8, 111: 0.9})
    values[101:111] = [None] * 10
    assert backtest(values, Told()).alarms == [Alarm(100, 0.8, 101), Alarm(111, 0.9, 112)]


@given(st.lists(st.sampled_from([None, 0.1, 0.5, 0.76, 0.8, 0.9, 0.99]), max_size=400), st.lists(st.integers(0, 399), max_size=6))
def test_shares_are_shares_and_alarms_are_apart(values: Sequence[float | None], cuts: list[int]) -> None:
    ends = sorted(set(cuts))
    labels = [(first, last) for first, last in zip(ends[::2], ends[1::2], strict=False)]
    found = backtest(values, Told(), labels=labels)
    assert all(share is None or 0 <= share <= 1 for share in (found.precision, found.recall))
    assert found.panes_to_detection is None or found.panes_to_detection >= 0
    for one, later in zip(found.alarms, found.alarms[1:], strict=False):
        assert one.first < one.end <= later.first
    assert all(alarm.peak >= Told.threshold for alarm in found.alarms)


def test_the_ensemble_finds_a_planted_incident_and_nothing_else() -> None:
    values = np.random.default_rng(1).normal(100, 10, 1_000)
    values[700:710] += 300
    found = backtest(values.tolist(), Ensemble(), labels=[(700, 709)], bad="up")
    assert (found.precision, found.recall, found.panes_to_detection) == (1, 1, 0)
    assert backtest(values.tolist(), Ensemble(), labels=[(700, 709)], bad="down").alarms == []
