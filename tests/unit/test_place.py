"""Where a member stands, and who reads for it."""

from __future__ import annotations

import pytest

from tallyroll.adapters.kafka.place import Place
from tallyroll.events.position import TopicPartition

A, B = TopicPartition("t", 0), TopicPartition("t", 1)


@pytest.fixture
def place():
    place = Place()
    place.came(A, 5)
    place.came(B, None)
    return place


def test_what_came_is_its_own_until_it_is_fed(place):
    assert place.reads_itself
    assert not place.is_served
    assert place.undecided == [A], "of the other one nobody knows where it begins"
    place.feed(A)
    assert place.is_served
    assert place.ready == [A]
    place.passed(B, 3)
    assert place.undecided == [B]


def test_what_is_lost_or_waits_is_not_given(place):
    place.feed(A)
    place.lost.add(A)
    assert place.ready == []
    assert not place.has_news
    place.unfeed(A)
    assert place.undecided == [A]
    place.feed(A)
    place.waiting.add(A)
    assert place.ready == []
    assert not place.is_served


def test_what_went_leaves_nothing_and_what_comes_again_begins_anew(place):
    place.feed(A)
    place.waiting.add(A)
    place.went(A)
    place.moved(A, 9)
    assert A not in place.next
    place.came(A, 7)
    assert place.next[A] == 7
    assert place.undecided == [A], "it does not wait any more"


def test_who_waits_longest_comes_first(place):
    for partition in (A, B):
        place.feed(partition)
    place.passed(B, 1)
    place.passed(A, 6)
    assert place.ready == [B, A]
