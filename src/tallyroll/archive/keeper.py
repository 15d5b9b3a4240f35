"""What an operator does with the archive: seal now, look after it, verify it, make it anew. Every method blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tallyroll.archive.anchor import anchor_name, previous_of, whole_from
from tallyroll.archive.pruning import is_anchor, read_anchor, read_anchor_file
from tallyroll.archive.reader import ArchiveReader
from tallyroll.archive.reading import SegmentReader
from tallyroll.archive.records import judge, raw_batch
from tallyroll.archive.sealing import Sealer
from tallyroll.archive.segment import GENESIS, Digest, segment_from
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import PositionConflict, SegmentDamaged
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.ports import Append, ArchiveIndex, Clock, Judged, Segment, Span

_TRIES: Final = 3  # a follower beside it seals when a tail is due, and sweeps when it begins: both seldom


@dataclass(frozen=True, slots=True)
class ArchiveStatus:
    """What the archive of one partition holds. Offsets are the next ones; ``since_us`` is when its oldest unsealed record came.

    ``kept``: up to there it was pruned, 0 for not at all.
    ``lag``: records of the log that are not archived; ``headroom``: how many archived offsets the log still has, which is
    how much may go wrong before a record is lost. Both are None when the log was not asked.
    """

    partition: TopicPartition
    first: int
    sealed: int
    next: int
    segments: int
    records: int
    raw_bytes: int
    file_bytes: int
    tail_records: int
    since_us: int | None
    holes: Sequence[Span]
    kept: int
    lag: int | None = None
    headroom: int | None = None


class Damage(NamedTuple):
    """A file that is not what was sealed, and why."""

    segment: str
    reason: str


class ArchiveKeeper:
    """The writing side for people. Safe beside a running follower, except ``rebuild``: stop it before.

    Raises StoreUnavailable, SegmentDamaged, PositionConflict when somebody else seals at the same moment.
    Not promised: to repair a damaged segment; restore it from a copy.
    """

    def __init__(self, store: ArchiveStore, sealer: Sealer, *, clock: Clock) -> None:
        self._store = store
        self._sealer = sealer
        self._clock = clock
        self._reader = ArchiveReader(store)

    def seal(self, partition: TopicPartition) -> Segment | None:
        """Seals the tail now, however small; None if there is nothing in it."""
        return self._sealer.seal(partition)

    def seal_all(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Segment]:
        """Seals the tails of all of them; where somebody else was quicker, what they have left."""
        sealed = {partition: self._sealed(partition) for partition in partitions}
        return {partition: segment for partition, segment in sealed.items() if segment is not None}

    def _sealed(self, partition: TopicPartition) -> Segment | None:
        for _ in range(_TRIES - 1):
            with contextlib.suppress(PositionConflict):
                return self._sealer.seal(partition)
        return self._sealer.seal(partition)

    def accept_hole(self, partition: TopicPartition, until: int) -> Span:
        """Notes that the records up to ``until`` (exclusive) are lost, and lets the follower go on there.

        What is archived is sealed first, so that the hole lies between two segments. Raises ValueError when nothing is
        missing below ``until``.
        """
        index = self._store.index(partition)
        self._sealer.seal(partition)
        mark = index.mark() if index is not None else None
        if index is None or mark is None:
            raise ValueError(f"{partition} was never archived; the archive will begin where the log does")
        if until <= mark.next:
            raise ValueError(f"{partition} is archived up to {mark.next}; a hole ends behind that")
        hole = Span(*partition, mark.next, until)
        index.skip(hole, mark.repeats)
        return hole

    def verify(self, partition: TopicPartition) -> list[Damage]:
        """Reads every record of every segment, and holds digests and their chain against the manifest."""
        damaged = []
        mark = self._reader.marks([partition]).get(partition)
        previous = previous_of(mark)
        if mark is not None and mark.kept:
            try:
                read_anchor(self._store, partition, mark)
            except SegmentDamaged as error:
                damaged.append(Damage(anchor_name(mark.kept), error.reason))
        for segment in self._reader.segments(partition):
            try:
                self.verified(partition, segment, previous)
            except SegmentDamaged as error:
                damaged.append(Damage(segment.name, error.reason))
            previous = segment.digest
        return damaged

    def lacking(self, partition: TopicPartition) -> list[Damage]:
        """Which files of a partition are missing, or have another size than was sealed. Reads none of them."""
        index, files = self._store.index(partition), self._store.files(partition)
        mark = index.mark() if index is not None else None
        if index is None or mark is None:
            return [Damage("index.db", "it is missing; run 'tallyroll archive rebuild'")] if any(map(_is_kept, files.names())) else []
        damaged = {}
        for name, size in _wanted(index).items():
            found = files.size(name)
            if found is None:
                damaged[name] = Damage(name, "it is missing")
            elif size is not None and found != size:
                damaged[name] = Damage(name, f"it has {found} bytes, not {size}")
        still = _wanted(index) if damaged else {}  # one may have been pruned or rewritten meanwhile
        return [one for name, one in damaged.items() if name in still]

    def rebuild(self, partition: TopicPartition) -> Sequence[Segment]:
        """Makes the index anew from the files alone; the old one is kept beside it.

        Answers are the same afterwards, but for what was not sealed: the follower reads that from the log again. Accepted
        holes are found again between the segments. Raises SegmentDamaged; then the old index is as it was.
        """
        names = self._store.files(partition).names()
        anchors = [read_anchor_file(self._store, partition, name) for name in names if is_anchor(name)]
        anchor, found = whole_from(sorted(self._found(partition, names), key=lambda one: one.base), anchors)
        if not found and anchor is None:
            raise SegmentDamaged(str(partition), "there is no segment to rebuild from")
        previous = anchor.digest if anchor is not None else GENESIS
        for segment in found:  # all of them before the old index goes
            self.verified(partition, segment, previous)
            previous = segment.digest
        self._store.set_aside(partition)
        index, repeats = self._store.made(partition), RepeatFilter()
        if anchor is not None:
            index.prune(anchor, lambda: True)
            repeats = RepeatFilter.from_bytes(anchor.repeats)
        for segment in found:
            self._take_in(partition, index, segment, self.verified(partition, segment, segment.previous), repeats)
        self._sealer.clean(partition)
        return index.segments()

    def reproject(self, partition: TopicPartition) -> Sequence[Segment]:
        """Rewrites the segments whose columns are of another projection or format than today's; the records stay what they are."""
        rewritten = []
        for segment in self._reader.segments(partition):
            is_old = not self._store.segment(partition, segment).has_pieces
            if is_old or segment.projection != self._sealer.projection(partition):
                records = self.verified(partition, segment, segment.previous)
                new = self._sealer.rewrite(partition, segment, records, anyway=is_old)
                if new is not None:
                    rewritten.append(new)
        return rewritten

    def status(
        self,
        partitions: Sequence[TopicPartition],
        *,
        starts: Mapping[TopicPartition, int] | None = None,
        ends: Mapping[TopicPartition, int] | None = None,
    ) -> list[ArchiveStatus]:
        """One per partition that was archived; with the log's ``starts`` and ``ends`` also how they compare."""
        result = []
        for partition in partitions:
            index = self._store.index(partition)
            mark = index.mark() if index is not None else None
            if index is None or mark is None:
                continue
            segments, tail = index.segments(), index.tail()
            result.append(
                ArchiveStatus(
                    partition,
                    mark.first,
                    mark.sealed,
                    mark.next,
                    len(segments),
                    sum(one.records for one in segments) + tail.records,
                    sum(one.raw_bytes for one in segments) + tail.raw_bytes,
                    sum(one.file_bytes for one in segments),
                    tail.records,
                    tail.since_us,
                    mark.holes,
                    mark.kept,
                    lag=max(0, ends[partition] - mark.next) if ends is not None and partition in ends else None,
                    headroom=mark.next - starts[partition] if starts is not None and partition in starts else None,
                )
            )
        return result

    def verified(self, partition: TopicPartition, segment: Segment, previous: str) -> Sequence[Judged]:
        """The segment's records, if they are what was sealed behind that digest."""
        where = f"{partition}/{segment.name}"
        if segment.previous != previous:
            raise SegmentDamaged(where, "it does not follow the segment before it")
        reader = SegmentReader(partition, segment, self._store.segment(partition, segment))
        records = reader.records(segment.base, segment.next)
        digest = Digest(previous)
        digest.add(records)
        if digest.hex(partition, segment.base, segment.next) != segment.digest:
            raise SegmentDamaged(where, "its records are not those that were sealed")
        if segment.projection and sorted(reader.columns(()).offsets.tolist()) != [one.offset for one in records if one.verdict == "first"]:
            raise SegmentDamaged(where, "its columns are of other records than those that were sealed")
        if not reader.finds(records):
            raise SegmentDamaged(where, "a look-up would find other records than those that were sealed")
        return records

    def _found(self, partition: TopicPartition, names: Sequence[str]) -> list[Segment]:
        """One segment per base offset; of two files for the same records the one with today's columns."""
        today, files = self._sealer.projection(partition), self._store.files(partition)
        chosen: dict[int, Segment] = {}
        for name in sorted(names):
            if not name.endswith(".parquet"):
                continue
            where = f"{partition}/{name}"
            try:
                content = files.open(name)
                segment = segment_from(name, len(content), partition, self._store.codec.open(content).footer)
            except (OSError, ValueError) as error:
                raise SegmentDamaged(where, str(error)) from error
            known = chosen.get(segment.base)
            if known is None or (known.projection != today and segment.projection == today):
                chosen[segment.base] = segment
        return list(chosen.values())

    def _take_in(
        self, partition: TopicPartition, index: ArchiveIndex, segment: Segment, records: Sequence[Judged], repeats: RepeatFilter
    ) -> None:
        mark = index.mark()
        if mark is not None and mark.next < segment.base:
            index.skip(Span(*partition, mark.next, segment.base), mark.repeats)
        elif mark is not None and mark.next > segment.base:
            raise SegmentDamaged(f"{partition}/{segment.name}", "it overlaps the segment before it")
        again = judge(raw_batch(partition, records), repeats)
        if again != list(records):
            raise SegmentDamaged(f"{partition}/{segment.name}", "its records are judged differently now")
        expected = segment.base if mark is not None else None
        index.append(Append(expected, segment.base, segment.next, repeats.to_bytes(), records, self._clock.now_us()))
        self._sealer.take_in(partition, segment, records)


def _wanted(index: ArchiveIndex) -> dict[str, int | None]:
    """The files that the index names, with their sizes where these are noted."""
    mark = index.mark()
    anchors: dict[str, int | None] = {anchor_name(mark.kept): None} if mark is not None and mark.kept else {}
    return anchors | {one.name: one.file_bytes for one in index.segments()}


def _is_kept(name: str) -> bool:
    return name.endswith(".parquet") or is_anchor(name)
