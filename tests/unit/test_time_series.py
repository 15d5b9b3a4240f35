"""A series in memory says what NumPy says, keeps bounded, and does not mind the order of its points."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.analytics.spec import QUANTILES, AggregationFunction
from tallyroll.analytics.time_series import TimeSeries
from tallyroll.analytics.windows import TimeWindow

T0 = datetime(2026, 1, 1, 12, tzinfo=UTC)
F = AggregationFunction


async def filled(points: list[tuple[float, float]], **limits: int) -> TimeSeries:
    series = TimeSeries(**limits)
    for second, value in points:
        await series.add_point(T0 + timedelta(seconds=second), value)
    return series


async def test_points_come_back_in_order_of_time_with_both_ends() -> None:
    series = await filled([(30, 3.0), (10, 1.0), (20, 2.0)])
    at = [T0 + timedelta(seconds=second) for second in (10, 20, 30)]
    assert await series.get_range(at[0], at[2]) == list(zip(at, [1.0, 2.0, 3.0], strict=True))
    assert await series.get_range(at[1], at[1]) == [(at[1], 2.0)]
    assert len(series) == 3


@pytest.mark.parametrize("threshold", [10, 10_000], ids=["compressed", "points"])
async def test_every_function_over_aligned_windows(threshold: int) -> None:
    rng = np.random.default_rng(1)
    seconds, values = rng.permutation(3_600)[:400], rng.lognormal(3, 1, 400)
    series = await filled(list(zip(seconds.tolist(), values.tolist(), strict=True)), compression_threshold=threshold)
    window = TimeWindow(timedelta(minutes=15))
    for function in F:
        found = dict(await series.aggregate(window, function, T0 + timedelta(hours=1)))
        assert set(found) == {T0 + timedelta(minutes=45)}  # the last quarter of an hour ends just there
        held = values[(seconds >= 2_700) & (seconds < 3_600)]
        expected = {
            F.SUM: held.sum(), F.AVG: held.mean(), F.MIN: held.min(), F.MAX: held.max(), F.COUNT: len(held), F.STDDEV: held.std(),
            **{one: np.quantile(held, q, method="lower") for one, q in QUANTILES.items()},
        }[function]  # fmt: skip
        assert found[T0 + timedelta(minutes=45)] == pytest.approx(expected, rel=0.01 if function in QUANTILES else 1e-9)


async def test_windows_slide_and_stop_at_the_end() -> None:
    series = await filled([(second, 1.0) for second in range(0, 600, 30)])
    window = TimeWindow(timedelta(minutes=4), timedelta(minutes=2))
    found = await series.aggregate(window, F.COUNT, T0 + timedelta(minutes=7))
    assert found == [(T0 + timedelta(minutes=m), c) for m, c in ((0, 8.0), (2, 8.0), (4, 6.0), (6, 2.0))]
    assert await series.aggregate("5min", F.SUM) == [(T0 + timedelta(minutes=m), 10.0) for m in (0, 5)]
    assert await TimeSeries().aggregate("5min", F.SUM) == []


async def test_memory_is_bounded_and_the_oldest_goes() -> None:
    series = await filled([(30 * number, float(number)) for number in range(1_000)], max_points=100, compression_threshold=20)
    assert len(series._points) + len(series._panes) <= 100
    kept = await series.get_range(T0, T0 + timedelta(days=1))
    assert kept[-1] == (T0 + timedelta(seconds=30 * 999), 999.0)
    assert kept[0][0] > T0 + timedelta(minutes=100)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1_000), st.floats(-1e6, 1e6)), min_size=1, max_size=60))
async def test_no_point_is_lost_by_compression(points: list[tuple[int, float]]) -> None:
    series = await filled(points, compression_threshold=3)
    assert len(series) == len(points)
    found = await series.aggregate(TimeWindow(timedelta(days=1)), F.SUM, T0 + timedelta(hours=2))
    assert found[0][1] == pytest.approx(sum(value for _, value in points), abs=1e-3)


async def test_what_is_no_point_is_refused() -> None:
    series = TimeSeries()
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="finite"):
            await series.add_point(T0, bad)
    with pytest.raises(ValueError, match="time zone"):
        await series.add_point(datetime(2026, 1, 1), 1.0)  # noqa: DTZ001  # the slip under test
    with pytest.raises(ValueError, match="compression_threshold"):
        TimeSeries(10, 11)
