"""The checks of a partition, carried from seal to seal."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.replay_histories import Publisher, batch_of, event, random_log

from tallyroll.archive.checks import Checks
from tallyroll.archive.records import judge
from tallyroll.events.chain import ChainChecker
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.replay.findings import SequenceCheck

PLACE = TopicPartition("task-events", 0)


@pytest.mark.parametrize("seed", range(5))
def test_checks_that_were_carried_on_find_what_checks_of_everything_find(seed: int) -> None:
    rng = Random(seed)  # noqa: S311  # a fixed history
    for partition, values in random_log(rng, 250).items():
        if not values:
            continue
        batch = batch_of(partition, values)
        records, heads = judge(batch, RepeatFilter()), batch.heads()
        whole, carried, found = Checks(partition), Checks(partition), []
        whole.read(records, heads)
        at = 0
        while at < len(records):
            stop = at + rng.randint(1, 40)
            carried.read(records[at:stop], heads[at:stop])
            found += carried.settle()
            carried = Checks(partition, carried.dump())
            at = stop
        assert sorted([*found, *carried.findings()]) == sorted(whole.findings())


def test_what_is_carried_on_stays_small_and_every_gap_is_told_once() -> None:
    publisher = Publisher("p")
    made = [publisher.record(event("task.started", f"task:t-{number // 3}", at_s=number), skip=number % 2) for number in range(1_500)]
    values = [value for place, value in made if place == PLACE]
    batch, links, sequences = batch_of(PLACE, values), ChainChecker(), SequenceCheck(*PLACE)
    link_gaps, jumps = 0, 0
    for index, head in enumerate(batch.heads()):
        links.feed(index, values[index], head.link())
        sequences.read(batch.slice(index, index + 1))
        link_gaps += len(links.settle(keep=20))
        jumps += sum(finding.missing for finding in sequences.settle(keep=20))
        links, sequences = ChainChecker.load(links.dump()), SequenceCheck.load(*PLACE, sequences.dump())
        assert len(links.dump()[1]) <= 20
        assert len(sequences.dump()) <= 20
    skipped = [number for number, (place, _) in enumerate(made) if place == PLACE and number % 2]
    assert link_gaps + len(links.open_gaps()) == len(skipped)
    # A run that is met in its middle starts there: a jump at its first record is none.
    assert jumps + sum(finding.missing for finding in sequences.findings()) == sum(1 for number in skipped if number % 3)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=8)
def test_a_state_that_was_loaded_is_dumped_as_if_it_never_had_been(seed: int) -> None:
    rng = Random(seed)  # noqa: S311  # a fixed history
    for partition, values in random_log(rng, 120).items():
        if not values:
            continue
        batch, stays, loaded = batch_of(partition, values), SequenceCheck(*partition), SequenceCheck(*partition)
        for at in range(0, len(values), 7):
            piece, keep = batch.slice(at, min(at + 7, len(values))), rng.randint(1, 6)
            stays.read(piece)
            loaded.read(piece)
            assert loaded.settle(keep=keep) == stays.settle(keep=keep)
            assert loaded.findings() == stays.findings()
            assert loaded.dump() == stays.dump()
            loaded = SequenceCheck.load(*partition, loaded.dump())
