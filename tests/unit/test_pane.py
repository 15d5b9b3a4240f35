"""Panes say what NumPy says of the same values, within the stated bounds, however the values were split and merged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.analytics.pane import (
    EMPTY,
    LN_GAMMA,
    Pane,
    bin_of,
    dump_row,
    join_rows,
    load_row,
    merge,
    merge_rows,
    pack,
    pane_of,
    value_of,
)
from tallyroll.analytics.spec import QUANTILES, AggregationFunction

F = AggregationFunction
DOMAIN = (1e-3, 1e10)

values_in_domain = st.lists(st.floats(*DOMAIN, allow_subnormal=False), min_size=1, max_size=200).map(np.array)
anything = st.lists(
    st.one_of(st.floats(-1e12, 1e12), st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, 1e-3, 1e10, 1e10 * (1 + 1e-15), -1.0])),
    max_size=60,
).map(lambda values: np.array(values, np.float64))


def reference(values: np.ndarray) -> dict[AggregationFunction, float]:
    return {
        F.SUM: math.fsum(values),
        F.AVG: math.fsum(values) / len(values),
        F.MIN: values.min(),
        F.MAX: values.max(),
        F.COUNT: len(values),
        F.STDDEV: float(np.std(values)),
        **{function: float(np.quantile(values, q, method="lower")) for function, q in QUANTILES.items()},
    }


def assert_says(pane: Pane, values: np.ndarray) -> None:
    for function, expected in reference(values).items():
        if function in QUANTILES:
            assert pane.read(function) == pytest.approx(expected, rel=0.01), function
        elif function is F.STDDEV:
            assert pane.read(function) == pytest.approx(expected, rel=1e-6, abs=1e-9 * abs(values).max()), function
        else:
            assert pane.read(function) == pytest.approx(expected, rel=1e-12), function


@given(values_in_domain)
def test_all_nine_functions_agree_with_numpy(values: np.ndarray) -> None:
    assert_says(pane_of(values), values)


@pytest.mark.parametrize(
    "values",
    [
        np.full(1_000, 42.0),
        np.array([7.5]),
        np.random.default_rng(1).lognormal(5, 2, 5_000),
        np.clip(np.random.default_rng(2).pareto(1.1, 5_000) + 1, *DOMAIN),
        np.random.default_rng(3).normal(1e8, 1, 5_000),  # where sums of squares lose every digit
        np.concatenate([np.full(990, 1.0), np.full(10, 1e9)]),
    ],
    ids=["constant", "single", "lognormal", "heavy tail", "far from zero", "two heaps"],
)
def test_all_nine_functions_on_data_of_every_shape(values: np.ndarray) -> None:
    assert_says(pane_of(values), values)
    parts = [pane_of(part) for part in np.array_split(values, 7) if len(part)]
    assert_says(merge(parts), values)


def test_without_values_there_is_a_count_and_a_sum_and_nothing_else() -> None:
    for pane in (EMPTY, pane_of(np.array([])), merge([]), merge([EMPTY, EMPTY]), pane_of(np.array([-1.0, math.nan]))):
        assert {function: pane.read(function) for function in F} == {
            function: 0 if function in (F.COUNT, F.SUM) else None for function in F
        }


@pytest.mark.slow
def test_quantiles_of_a_million_values_are_within_one_percent() -> None:
    values = np.random.default_rng(4).lognormal(6, 1.5, 1_000_000)
    values = np.clip(values, *DOMAIN)
    pane = merge([pane_of(part) for part in np.array_split(values, 100)])
    for q in (0.0, 0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1.0):
        assert pane.quantile(q) == pytest.approx(float(np.quantile(values, q, method="lower")), rel=0.01), q
    assert pane.n == 1_000_000
    assert pane.sum == pytest.approx(values.sum(), rel=1e-12)
    assert pane.read(F.STDDEV) == pytest.approx(values.std(), rel=1e-9)


@given(st.floats(*DOMAIN))
def test_the_value_of_a_bin_is_within_one_percent_of_what_is_in_it(value: float) -> None:
    [index] = bin_of(np.array([value]))
    assert value_of(int(index)) == pytest.approx(value, rel=0.01)
    assert -345 <= index <= 1152


def test_the_rule_of_the_bins_is_the_same_text_in_every_engine() -> None:
    assert repr(LN_GAMMA) == "0.0200006667"
    golden = {1e-3: -345, 0.5: -34, 1.0: 0, 1.0000001: 1, 1.02: 1, 42.0: 187, 250.0: 277, 1e6: 691, 1e10: 1152}
    assert dict(zip(golden, bin_of(np.array(list(golden))).tolist(), strict=True)) == golden
    assert dict(zip(golden, [math.ceil(math.log(value) / LN_GAMMA) for value in golden], strict=True)) == golden


def bins(index: bytes, count: bytes) -> dict[int, int]:
    width = "<u8" if len(count) == 4 * len(index) else "<u4"
    return dict(zip(np.frombuffer(index, "<i2").tolist(), np.frombuffer(count, width).tolist(), strict=True))


def test_special_values_have_places_of_their_own() -> None:
    low, high = DOMAIN
    values = [0.0, -0.0, low / 2, low, high, np.nextafter(high, np.inf), 1e99, -1.0, -math.inf, math.inf, math.nan, 1e101]
    pane = pane_of(np.array(values))
    assert (pane.n, pane.zero, pane.over, pane.neg, pane.nan) == (7, 3, 2, 1, 4)
    assert bins(pane.index, pane.count) == {-345: 1, 1152: 1}
    assert (pane.mirror_index, pane.mirror_count) == (b"", b"")
    assert (pane.min, pane.max, pane.ok) == (0.0, 1e99, 5)
    assert pane.quantile(1.0) == 1e99  # above the domain: the largest
    assert pane.quantile(0.0) == 0.0


def test_negative_values_of_a_signed_metric_are_mirrored() -> None:
    values = np.array([-250.0, -250.0, -1.0, -1e-4, 0.0, 1.0, 42.0, -1e12])
    pane = pane_of(values, signed=True)
    assert (pane.n, pane.zero, pane.over, pane.neg) == (8, 2, 0, 0)
    assert bins(pane.mirror_index, pane.mirror_count) == {0: 1, 277: 2, 1152: 1}
    assert bins(pane.index, pane.count) == {0: 1, 187: 1}
    inside = np.random.default_rng(5).normal(0, 100, 2_000)
    inside = inside[abs(inside) >= 1e-3]
    for q in np.linspace(0, 1, 21):
        expected = float(np.quantile(inside, q, method="lower"))
        assert pane_of(inside, signed=True).quantile(q) == pytest.approx(expected, rel=0.01), q


def test_without_a_histogram_there_are_no_quantiles_and_no_invented_ones() -> None:
    pane = pane_of(np.array([0.0, 5.0, 1e12]), bins=False)
    assert [pane.read(function) for function in QUANTILES] == [None] * 3
    assert (pane.read(F.MIN), pane.read(F.MAX), pane.read(F.COUNT)) == (0.0, 1e12, 3)


def exact(pane: Pane) -> tuple[object, ...]:
    return (pane.n, pane.min, pane.max, pane.ok, pane.zero, pane.over, pane.neg, pane.nan,
            pane.index, pane.count, pane.mirror_index, pane.mirror_count)  # fmt: skip


@settings(max_examples=50)
@given(values=anything, cuts=st.lists(st.integers(0, 60), max_size=5), random=st.randoms(use_true_random=False), signed=st.booleans())
def test_any_split_in_any_order_merges_to_the_same_pane(values: np.ndarray, cuts: list[int], random: object, *, signed: bool) -> None:
    whole = pane_of(values, signed=signed)
    parts = [pane_of(part, signed=signed) for part in np.split(values, sorted(cut % (len(values) + 1) for cut in cuts))]
    random.shuffle(parts)
    merged = merge(parts)
    assert exact(merged) == exact(whole)
    scale = float(np.abs(values[np.isfinite(values)]).max(initial=1.0))
    assert merged.sum == pytest.approx(whole.sum, abs=1e-9 * scale * max(1, whole.n))
    assert merged.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-9 * scale**2)
    left = merge([merge(parts[:2]), *parts[2:]])
    right = merge([*parts[:1], merge(parts[1:])])
    assert exact(left) == exact(right) == exact(whole)
    assert whole.n == sum(bins(whole.index, whole.count).values()) + sum(bins(whole.mirror_index, whole.mirror_count).values()) + (
        whole.zero + whole.over
    )


@given(st.lists(st.integers(0, 2**43), min_size=1, max_size=40), st.integers(1, 39))
def test_whole_sums_are_exact_in_any_order(values: list[int], cut: int) -> None:
    panes = [Pane(n=1, sum=value, min=value, max=value) for value in values]
    assert merge(panes).sum == sum(values) == merge([merge(panes[cut:]), merge(panes[:cut])]).sum


def test_counts_beyond_four_bytes_are_kept() -> None:
    many = 3_000_000_000
    one = Pane(
        many,
        1.0 * many,
        0.0,
        1.0,
        1.0,
        many,
        index=pack(np.array([0]), np.array([many]))[0],
        count=pack(np.array([0]), np.array([many]))[1],
    )
    two = merge([one, one])
    four = merge([two, one, one])
    assert bins(two.index, two.count) == {0: 2 * many}
    assert bins(four.index, four.count) == {0: 4 * many}
    assert four.quantile(0.99) == 1.0
    assert load_row(dump_row({"m": four})) == {"m": four}


@settings(max_examples=20)
@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "c"]), anything.map(pane_of)), max_size=5))
def test_rows_come_back_as_they_were_and_merge_by_metric(rows: list[dict[str, Pane]]) -> None:
    for row in rows:
        assert load_row(dump_row(row)) == row
    merged = merge_rows(rows)
    assert merged == {name: merge([row[name] for row in rows if name in row]) for name in merged}
    assert set(merged) == {name for row in rows for name in row}
    assert load_row(join_rows(map(dump_row, rows))) == merged
