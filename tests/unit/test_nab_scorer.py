"""The yardstick for detectors, worked out by hand, and against a plain search over every threshold."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.testing.nab import PROFILES, Judged, Profile, best, data_folder, hits, probation, read, score_at

STANDARD = PROFILES["standard"]
WINDOWS = 53  # as many as the series of the benchmark that are at hand have


def series(rows: int, windows: Sequence[tuple[int, int]], scores: dict[int, float]) -> Judged:
    given = np.zeros(rows)
    for row, score in scores.items():
        given[row] = score
    return Judged(given, windows)


def perfect(count: int = WINDOWS, *, missed: int = 0) -> list[Judged]:
    """So many series of 1,000 rows with one window each, hit on its first row, but for some."""
    return [series(1_000, [(500, 599)], {} if at < missed else {500: 0.9}) for at in range(count)]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())
def test_who_says_nothing_has_nothing(profile: Profile) -> None:
    silent = [series(1_000, [(500, 599)], {}) for _ in range(WINDOWS)]
    assert score_at(silent, profile, 0.5) == 0
    assert score_at(silent, profile, math.inf) == 0


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES.keys())
def test_the_first_row_of_each_window_and_nothing_else_is_a_hundred(profile: Profile) -> None:
    assert best(perfect(), profile) == (100, 0.9)


def test_one_window_of_53_missed() -> None:
    assert best(perfect(missed=1), STANDARD).score == pytest.approx(98.113, abs=5e-4)


def test_perfect_and_one_false_row_before_any_window() -> None:
    judged = [*perfect(WINDOWS - 1), series(1_000, [(500, 599)], {500: 0.9, 300: 0.9})]
    assert best(judged, STANDARD).score == pytest.approx(99.896, abs=5e-4)
    assert best(judged, PROFILES["low-FP"]).score == pytest.approx(100 - 100 * 0.22 / (2 * WINDOWS))


def test_the_last_row_of_a_window_of_a_hundred() -> None:
    gained = score_at([series(1_000, [(500, 599)], {599: 1.0})], STANDARD, 0.5) / 100 * 2 - 1  # a miss is -1, a hit 1
    assert gained == pytest.approx(0.0253, abs=5e-5)


def test_of_a_window_only_the_best_detection_counts() -> None:
    late = series(1_000, [(500, 599)], {590: 1.0})
    both = series(1_000, [(500, 599)], {510: 0.6, 590: 1.0})
    assert score_at([both], STANDARD, 0.5) == score_at([series(1_000, [(500, 599)], {510: 0.6})], STANDARD, 0.5)
    assert score_at([both], STANDARD, 0.8) == score_at([late], STANDARD, 0.8) < score_at([both], STANDARD, 0.5)


def test_rows_in_probation_count_for_nothing() -> None:
    assert (probation(1_000), probation(10_000), probation(99)) == (150, 750, 14)
    noisy = [series(1_000, [(500, 599)], {500: 0.9, **dict.fromkeys(range(150), 1.0)})]
    assert best(noisy, STANDARD) == (100, 0.9)
    assert hits(noisy[0], 0.9) == (1, 0)
    inside = [series(1_000, [(100, 199)], {149: 1.0})]
    assert score_at(inside, STANDARD, 0.5) == 0
    assert score_at([series(1_000, [(100, 199)], {150: 1.0})], STANDARD, 0.5) > 0
    early = [series(1_000, [(10, 20)], {15: 1.0})]
    assert score_at(early, STANDARD, 0.5) == 0


def test_a_row_soon_after_a_window_costs_less_than_one_before_any_or_long_after() -> None:
    def with_false_row(row: int) -> float:
        return score_at([series(1_000, [(500, 599)], {500: 0.9, row: 0.9})], STANDARD, 0.5)

    assert with_false_row(600) > with_false_row(640) > with_false_row(300)
    assert with_false_row(900) == with_false_row(300) == pytest.approx(100 - 100 * 0.11 / 2)
    assert with_false_row(600) > 99.8


def test_behind_two_windows_the_last_one_that_ended_is_the_measure() -> None:
    windows = [(200, 299), (500, 599)]
    found = {200: 0.9, 500: 0.9}
    near = score_at([series(1_000, windows, {**found, 610: 0.9})], STANDARD, 0.5)
    assert near > score_at([series(1_000, windows, {**found, 480: 0.9})], STANDARD, 0.5)


def test_a_higher_score_outside_than_inside_has_to_be_paid_for() -> None:
    outside = [series(1_000, [(500, 599)], {500: 0.5, 300: 0.9})]
    assert best(outside, STANDARD).threshold == 0.5
    assert best(outside, STANDARD).score == pytest.approx(100 - 100 * 0.11 / 2)
    inside = [series(1_000, [(500, 599)], {500: 0.9, 300: 0.5})]
    assert best(inside, STANDARD) == (100, 0.9)


def test_one_threshold_serves_all_series() -> None:
    loud = series(1_000, [(500, 599)], {500: 0.9, **dict.fromkeys(range(160, 260), 0.7)})
    soft = series(1_000, [(500, 599)], {500: 0.6})
    assert best([soft], STANDARD).score == best([loud], STANDARD).score == 100
    assert best([loud, soft], STANDARD) == (50, 0.9)


def test_where_every_detection_costs_more_than_it_earns_silence_is_best() -> None:
    judged = [series(1_000, [(500, 599)], dict.fromkeys(range(150, 450), 0.9) | {500: 0.9})]
    assert best(judged, STANDARD) == (0, math.inf)
    assert score_at(judged, STANDARD, 0.9) < -1_000


def test_hits_are_windows_with_a_detection_and_detections_outside() -> None:
    one = series(1_000, [(300, 399), (500, 599)], {310: 0.9, 311: 0.9, 450: 0.9, 700: 0.9, 701: 0.4})
    assert hits(one, 0.5) == (1, 2)
    assert hits(one, 0.4) == (1, 3)


def worth(row: int, windows: Sequence[tuple[int, int]], profile: Profile) -> tuple[int | None, float]:
    """In which window a row lies, and what it is worth: the rule, word for word."""

    def falling(y: float) -> float:
        return -1.0 if y > 3 else 2 / (1 + math.exp(5 * y)) - 1

    for place, (first, last) in enumerate(windows):
        if first <= row <= last:
            return place, profile.hit * falling(-(last - row + 1) / (last - first + 1)) / falling(-1)
    ended = [window for window in windows if window[1] < row]
    if not ended:
        return None, -profile.false
    first, last = ended[-1]
    return None, profile.false * falling((row - last) / (last - first))


def plainly(judged: Sequence[Judged], profile: Profile, threshold: float) -> float:
    total, count = 0.0, 0
    for one in judged:
        found: dict[int, float] = {}
        for row in range(probation(len(one.scores)), len(one.scores)):
            if one.scores[row] >= threshold:
                window, value = worth(row, one.windows, profile)
                if window is None:
                    total += value
                else:
                    found[window] = max(found.get(window, value), value)
        count += len(one.windows)
        total += sum(found.values()) - profile.miss * (len(one.windows) - len(found))
    return 100 * (total + profile.miss * count) / (profile.hit * count + profile.miss * count)


@st.composite
def judgements(draw: st.DrawFn) -> Judged:
    rows = draw(st.integers(4, 60))
    cuts = sorted(draw(st.sets(st.integers(0, rows - 1), min_size=2, max_size=6)))
    windows = [(cuts[at], cuts[at + 1]) for at in range(0, len(cuts) - 1, 2)]
    scores = draw(st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0]), min_size=rows, max_size=rows))
    return Judged(np.array(scores), windows)


@pytest.mark.slow
@given(st.lists(judgements(), min_size=1, max_size=3), st.sampled_from([*PROFILES.values(), Profile(1.0, 0.5, 0.02)]))
def test_it_is_the_best_of_all_thresholds_tried_one_by_one(judged: list[Judged], profile: Profile) -> None:
    thresholds = {math.inf, *(float(score) for one in judged for score in one.scores)}
    tried = {threshold: plainly(judged, profile, threshold) for threshold in thresholds}
    for threshold, score in tried.items():
        assert score_at(judged, profile, threshold) == pytest.approx(score, abs=1e-9)
    found = best(judged, profile)
    assert found.score == pytest.approx(max(tried.values()), abs=1e-9)
    assert tried[found.threshold] == pytest.approx(found.score, abs=1e-9)


def written(folder: Path, stamps: Sequence[str], windows: Sequence[tuple[str, str]]) -> Path:
    (folder / "some").mkdir()
    lines = [f"{stamp},{at}" for at, stamp in enumerate(stamps)]
    (folder / "some" / "one.csv").write_text("\n".join(["timestamp,value", *lines]) + "\n")
    (folder / "windows.json").write_text(json.dumps({"some/one.csv": windows}))
    return folder


def test_windows_are_found_by_their_timestamps_where_one_repeats_by_the_first(tmp_path: Path) -> None:
    stamps = [f"2026-01-01 {at:02}:00:00" for at in (0, 1, 2, 2, 3, 4, 4, 5)] + ["2026-01-02 00:00:00"]
    written(
        tmp_path, stamps, [("2026-01-01 04:00:00.000000", "2026-01-01 05:00:00.000000"), (stamps[1] + ".000000", stamps[2] + ".000000")]
    )
    [one] = read(tmp_path)
    assert (one.name, one.windows, one.days) == ("some/one", [(1, 2), (5, 7)], 1.0)
    assert one.values.tolist() == [float(at) for at in range(9)]


def test_data_that_are_not_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NAB_DATA", raising=False)
    assert data_folder() is None
    assert data_folder(tmp_path) is None
    folder = written(tmp_path, ["2026-01-01 00:00:00"], [])
    assert data_folder(folder) == folder
    monkeypatch.setenv("NAB_DATA", str(folder))
    assert data_folder() == folder
