"""The reading half: what is sealed and what is not, as one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

from tallyroll.archive.checks import Checks
from tallyroll.archive.reading import SegmentReader
from tallyroll.archive.records import TailPiece, raw_batch
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import SegmentDamaged, SpanGone
from tallyroll.events.batch import Batch
from tallyroll.events.codec import decode_heads
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Columns, Rows
from tallyroll.ports import ArchivedFinding, ArchiveIndex, ArchiveMark, Judged, Run, Segment, StoredPart, TailColumns
from tallyroll.replay.selection import merge_rows

_PIECE: Final = 8_192  # records of the tail read at a time
_BATCH: Final = 4_096  # records of a raw batch
_NEAR: Final = 4_096  # rows of a run, of which more are found faster by reading whole groups

T = TypeVar("T")


class ArchiveReader:
    """The port ``Archive``. Each step reads what the index says at that moment, so a seal on the way loses nothing.

    The findings of the tail are made anew at each call, since a late record may still change them.
    The store stays open. Not promised: that two calls see the same moment; ask for spans below one mark.
    """

    def __init__(self, store: ArchiveStore) -> None:
        self._store = store
        # What follows one another mostly reads the same tail: its rows, then what is wrong with it. Records never change.
        self._latest: tuple[tuple[TopicPartition, int, int], TailPiece] | None = None

    def marks(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, ArchiveMark]:
        marks = {}
        for partition in partitions:
            index = self._store.index(partition)
            mark = index.mark() if index is not None else None
            if mark is not None:
                marks[partition] = mark
        return marks

    def segments(self, partition: TopicPartition) -> Sequence[Segment]:
        index = self._store.index(partition)
        return index.segments() if index is not None else ()

    def rows(  # noqa: PLR0913  # as the port
        self,
        partition: TopicPartition,
        start: int,
        end: int,
        *,
        types: Collection[str] | None = None,
        until_us: int | None = None,
        whole: bool = False,
        by_agent: bool = False,
        agents: Callable[[str | None], bool] | None = None,
    ) -> Iterator[Rows]:
        for found in self._pieces(partition, start, end):
            if isinstance(found, Segment):
                if until_us is not None and (found.first_us is None or found.first_us > until_us):
                    continue
                yield from self._read(
                    partition,
                    found,
                    lambda reader: reader.rows(start, end, types=types, until_us=until_us, whole=whole, by_agent=by_agent, agents=agents),
                )
            else:
                rows = found.rows(partition, types=types, until_us=until_us, whole=whole, agents=agents)
                if rows is not None:
                    yield rows

    def owner_rows(  # noqa: PLR0913  # as the port
        self, partition: TopicPartition, key: str, start: int, end: int, *, until_us: int | None = None, whole: bool = False
    ) -> Rows | None:
        index = self._store.index(partition)
        if index is None:
            return None
        owned = index.owned(key, start, end)
        _check_kept(partition, start, owned.kept)
        some: list[Rows] = []
        for segment, runs in owned.runs:
            for run in runs:
                if until_us is None or (run.first_us is not None and run.first_us <= until_us):
                    some += self._read(partition, segment, partial(_of_run, run=run, start=start, end=end, until_us=until_us, whole=whole))
        tail = TailPiece(TailColumns.of(owned.records)).rows(partition, types=None, until_us=until_us, whole=whole)
        if tail is not None:
            some.append(tail)
        return (some[0] if len(some) == 1 else merge_rows(some)) if some else None

    def columns(self, partition: TopicPartition, segment: Segment, values: Collection[str], *, aggregates: bool = True) -> Columns:
        return self._read(partition, segment, lambda reader: reader.columns(values, aggregates=aggregates))

    def records(self, partition: TopicPartition, start: int, end: int) -> Iterator[Batch]:
        for piece in self.judged(partition, start, end):
            for at in range(0, len(piece), _BATCH):
                yield raw_batch(partition, piece[at : at + _BATCH])

    def judged(self, partition: TopicPartition, start: int, end: int) -> Iterator[Sequence[Judged]]:
        """As ``records``, with what was made of each; a segment or less at a time."""
        index, at = self._store.index(partition), start
        while index is not None and at < end:
            found = index.find(at, end, _PIECE)
            _check_kept(partition, at, found.kept)
            if found.segment is not None:
                yield self._read(partition, found.segment, lambda reader: reader.records(start, end))
                at = found.segment.next
            elif found.records:
                yield found.records
                at = found.records[-1].offset + 1
            else:
                return

    def parts(  # noqa: PLR0913  # as the port
        self, partition: TopicPartition, view: str, reducer_id: str, *, end: int, order_us: int | None = None, owner: str | None = None
    ) -> Iterator[StoredPart]:
        index = self._store.index(partition)
        if index is None:
            return iter(())
        if owner is not None:
            return _newest_first(partial(index.parts_of, view, reducer_id, owner, order_us=order_us), end)
        return iter(index.parts(view, reducer_id, end=end, order_us=order_us, owners=None))

    def findings(self, partition: TopicPartition, start: int, end: int, *, settled: bool = False) -> Sequence[ArchivedFinding]:
        index = self._store.index(partition)
        if index is None:
            return ()
        found = list(index.findings(start, end))
        mark = None if settled else index.mark()
        if mark is None:
            return found
        checks = Checks(partition, index.checks(), from_start=mark.first == 0)
        # What was sealed meanwhile comes as a segment, so the checks go on from where they were.
        for piece in self._pieces(partition, mark.sealed, end):
            if isinstance(piece, Segment):
                sealed = self._read(partition, piece, lambda reader: reader.records(mark.sealed, end))
                checks.read(sealed, decode_heads([record.value for record in sealed]))
            else:
                checks.read_columns(piece.tail, piece.heads)
        self._latest = None
        return sorted([*found, *(one for one in checks.findings() if start <= one.offset < end)], key=lambda one: one.offset)

    def _pieces(self, partition: TopicPartition, start: int, end: int) -> Iterator[Segment | TailPiece]:
        """Segments and pieces of the tail, in offset order."""
        index, at = self._store.index(partition), start
        while index is not None and at < end:
            known = self._latest
            if known is not None and known[0] == (partition, at, end):
                piece = known[1]
            else:
                found = index.scan(at, end, _PIECE)
                _check_kept(partition, at, found.kept)
                if found.segment is not None:
                    yield found.segment
                    at = found.segment.next
                    continue
                if found.tail is None:
                    return
                piece = TailPiece(found.tail)
                self._latest = ((partition, at, end), piece)
            yield piece
            at = piece.tail.offsets[-1] + 1

    def _read(self, partition: TopicPartition, segment: Segment, read: Callable[[SegmentReader], T]) -> T:
        try:
            return read(SegmentReader(partition, segment, self._store.segment(partition, segment)))
        except SegmentDamaged:
            index = self._store.index(partition)
            renamed, mark = _renamed(index, segment), index.mark() if index is not None else None
            if mark is not None and segment.base < mark.kept:
                raise SpanGone({str(partition): mark.kept}, pruned=True) from None
            if renamed is None:
                raise
            return read(SegmentReader(partition, renamed, self._store.segment(partition, renamed)))


def _check_kept(partition: TopicPartition, at: int, kept: int) -> None:
    if at < kept:
        raise SpanGone({str(partition): kept}, pruned=True)


def _newest_first(parts_of: Callable[..., Sequence[StoredPart]], end: int) -> Iterator[StoredPart]:
    """One after the other, since who finds the first one sound asks for no more."""
    while found := parts_of(end=end, limit=1):
        yield found[0]
        end = found[0].end - 1


def _of_run(  # noqa: PLR0913  # a run, and how far reading it can be narrowed
    reader: SegmentReader, *, run: Run, start: int, end: int, until_us: int | None, whole: bool
) -> list[Rows]:
    first, stop = run.row, run.row + run.rows
    if whole or run.rows > _NEAR:
        return [*reader.rows(start, end, first_row=first, stop_row=stop, until_us=until_us, whole=whole)]
    return [*reader.near_rows(start, end, first_row=first, stop_row=stop, until_us=until_us)]


def _renamed(index: ArchiveIndex | None, segment: Segment) -> Segment | None:
    """The same segment under another name, if somebody has rewritten it meanwhile."""
    now = [] if index is None else [one for one in index.segments() if one.base == segment.base and one.name != segment.name]
    return now[0] if now and now[0].digest == segment.digest else None
