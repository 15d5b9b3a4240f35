"""What must be true of an archive whose start was pruned: said by the fold and by the log, not by the archive."""

from __future__ import annotations

from random import Random

import msgspec
from tests.unit.archiving import ALL, all_rows, cells, first_copies, full_fold, raw
from tests.unit.replay_histories import CATALOGUE, Log, batch_of

from tallyroll.archive.opening import OpenArchive
from tallyroll.archive.pruning import Prunable
from tallyroll.errors import UnknownSchema
from tallyroll.events.position import TopicPartition
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.reading import owner_key
from tallyroll.replay.snapshots import is_sound
from tallyroll.replay.views import FOLD

decode = msgspec.json.decode  # parts are equal whatever order their maps are in


def up_to(archive: OpenArchive, partition: TopicPartition, segments: int) -> Prunable:
    """So many of the oldest segments."""
    going = archive.reader.segments(partition)[:segments]
    times = [one.last_us for one in going if one.last_us is not None]
    return Prunable(partition, going[-1].next, len(going), sum(one.records for one in going), 0, max(times, default=None))


def prune_at_random(archive: OpenArchive, rng: Random, log: Log) -> int:
    """Prunes some segments of some partitions, as many as hold nothing that a newer version wrote; of how many."""
    pruned = 0
    for partition in log:
        count = len(archive.reader.segments(partition))
        if count and rng.random() < 0.8:
            pruned += any(_is_pruned(archive, partition, segments) for segments in range(rng.randint(1, count), 0, -1))
    return pruned


def _is_pruned(archive: OpenArchive, partition: TopicPartition, segments: int) -> bool:
    try:
        archive.pruner.prune(up_to(archive, partition, segments))
    except UnknownSchema:
        return False
    return True


def left_holds(archive: OpenArchive, log: Log) -> None:
    """What is left of a log that was archived as a whole, and what its snapshots come to together with the rest."""
    for partition, mark in archive.reader.marks(list(log)).items():
        whole, kept = batch_of(partition, log[partition]), mark.kept
        assert mark.next == len(whole)
        assert raw(list(archive.reader.records(partition, kept, ALL))) == raw([whole])[kept:]
        assert cells(all_rows(archive, partition, kept, whole=True)) == [row for row in cells(first_copies(whole)) if row[0] >= kept]
        assert archive.keeper.verify(partition) == []
        assert all(segment.base >= kept for segment in archive.reader.segments(partition))
        full, base = full_fold(whole), CATALOGUE.named(partition.topic).base
        for number, view in enumerate(FOLD.views):
            if base not in view.topics:
                continue
            assert kept == 0 or FOLD.reducer_ids[view.name] in mark.kept_for
            for owner, part in full.parts(number).items():
                stored = list(archive.reader.parts(partition, view.name, FOLD.reducer_ids[view.name], end=ALL, owner=owner))
                assert all(map(is_sound, stored))
                for one in stored or [None]:
                    ours = PartitionFold(FOLD, partition.topic, base, partition.partition, view=number, owner=owner)
                    if one is not None:
                        ours.restore(number, owner, one.part)
                    rows = archive.reader.owner_rows(partition, owner_key(view, owner), one.end if one else kept, ALL)
                    if rows is not None:
                        ours.apply_rows(rows)
                    if part.version or ours.parts(number):
                        assert decode(ours.parts(number)[owner].dump()) == decode(part.dump())
