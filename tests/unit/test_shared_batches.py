"""Followers that are given the same batches, whole or in part, in any order, find what each finds in batches of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.replay_histories import CATALOGUE, Log, batch_of, cuts, random_log

from tallyroll.archive.records import judge
from tallyroll.bridges.forward import Forwarder
from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import micros_of
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.replay.judge import Judge
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.views import FOLD
from tallyroll.telemetry import Counters
from tallyroll.testing.poison import POISON

Follow = Callable[[Batch], Any]
"""What a follower finds in a batch, and what it then knows."""


def parts_of(fold: PartitionFold) -> Any:
    return [{owner: part.dump() for owner, part in fold.parts(view).items() if part.version} for view in range(len(FOLD.views))]


def fold_of(place: TopicPartition, **narrowed: Any) -> PartitionFold:
    return PartitionFold(FOLD, place.topic, place.topic, place.partition, **narrowed)


def at_once(place: TopicPartition) -> Follow:
    fold = fold_of(place)
    return lambda batch: (fold.apply(batch), parts_of(fold), fold.repeats.dump())


def from_a_store(place: TopicPartition) -> Follow:
    """Forgets and reads again what it has stored."""
    fold, store = fold_of(place), dict[tuple[int, str], bytes]()

    def load(view: int, owners: Sequence[str]) -> Mapping[str, bytes]:
        return {owner: store[view, owner] for owner in owners if (view, owner) in store}

    def follow(batch: Batch) -> Any:
        applied = fold.apply(batch, load)
        store.update({(part.view, part.owner): part.dump() for part in fold.take_dirty()})
        fold.forget_old()
        return applied, sorted(store.items()), fold.repeats.dump()

    return follow


def settling(place: TopicPartition) -> Follow:
    """Leaves the changes of two batches of three for the third."""
    fold, batches = fold_of(place), 0

    def follow(batch: Batch) -> Any:
        nonlocal batches
        batches += 1
        applied = fold.take(batch)
        if batches % 3 == 0:
            fold.settle(fold.awaited(), {}, batch.next_offset)
        return applied, parts_of(fold), fold.repeats.dump()

    return follow


def of_a_view(place: TopicPartition) -> Follow:
    fold = fold_of(place, view=1)
    return lambda batch: (fold.apply(batch, lambda _view, _owners: {}), parts_of(fold), fold.repeats.dump())


def archived(_: TopicPartition) -> Follow:
    repeats = RepeatFilter()
    return lambda batch: (judge(batch, repeats), repeats.dump())


def judged(_: TopicPartition) -> Follow:
    one = Judge()
    return lambda batch: (one.rows(batch), one.found)


def forwarded(_: TopicPartition) -> Follow:
    one = Forwarder(None, CATALOGUE, None, met=None, telemetry=Counters(), event_types=["task.completed"])  # type: ignore[arg-type]  # nothing is sent

    def follow(batch: Batch) -> Any:
        letters = one.apply(batch)
        return letters, [list(lane.waiting) for lane in one._lanes.values()]

    return follow


FOLLOWERS: Sequence[Callable[[TopicPartition], Follow]] = (at_once, from_a_store, settling, of_a_view, archived, judged, forwarded)


def with_poison(rng: Random, log: Log) -> Log:
    for values in log.values():
        for _ in range(rng.choice((0, 0, 0, 2))):
            values.insert(rng.randint(0, len(values)), rng.choice(POISON).value)  # type: ignore[arg-type]  # a record may have no value
    return log


def own(batch: Batch) -> Batch:
    return batch_of(batch.topic_partition, batch.values, batch.offsets[0])


@settings(max_examples=60)
@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 60))
def test_what_is_found_in_shared_batches_is_what_is_found_in_own_ones(rng: Random, count: int) -> None:
    log = with_poison(rng, random_log(rng, count))
    shared = {(place, make): make(place) for place in log for make in FOLLOWERS}
    alone = {(place, make): make(place) for place in log for make in FOLLOWERS}
    for batch in cuts(rng, log):
        for make in rng.sample(FOLLOWERS, len(FOLLOWERS)):
            which = (batch.topic_partition, make)
            at = rng.randint(0, len(batch))  # a follower may have the beginning already, and be shown a batch in pieces
            pieces = [(0, at), (at, len(batch))] if 0 < at < len(batch) and rng.random() < 0.3 else [(0, len(batch))]
            for start, stop in pieces:
                part = batch if stop - start == len(batch) else batch.slice(start, stop)
                assert shared[which](part) == alone[which](own(part))


@given(rng=st.randoms(use_true_random=False), count=st.integers(1, 30))
def test_a_part_of_a_batch_says_what_it_says_alone(rng: Random, count: int) -> None:
    for batch in cuts(rng, with_poison(rng, random_log(rng, count))):
        if rng.random() < 0.7:
            batch.made(fold_of(batch.topic_partition)._reader)
        start = rng.randrange(len(batch))
        part = batch.slice(start, rng.randint(start + 1, len(batch)))
        alone = own(part)
        assert [*map(repr, part.times_us())] == [*map(repr, alone.times_us())]
        assert part.types() == alone.types()
        assert [list(column) for column in part.readable()] == [list(column) for column in alone.readable()]
        assert part.unreadable().keys() == alone.unreadable().keys()


def test_followers_that_fold_alike_are_given_the_very_same() -> None:
    place = TopicPartition("task-events", 0)
    batch = batch_of(place, [b"{}"])
    assert batch.made(fold_of(place)._reader) is batch.made(fold_of(place)._reader)
    assert batch.made(fold_of(place)._reader) is not batch.made(fold_of(place, view=1)._reader)


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00", "2026-01-31T12:00:00", "", "soon"])
def test_a_time_that_is_none_costs_no_neighbour_its_own(time: str) -> None:
    text = '{"specversion":"1.0","id":"1","source":"s","type":"t","subject":"task:t","time":"%s"}'
    good = "9999-12-31T23:59:59.999999Z", "0001-01-01T00:00:00+00:00"
    batch = batch_of(TopicPartition("task-events", 0), [(text % one).encode() for one in (good[0], time, good[1])])
    first, odd, last = batch.times_us()
    assert (first, last) == (micros_of(good[0]), micros_of(good[1]))
    assert isinstance(odd, Undecodable)


def test_a_fold_of_one_owner_waits_for_no_part() -> None:
    place = TopicPartition("task-events", 0)
    with pytest.raises(ValueError, match="narrowed"):
        fold_of(place, view=0, owner="a").take(batch_of(place, [b"{}"]))
