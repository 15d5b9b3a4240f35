"""Correlation over keys: what moves together is found with its lag and sign, what does not is not."""

from __future__ import annotations

import numpy as np
import pytest
from tests.yardstick import at_most

from tallyroll.analytics.correlation import MAX_KEYS, Correlation, correlate


def walks(seed: int, keys: int, panes: int) -> np.ndarray:
    return np.cumsum(np.random.default_rng(seed).normal(size=(keys, panes)), axis=1)


def delayed(seed: int, lag: int, panes: int = 300, keys: int = 2, noise: float = 0.1) -> np.ndarray:
    """Row 1 does ``lag`` panes later what row 0 did; the others walk by themselves."""
    rng = np.random.default_rng(seed)
    long = np.cumsum(rng.normal(size=panes + lag))
    rows = walks(seed + 1, keys, panes)
    rows[0], rows[1] = long[lag:], long[:panes] + rng.normal(size=panes) * noise
    return rows


def names(count: int) -> list[str]:
    return [f"agent-{at}" for at in range(count)]


@pytest.mark.parametrize("keys", [2, 3, 30])
@pytest.mark.parametrize("lag", [0, 3, 10])
def test_a_copy_is_found_at_its_lag_and_the_leader_is_named_by_the_sign(keys: int, lag: int) -> None:
    rows = delayed(1, lag, keys=keys)
    [found] = correlate(names(keys), rows).found
    assert (found.a, found.b, found.lag) == ("agent-0", "agent-1", lag)
    assert found.coefficient > 0.9
    assert found.n == 299 - lag
    rows[[0, 1]] = rows[[1, 0]]
    [found] = correlate(names(keys), rows).found
    assert (found.a, found.b, found.lag) == ("agent-0", "agent-1", -lag)


def test_a_copy_beyond_the_largest_lag_is_not_found() -> None:
    assert correlate(names(2), delayed(1, 11)).found == ()


def test_an_opposite_is_found_with_a_negative_coefficient() -> None:
    rows = delayed(2, 3)
    rows[1] *= -1
    [found] = correlate(names(2), rows).found
    assert found.coefficient < -0.9
    assert found.lag == 3
    assert "moves against" in str(found)


@pytest.mark.slow
@pytest.mark.parametrize(("panes", "seeds"), [(32, 40), (60, 40), (1440, 5)])
def test_independent_walks_give_none(panes: int, seeds: int) -> None:
    found = sum(len(correlate(names(50), walks(seed, 50, panes)).found) for seed in range(seeds))
    assert found == 0  # each time of 1,225 pairs


@pytest.mark.slow
def test_independent_series_that_remember_themselves_give_none() -> None:
    found = 0
    for seed in range(40):
        noise = np.random.default_rng(seed).normal(size=(50, 60 + 8))
        smooth = np.stack([np.convolve(row, np.ones(8) / 8, "valid") for row in noise])
        found += len(correlate(names(50), np.cumsum(smooth, axis=1)).found)
    assert found == 0


@pytest.mark.slow
def test_of_many_pairs_found_hardly_one_is_false() -> None:
    """Fifty keys, ten of them real pairs, on short series: false ones among those found stay below the rate that is stated."""
    found = false = 0
    for seed in range(40):
        rows = walks(seed, 50, 41)
        for at in range(0, 20, 2):
            rows[at + 1, 3:] = rows[at, :-3] + np.random.default_rng(seed + at).normal(size=38) * 0.3
        for one in correlate(names(50), rows).found:
            a, b = (int(key.rpartition("-")[2]) for key in (one.a, one.b))
            found += 1
            false += not (a % 2 == 0 and b == a + 1 and b < 20 and one.lag == 3)
    assert found > 200
    assert false / found <= 0.01


def test_what_all_keys_do_joins_nobody() -> None:
    rows = walks(3, 20, 300)
    assert len(correlate(names(9), rows[:9] + 3 * walks(9, 1, 300)).found) == 36
    assert correlate(names(20), rows + 3 * walks(9, 1, 300)).found == ()


def test_keys_that_hardly_change_are_not_joined_by_what_is_taken_off() -> None:
    rows = walks(11, 20, 300)
    rows[4:7] = 0
    rows[4, 100:], rows[5, 200:], rows[6, 250:] = 1, 1, 1
    assert correlate(names(20), rows).found == ()


def test_two_trends_do_not_correlate() -> None:
    rows = np.linspace(0, 100, 300) + np.random.default_rng(4).normal(size=(2, 300))
    assert correlate(names(2), rows).found == ()


def test_one_outlier_that_is_shared_does_not_make_a_correlation() -> None:
    rows = walks(5, 2, 300)
    rows[:, 150] += 10_000
    assert correlate(names(2), rows).found == ()


def test_gaps_are_left_out_and_thirty_common_panes_are_needed() -> None:
    rows = delayed(6, 3)
    rows[0, ::7] = np.nan
    rows[1, 40:50] = np.nan
    rows[1, 60] = np.inf
    [found] = correlate(names(2), rows).found
    assert found.lag == 3
    assert found.n < 260
    short = delayed(6, 0, panes=31)
    assert correlate(names(2), short).found
    short[0, 3] = np.nan
    assert correlate(names(2), short).found == ()


@pytest.mark.parametrize("constant", [0.0, 5e9, np.nan])
def test_a_series_that_does_not_change_goes_with_nothing(constant: float) -> None:
    rows = delayed(7, 3, keys=12)
    rows[5] = constant
    rows[6] = constant
    [found] = correlate(names(12), rows).found
    assert (found.a, found.b) == ("agent-0", "agent-1")


def test_rare_jumps_of_a_mostly_constant_series_still_count() -> None:
    rng = np.random.default_rng(8)
    steps = np.where(rng.random(400) < 0.05, rng.normal(size=400) * 10, 0).cumsum()
    [found] = correlate(names(2), np.stack([steps[3:], steps[:-3]])).found
    assert found.lag == 3


@pytest.mark.parametrize(("keys", "panes"), [(0, 0), (1, 100), (2, 1), (2, 30), (3, 0)])
def test_too_little_to_compare_finds_nothing(keys: int, panes: int) -> None:
    assert correlate(names(keys), np.zeros((keys, panes))).found == ()


@pytest.mark.slow
def test_only_the_busiest_are_compared_and_the_answer_says_so() -> None:
    rows = delayed(9, 3, keys=MAX_KEYS + 5, panes=60)
    counts = np.arange(MAX_KEYS + 5)[::-1].copy()
    answer = correlate(names(MAX_KEYS + 5), rows, counts)
    assert (answer.keys, answer.left_out) == (MAX_KEYS, 5)
    assert [(one.a, one.b) for one in answer.found] == [("agent-0", "agent-1")]
    assert correlate(names(MAX_KEYS + 5), rows, counts[::-1].copy()).found == ()


@pytest.mark.slow
def test_a_day_of_two_hundred_keys_takes_seconds_at_most() -> None:
    rows = delayed(10, 3, keys=200, panes=1440)
    rows[3, ::5] = np.nan
    with at_most(8):
        answer = correlate(names(200), rows)
    assert [(one.a, one.b, one.lag) for one in answer.found] == [("agent-0", "agent-1", 3)]


def test_words_say_what_was_seen_and_not_why() -> None:
    text = str(Correlation("a", "b", 0.912, -3, 120, 1e-9))
    assert text == "a moves with b, 3 panes later (r 0.91 over 120 panes, q 1e-09)"
    assert "caus" not in text
