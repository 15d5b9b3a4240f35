"""What is kept of one partition for those who come later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tallyroll.adapters.kafka.window import Window
from tallyroll.events.batch import Batch


def batch(offsets):
    values = [b"%d" % offset for offset in offsets]
    return Batch("t", 0, offsets=offsets, keys=[None] * len(offsets), values=values, timestamps_ms=[-1] * len(offsets))


@st.composite
def readings(draw):
    """Where it begins, and batches as they may come: with holes, with records that are there already, with some from before."""
    start = draw(st.integers(0, 20))
    offsets, batches = sorted(draw(st.sets(st.integers(0, 120), min_size=1))), []
    at = 0
    while at < len(offsets):
        size = draw(st.integers(1, 8))
        batches.append(batch(offsets[at : at + size]))
        at += draw(st.integers(1, size))
    return start, batches


def taken(window, position, most):
    found = []
    while (some := window.at(position, most)) is not None:
        assert 1 <= len(some) <= most
        found += some.offsets
        position = some.next_offset
    return found


@given(readings(), st.integers(0, 130), st.integers(1, 9))
def test_from_any_position_that_is_kept_everything_comes_once_and_in_order(reading, position, most):
    start, batches = reading
    window = Window(start, 0)
    for one in batches:
        window.add(one)
    position = max(position, window.start)
    there = sorted({offset for one in batches for offset in one.offsets})
    assert taken(window, position, most) == [offset for offset in there if offset >= position]


@given(readings(), st.integers(0, 130))
def test_what_everybody_has_is_forgotten_and_the_rest_is_kept(reading, position):
    start, batches = reading
    window = Window(start, 0)
    for one in batches:
        window.add(one)
    end = window.end
    window.drop_to(position)
    assert window.start <= max(position, start)
    assert window.end == end
    there = sorted({offset for one in batches for offset in one.offsets})
    assert taken(window, window.start, 500) == [offset for offset in there if offset >= window.start]
    while window.size:
        window.drop_first()
    assert window.start == end


def test_who_takes_whole_batches_gets_the_same_ones():
    window = Window(0, 0)
    window.add(batch([0, 1, 2]))
    assert window.at(0, 3) is window.at(0, 500)


def test_what_is_no_longer_kept_is_not_given_nor_what_lies_behind_it_in_its_stead():
    window = Window(0, 0)
    window.add(batch([0, 1, 2]))
    window.add(batch([3, 4, 5]))
    window.drop_first()
    assert window.at(1, 500) is None
    window.drop_first()
    assert window.at(1, 500) is window.at(6, 500) is None
