"""Event times of many records at once are what each is alone, whatever its neighbours are."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from tallyroll.analytics.moments import NEVER, moments
from tallyroll.errors import Undecodable
from tallyroll.events.codec import micros_of
from tallyroll.events.event import iso

USUAL = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)).map(iso)  # noqa: DTZ001  # strategies want naive bounds
LINES = st.lists(USUAL, min_size=1, max_size=3).map("\n".join)


@st.composite
def cut(draw: st.DrawFn) -> str:
    text = draw(LINES)
    return text[draw(st.integers(0, 3)) : len(text) - draw(st.integers(0, 30))]


def alone(text: str) -> int:
    try:
        return micros_of(text)
    except Undecodable:
        return NEVER


ODD = st.sampled_from(["", "\n", "2026-02-30T00:00:00.000000Z", "2026-01-01T24:00:00.000000Z", "2026-01-01T00:00:00.00000٣Z", "soon"])


@given(st.lists(USUAL | LINES | cut() | ODD, max_size=6))
def test_each_is_read_as_alone(texts: list[str]) -> None:
    assert moments(texts).tolist() == [alone(text) for text in texts]


def test_a_text_of_two_lines_does_not_lend_one_to_its_neighbour() -> None:
    one = "2026-01-31T12:00:00.000000Z"
    texts = [f"{one}\n{one}", "", one[:26]]  # as long together as three times
    assert moments(texts).tolist() == [NEVER, NEVER, NEVER]
