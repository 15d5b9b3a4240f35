"""Detectors: silent on noise, loud on what is not, and a value never counts for itself."""

from __future__ import annotations

import math
import subprocess
import sys

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.patience import PATIENCE_S

from tallyroll.analytics.anomalies.detectors import SHIPPED_THRESHOLD, Ensemble, EnsembleState, deviations_of, one_sided, said
from tallyroll.analytics.anomalies.history import LONGEST, History, deviations, usual
from tallyroll.analytics.anomalies.incidents import Change, Incidents
from tallyroll.opening import DETECTORS, new_detector
from tallyroll.ports import Detector, Score
from tallyroll.testing.nab import PROFILES, Judged, best, data_folder, one_per_incident, read, score_at

PANES_PER_DAY = 1_440


def noise(seed: int = 1, count: int = 700, kind: str = "normal") -> np.ndarray:
    random, minutes = np.random.default_rng(seed), np.arange(count)
    return {
        "normal": lambda: random.normal(100, 10, count),
        "skewed": lambda: random.lognormal(4, 0.5, count),
        "counts": lambda: random.poisson(20, count).astype(float),
        "daily": lambda: 100 + 50 * np.sin(minutes * 2 * np.pi / PANES_PER_DAY) + random.normal(0, 5, count),
        "drifting": lambda: 100 + np.cumsum(random.normal(0, 0.1, count)) + random.normal(0, 3, count),
    }[kind]()


def scores(values: np.ndarray, detector: Detector | None = None) -> list[float]:
    detector = detector or Ensemble()
    return [detector.score(value).score for value in values.tolist()]


def scored(values: np.ndarray) -> tuple[list[Score], list[float]]:
    detector = Ensemble()
    return [detector.score(value) for value in values.tolist()], values.tolist()


def told(values: np.ndarray, detector: Detector | None = None) -> list[tuple[str, int, str]]:
    detector, incidents, found = detector or Ensemble(), Incidents(), []
    for at, value in enumerate(values.tolist()):
        change: Change | None = incidents.step(at, value, detector.score(value).score, detector.threshold)
        if change is not None:
            found.append((change.what, at, str(change.incident.severity)))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["normal", "skewed", "counts", "daily", "drifting"])
def test_steady_noise_wakes_nobody_in_six_thousand_panes(kind: str) -> None:
    assert [one for seed in (1, 2) for one in told(noise(seed, 3_000, kind))] == []


@pytest.mark.slow
def test_heavy_tails_alarm_less_than_once_a_day() -> None:
    series = [np.random.default_rng(seed).standard_t(3, 3_000) * 10 + 100 for seed in range(3)]
    begun = sum(what == "began" for values in series for what, *_ in told(values))
    assert 0 < begun / (9_000 / PANES_PER_DAY) < 1


def test_a_spike_is_one_alarm_that_ends_soon() -> None:
    values = noise()
    values[500] = 400
    began, over = told(values)
    assert began == ("began", 500, "high")
    assert over[0] == "over"
    assert 505 <= over[1] <= 520


def test_a_lasting_shift_is_one_alarm_and_not_one_for_ever() -> None:
    values = noise()
    values[500:] += 120
    changes = told(values)
    assert [what for what, *_ in changes if what != "worse"] == ["began", "over"]
    assert changes[0][1] in (500, 501)
    assert changes[-1][1] < 540


def test_a_drop_to_nothing_is_found_within_three_panes() -> None:
    values = np.random.default_rng(5).poisson(200, 700).astype(float)
    values[500:540] = 0
    changes = told(values)
    assert changes[0][0] == "began"
    assert 500 <= changes[0][1] <= 502


@pytest.mark.slow
def test_the_greater_the_deviation_the_higher_the_score_and_the_severity() -> None:
    found = []
    for height in (12, 20, 30, 60):
        values = noise()
        values[500] = 100 + 10 * height
        found.append((scores(values)[500], told(values)[0][2]))
    assert sorted(found) == found
    assert len({score for score, _ in found}) == 4
    assert [severity for _, severity in found] == ["low", "medium", "high", "critical"]


def test_the_first_values_have_no_score() -> None:
    assert scores(np.array([1.0, 900, 3, -5e6] * 7)) == [0.0] * 28


def test_a_constant_series_is_silent_and_its_first_change_is_not() -> None:
    values = np.full(200, 3e8)
    assert max(scores(values)) == 0
    values[150] += 1e6
    assert scores(values)[150] > SHIPPED_THRESHOLD


def test_enormous_values_are_as_good_as_any() -> None:
    values = noise()
    values[500], values[550] = 1e300, -1e300
    found = scores(values)
    assert all(math.isfinite(score) and 0 <= score <= 1 for score in found)
    assert found[500] > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("name", DETECTORS)
@settings(max_examples=5)
@given(st.integers(80, 119), st.floats(-1e6, 1e6))
def test_what_comes_later_changes_no_score_and_the_value_itself_no_expectation(name: str, cut: int, value: float) -> None:
    values = noise(count=120)
    changed = values.copy()
    changed[cut] = value
    one, other = new_detector(name), new_detector(name)
    before = [one.score(each) for each in values.tolist()]
    after = [other.score(each) for each in changed.tolist()]
    assert before[:cut] == after[:cut]
    assert before[cut].expected == after[cut].expected
    assert all(0 <= each.score <= 1 for each in after)


def test_a_value_is_not_in_the_baseline_it_is_measured_by() -> None:
    """If it were, a spike of any height would be at most sqrt(n) deviations away, and these scores would hardly differ."""
    assert deviations(np.array(noise(count=40), np.float32), 1e6) > 1e4
    found = []
    for height in (1e3, 1e4, 1e5, 1e6):
        values = noise(count=41)
        values[40] = height
        found.append(deviations_of(Ensemble().score(0).score) + scores(values)[40])
    assert found == sorted(set(found))


def kept_and_read(state: EnsembleState) -> EnsembleState:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=EnsembleState)


@settings(max_examples=25)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60), st.integers(0, 130))
def test_cut_anywhere_kept_and_read_again_it_goes_on_as_if_nothing_were(values: list[float], cut: int) -> None:
    series = [*noise(count=70).tolist(), *values]
    whole, first = Ensemble(), Ensemble()
    expected = [whole.score(value) for value in series]
    got = [first.score(value) for value in series[:cut]]
    second = Ensemble(kept_and_read(first.state()))
    assert [*got, *(second.score(value) for value in series[cut:])] == expected
    assert second.state() == whole.state()


@pytest.mark.slow
def test_so_it_does_when_its_memory_is_full() -> None:
    series = noise(count=6_200).tolist()
    whole, cut_off = Ensemble(), {}
    for at, value in enumerate(series):
        if at in (2_999, 3_001, 5_990, 6_005, 6_100):
            cut_off[at] = Ensemble(kept_and_read(whole.state()))
        score = whole.score(value)
        for since, other in cut_off.items():
            if at < since + 60:
                assert other.score(value) == score


def plainly(values: list[float]) -> list[float]:
    """The three voices as the document has them, with nothing kept between two values."""

    def z(past: list[float], value: float) -> float:
        if len(past) < 30:
            return 0.0
        spread = np.std(past)
        clipped = np.clip(past, np.mean(past) - 3 * spread, np.mean(past) + 3 * spread)
        return float((value - clipped.mean()) / max(clipped.std(), 1e-6 * abs(clipped.mean()), 1e-9))

    smoothed, residuals, nearest, distances, found = values[0], [], [0.0, 0.0], [], []
    for at, value in enumerate(values):
        past = values[max(0, at - LONGEST) : at]
        residuals.append(abs(value - smoothed))
        voices = [said(z(residuals[max(0, at - LONGEST) : max(0, at - 6)], residuals[-1]))]
        smoothed += 0.3 * (value - smoothed)
        now = np.array(values[at - 4 : at + 1])
        shapes = [np.linalg.norm(np.array(past[first : first + 5]) - now) for first in range(len(past) - 8)]
        if len(shapes) >= 30:
            nearest.append(sorted(shapes)[4])
            distances.append(sum(nearest[-3:]) / 3)
            voices.append(said(z(distances[: max(0, len(distances) - 9)], distances[-1])))
        if len(past) >= 30:
            spread = np.std(np.clip(past, np.mean(past) - 3 * np.std(past), np.mean(past) + 3 * np.std(past)))
            voices.append(1 - float(np.mean([spread / 8 / max(abs(one - value), spread / 8) for one in past])))
        found.append(sum(voices) / 3)
    return found


@pytest.mark.slow
def test_the_scores_are_those_of_the_plain_formula() -> None:
    values = noise(count=400, kind="skewed")
    values[[200, 300, 301]] = 900, 0, 700
    assert scores(values) == pytest.approx(plainly(values.tolist()), abs=1e-3)


@given(st.lists(st.integers(-1_000, 1_000), max_size=60), st.integers(1, 9))
def test_a_history_is_its_last_values(values: list[int], capacity: int) -> None:
    history = History(capacity)
    for at, value in enumerate(values):
        history.push(value)
        assert history.values.tolist() == values[max(0, at + 1 - capacity) : at + 1]
    assert History.of(history.dump()).values.tolist() == history.values.tolist()
    assert len(history) == min(len(values), capacity)


def test_the_scale_is_not_blown_up_by_what_lies_far_outside() -> None:
    values = noise(count=1_000).astype(np.float32)
    mean, spread = usual(values)
    values[::100] = 1e5
    blown = usual(values)
    assert spread == pytest.approx(10, rel=0.1)
    assert mean == pytest.approx(100, rel=0.02)
    assert blown.spread < float(values.std()) / 2


@pytest.mark.parametrize(("bad", "high", "low"), [("up", 0.9, 0), ("down", 0, 0.9), ("both", 0.9, 0.9), ("none", 0, 0)])
def test_only_the_bad_side_is_told(bad: str, high: float, low: float) -> None:
    assert one_sided(Score(0.9, 10), 11, bad).score == high
    assert one_sided(Score(0.9, 10), 9, bad).score == low


def test_the_way_back_from_a_better_time_is_no_alarm() -> None:
    assert one_sided(Score(0.9, 10, 100), 103, "up").score == 0
    assert one_sided(Score(0.9, 10, 100), 300, "up").score == 0.9
    assert one_sided(Score(0.9, 99, 50), 48, "down").score == 0
    assert one_sided(Score(0.9, 99, 50), 0, "down").score == 0.9
    values = noise()
    values[500:510] = 5
    assert any(one_sided(one, value, "down").score > SHIPPED_THRESHOLD for one, value in zip(*scored(values), strict=True))
    assert not any(one_sided(one, value, "up").score > SHIPPED_THRESHOLD for one, value in zip(*scored(values), strict=True))


@given(st.floats(0, 1e6))
def test_deviations_are_read_back_from_a_voice(z: float) -> None:
    assert deviations_of(said(z)) == pytest.approx(z, rel=1e-6)
    assert said(-z) == 0


@pytest.mark.parametrize("name", DETECTORS)
@pytest.mark.slow
def test_every_detector_scores_the_obvious_higher_than_nine_in_ten_others(name: str) -> None:
    values = noise(count=900)
    values[700:706] = 900
    found = scores(values, new_detector(name))
    assert max(found[700:706]) > np.quantile(found[:700], 0.9)


@pytest.mark.parametrize("name", ["ensemble", "moving-average", "windowed-gaussian"])
def test_the_threshold_lies_between_the_obvious_and_noise(name: str) -> None:
    values = noise(count=600)
    values[500:506] = 900
    found = scores(values, new_detector(name))
    assert max(found[500:506]) >= new_detector(name).threshold > max(found[:500])


def test_an_unknown_detector_is_told_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no detector of that name; there are ensemble, .*isolation-forest"):
        new_detector("oracle")


_WITHOUT = """
import sys
sys.modules["river"] = None  # as if it were not installed
from tallyroll.errors import MissingExtra
from tallyroll.opening import new_detector
new_detector("ensemble")
try:
    new_detector("half-space-trees")
except MissingExtra as error:
    print(error)
"""


@pytest.mark.slow
def test_without_the_extra_the_others_work_and_the_line_that_installs_it_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout.strip() == "extra 'ml': not installed; run: pip install 'tallyroll[ml]'"


HELD_OUT = ("realAdExchange", "AMZN", "CVS", "GOOG", "KO", "UPS")


@pytest.mark.slow
def test_the_bar_on_the_series_of_the_benchmark() -> None:
    folder = data_folder()
    if folder is None:
        pytest.skip("NAB_DATA names no folder with series of the Numenta Anomaly Benchmark")
    series = read(folder)
    assert (len(series), sum(len(one.windows) for one in series), sum(len(one.values) for one in series)) == (27, 53, 212_593)
    judged = {one.name: Judged(one_per_incident(np.array(scores(one.values))), one.windows) for one in series}
    held_out = [one for name, one in judged.items() if any(part in name for part in HELD_OUT)]
    assert len(held_out) == 11
    assert best(list(judged.values()), PROFILES["standard"]).score >= 55
    assert best(list(judged.values()), PROFILES["low-FP"]).score >= 42
    assert score_at(held_out, PROFILES["standard"], SHIPPED_THRESHOLD) >= 50
