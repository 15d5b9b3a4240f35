"""The time of a writer epoch: whatever becomes of the wall clock, no record looks as if it had been sealed afterwards."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from tallyroll.audit.ledger.epoch_clock import EPOCH_S, EpochClock
from tallyroll.audit.ledger.layout import CLOCK_BOUND_S, MAX_MAC_EPOCH
from tallyroll.testing.clock import FakeClock

SECOND_US = 1_000_000
STEPS = st.lists(
    st.tuples(
        st.floats(0, 40_000, allow_nan=False),
        st.one_of(st.integers(-(10**12), 10**12), st.sampled_from([-3_600, -61, -31, -29, 0, 29, 31, 61, 3_600]).map(SECOND_US.__mul__)),
        st.booleans(),
    ),
    max_size=12,
)


@given(STEPS)
def test_no_record_of_an_epoch_looks_backdated_and_while_it_lasts_all_have_the_true_time(steps: list[tuple[float, int, bool]]) -> None:
    clock = FakeClock()
    time = EpochClock(clock)
    opened = []  # where a record says that the epoch began: who sees it first admits the epoch with that
    for passed_s, by_us, sealed in steps:
        clock.advance(passed_s)
        clock.set_wall_clock(clock.now + timedelta(microseconds=by_us))
        over = time.is_over
        if sealed:
            second, ts_us = time.second, time.now_us()
            assert over or ts_us == clock.now_us()
            assert ts_us >= clock.now_us()
            assert second <= MAX_MAC_EPOCH
            opened.append(ts_us - second * SECOND_US)
            assert all(second * SECOND_US - CLOCK_BOUND_S * SECOND_US <= ts_us - before for before in opened)
            assert second * SECOND_US - CLOCK_BOUND_S * SECOND_US <= ts_us - time.opened_us


def test_an_epoch_is_over_after_its_time_or_when_the_clock_is_set_back() -> None:
    clock = FakeClock()
    time = EpochClock(clock)
    clock.advance(EPOCH_S - 1)
    assert not time.is_over
    clock.set_wall_clock(clock.now - timedelta(seconds=CLOCK_BOUND_S // 2))
    assert not time.is_over
    clock.set_wall_clock(clock.now - timedelta(seconds=1))
    assert time.is_over
    clock.set_wall_clock(clock.now + timedelta(hours=5))
    assert not time.is_over
    assert time.now_us() == clock.now_us()
    clock.advance(1)
    assert time.is_over


def test_a_time_that_a_record_has_had_counts_as_one_that_the_epoch_began_with() -> None:
    clock = FakeClock()
    for sealed in (False, True):
        time = EpochClock(clock)
        clock.set_wall_clock(clock.now + timedelta(hours=5))
        if sealed:
            time.now_us()
        clock.set_wall_clock(clock.now - timedelta(hours=5))
        assert time.is_over == sealed
