"""What is archived and old enough is let go: snapshots that were proven right stand for it, and its files are removed.

The file with those snapshots comes first, then one transaction in the index, then the files of the segments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from tallyroll.archive.anchor import SUFFIX, anchor_bytes, anchor_from, anchor_name, previous_of
from tallyroll.archive.checks import Checks
from tallyroll.archive.reader import ArchiveReader
from tallyroll.archive.records import judge, raw_batch
from tallyroll.archive.sealing import Fault, no_fault, written
from tallyroll.archive.segment import decode_sealed
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import SegmentDamaged, SnapshotMismatch, UnknownSchema
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows
from tallyroll.events.topics import Catalogue
from tallyroll.ports import ArchiveIndex, ArchiveMark, Judged, Pruned, Segment, StoredPart
from tallyroll.replay.applied import Applied
from tallyroll.replay.fold import Fold, Part
from tallyroll.replay.partition import PartitionFold, no_collecting
from tallyroll.replay.snapshots import is_sound, stored_part

Verified = Callable[[TopicPartition, Segment, str], Sequence[Judged]]
"""A segment's records, if they are what was sealed behind that digest. Raises SegmentDamaged."""

_decode: Final = msgspec.json.decode  # parts are equal whatever order their maps are in


class Prunable(NamedTuple):
    """What would go, or has gone: everything below ``kept``, in so many segments; ``last_us`` is its latest event time."""

    partition: TopicPartition
    kept: int
    segments: int
    records: int
    file_bytes: int
    last_us: int | None


def older(segments: Sequence[Segment], before_us: int) -> Sequence[Segment]:
    """The longest run from the start of which no event is as late as that moment; it ends with a segment that has events."""
    ended = 0
    for number, segment in enumerate(segments, 1):
        if segment.last_us is not None:
            if segment.last_us >= before_us:
                break
            ended = number
    return segments[:ended]


class Pruner:
    """Prunes an archive. Blocks: everything that goes is read and folded once more before.

    Crash: at whatever step, either nothing is pruned or all of it is; ``finish`` removes files that are left over. Safe beside
    a follower and another pruner. Raises SnapshotMismatch where not every owner's snapshot of every view is there and is what
    the events come to; UnknownSchema for an event that a newer version than this one wrote; SegmentDamaged, StoreUnavailable,
    PositionConflict. Then nothing has changed.
    Not promised: that the index's own file becomes smaller; its room is used again.
    """

    def __init__(self, store: ArchiveStore, catalogue: Catalogue, fold: Fold, verified: Verified, *, fault: Fault = no_fault) -> None:
        self._store = store
        self._catalogue = catalogue
        self._fold = fold
        self._verified = verified
        self._fault = fault
        self._reader = ArchiveReader(store)

    def look(self, partition: TopicPartition, before_us: int) -> Prunable | None:
        """What is older than that moment, in event time; None if nothing is."""
        going = older(self._reader.segments(partition), before_us)
        return _prunable(partition, going) if going else None

    def check(self, wanted: Prunable) -> None:
        """Raises what ``prune`` would raise, and changes nothing."""
        self._pruned(wanted)

    def prune(self, wanted: Prunable) -> None:
        """Lets go what ``look`` gave. Survives a crash of the machine."""
        partition = wanted.partition
        pruned, files = self._pruned(wanted), self._store.files(partition)
        content = anchor_bytes(partition, pruned)
        self._fault("pruning checked")
        with written(partition):
            files.put(pruned.name, content)
        self._fault("anchor put")

        def is_whole() -> bool:
            self._fault("in pruning")
            return files.size(pruned.name) == len(content)

        self._store.made(partition).prune(pruned, is_whole)
        self._fault("pruned")
        self.finish(partition)

    def finish(self, partition: TopicPartition) -> None:
        """Removes the files of what was pruned: all of them, or what a crash has left."""
        mark = self._reader.marks([partition]).get(partition)
        if mark is None or not mark.kept:
            return
        files, stays = self._store.files(partition), anchor_name(mark.kept)
        with written(partition):
            for name in sorted(files.names()):
                if _begins(name) < mark.kept and name != stays:
                    files.remove(name)
                    self._store.close_segment(partition, name)
                    self._fault("file removed")

    def _pruned(self, wanted: Prunable) -> Pruned:
        partition, kept = wanted.partition, wanted.kept
        index = self._store.made(partition)
        mark = index.mark()
        going = [segment for segment in index.segments() if segment.next <= kept]
        if mark is None or not going or going[-1].next != kept:
            raise ValueError(f"{partition} has no segment that ends at {kept}")
        topic = self._catalogue.named(partition.topic)
        if topic is None:
            raise ValueError(f"{partition.topic} is no topic of the catalogue")
        views = [view for view in self._fold.views if topic.base in view.topics]
        reducers = {view.name: self._fold.reducer_ids[view.name] for view in views}
        for name, reducer_id in reducers.items():
            if not _covers(reducer_id, mark, going):
                raise SnapshotMismatch(f"{name} at {partition}/{kept}", "this version's reducer has not taken one of every owner")
        before = read_anchor(self._store, partition, mark) if mark.kept else None
        fold = PartitionFold(self._fold, partition.topic, topic.base, partition.partition)
        for part in before.parts if before is not None else ():
            if part.reducer_id == reducers.get(part.view):
                fold.restore(self._fold.index(part.view), part.owner, part.part)
        repeats = RepeatFilter.from_bytes(before.repeats) if before is not None else RepeatFilter()
        checks = Checks(partition, before.checks if before is not None else b"", from_start=mark.first == 0)
        with no_collecting():
            self._read_again(partition, going, fold, repeats, checks, previous_of(mark))
        parts = [
            part for name, reducer_id in reducers.items()
            for part in self._proven(index, partition, kept, name, reducer_id, fold.parts(self._fold.index(name)).values())
        ]  # fmt: skip
        holes = [hole for hole in mark.holes if hole.end <= kept]
        times = [time for time in (mark.kept_us, wanted.last_us) if time is not None]
        return Pruned(
            anchor_name(kept), mark.first, kept, max(times, default=None), going[-1].digest, holes, repeats.to_bytes(), checks.dump(),
            list(reducers.values()), parts,
        )  # fmt: skip

    def _read_again(  # noqa: PLR0913  # everything that learns from the records
        self,
        partition: TopicPartition,
        going: Sequence[Segment],
        fold: PartitionFold,
        repeats: RepeatFilter,
        checks: Checks,
        previous: str,
    ) -> None:
        """Brings fold, repeats and checks to where they were at the end of the segments."""
        for segment in going:
            records = self._verified(partition, segment, previous)
            if judge(raw_batch(partition, records), repeats) != list(records):
                raise SegmentDamaged(f"{partition}/{segment.name}", "its records are judged differently now")
            checks.read(records, [*map(decode_sealed, records)])
            checks.settle()
            for rows in self._reader.rows(partition, segment.base, segment.next):
                self._refuse_newer(rows, fold.apply_rows(rows))
            previous = segment.digest

    def _refuse_newer(self, rows: Rows, applied: Applied) -> None:
        """No snapshot here stands for what a newer version wrote, and that version has not folded it: it must find the event."""
        for one in applied.found:
            if one.kind == "unknown_schema":
                event_type = rows.types[one.index]
                raise UnknownSchema(event_type, rows.versions[one.index], self._fold.schemas.current(event_type))

    def _proven(  # noqa: PLR0913  # what identifies the snapshots, and what they are held against
        self, index: ArchiveIndex, partition: TopicPartition, kept: int, view: str, reducer_id: str, folded: Iterable[Part]
    ) -> Iterator[StoredPart]:
        """The snapshot of every owner, as of ``kept``; each is what the events come to."""
        made = {part.owner: part for part in folded if part.version}
        stored = index.parts(view, reducer_id, end=kept, order_us=None, owners=None)
        if made.keys() != {one.owner for one in stored}:
            raise SnapshotMismatch(f"{view} at {partition}/{kept}", "there is not one of every owner")
        for one in stored:
            dumped = made[one.owner].dump()
            if not is_sound(one) or (one.part != dumped and _decode(one.part) != _decode(dumped)):
                raise SnapshotMismatch(f"{view} at {partition}/{one.end}", "it is not what the events come to")
            yield stored_part(view, one.owner, partition, reducer_id, kept, one.order_us, one.version, one.part)


def read_anchor(store: ArchiveStore, partition: TopicPartition, mark: ArchiveMark) -> Pruned:
    """What stands for the pruned part of a partition. Raises SegmentDamaged, StoreUnavailable."""
    found = read_anchor_file(store, partition, anchor_name(mark.kept))
    if (found.kept, found.digest) != (mark.kept, mark.kept_digest):
        raise SegmentDamaged(f"{partition}/{found.name}", "it stands for something else than what was pruned")
    return found


def read_anchor_file(store: ArchiveStore, partition: TopicPartition, name: str) -> Pruned:
    """The content of one such file. Raises SegmentDamaged, StoreUnavailable."""
    try:
        return anchor_from(store.content(partition, name), partition)
    except ValueError as error:
        raise SegmentDamaged(f"{partition}/{name}", str(error)) from error


def is_anchor(name: str) -> bool:
    """Whether a name is that of such a file, and not of one half-written."""
    return name.endswith(SUFFIX) and name[:1].isdecimal()


def _covers(reducer_id: str, mark: ArchiveMark, going: Sequence[Segment]) -> bool:
    return (not mark.kept or reducer_id in mark.kept_for) and all(reducer_id in segment.reducers for segment in going)


def _begins(name: str) -> int:
    digits = name[:20]
    return int(digits) if digits.isdecimal() else 2**63  # a file that is being written


def _prunable(partition: TopicPartition, going: Sequence[Segment]) -> Prunable:
    return Prunable(
        partition,
        going[-1].next,
        len(going),
        sum(segment.records for segment in going),
        sum(segment.file_bytes for segment in going),
        max((segment.last_us for segment in going if segment.last_us is not None), default=None),
    )
