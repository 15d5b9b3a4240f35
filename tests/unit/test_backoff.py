"""Pauses between tries: they double, are bounded, spread, and begin anew after a success."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallyroll.backoff import Backoff


@given(st.floats(0.01, 1.0), st.floats(1.0, 100.0), st.integers(0, 2_000))
def test_each_pause_is_between_half_and_whole_of_a_doubled_and_bounded_one(first_s: float, longest_s: float, tries: int) -> None:
    backoff = Backoff(first_s, longest_s)
    for number in range(min(tries, 40)):
        whole = min(longest_s, first_s * 2**number)
        assert whole / 2 <= backoff.next_s() <= whole
    backoff.attempts += tries
    assert longest_s / 2 <= Backoff(first_s, longest_s, 60 + tries).next_s() <= longest_s
    backoff.reset()
    assert first_s / 2 <= backoff.next_s() <= first_s


def test_two_that_fail_together_do_not_try_together() -> None:
    assert len({Backoff().next_s() for _ in range(10)}) > 1
