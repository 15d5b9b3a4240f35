"""From the tail into a segment: the file first, then everything else in one transaction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.archive.checks import Checks
from tallyroll.archive.parts import SnapshotMaker
from tallyroll.archive.reader import ArchiveReader
from tallyroll.archive.reading import SegmentReader
from tallyroll.archive.records import Subjects
from tallyroll.archive.segment import (
    COLUMNS,
    GENESIS,
    PROJECTED,
    SealedHead,
    Table,
    decode_sealed,
    digest_of,
    footer_of,
    name_of,
    raw_bytes_of,
)
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import StoreUnavailable, Undecodable
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import ArchiveIndex, ArchiveMark, Judged, Sealed, Segment, SegmentColumn, Tail
from tallyroll.replay.fold import Fold
from tallyroll.replay.partition import no_collecting
from tallyroll.replay.projection import Projection

_HOUR_US: Final = 3_600 * 1_000_000

Fault = Callable[[str], None]
"""Called between two steps with the name of the place, so that a test can end the process there."""


def no_fault(_point: str) -> None:
    """The fault of everyday: none."""


@dataclass(frozen=True, slots=True)
class SealLimits:
    """When a tail is due: so many records, so many bytes of keys and values, or the oldest archived so long ago."""

    records: int = 262_144
    raw_bytes: int = 256 * 1024 * 1024  # a seal holds them in memory, once
    age_us: int = 6 * _HOUR_US

    def is_due(self, tail: Tail, now_us: int) -> bool:
        """Whether a tail should be sealed now."""
        if not tail.records:
            return False
        old = tail.since_us is not None and now_us - tail.since_us >= self.age_us
        return old or tail.records >= self.records or tail.raw_bytes >= self.raw_bytes


class _Content(NamedTuple):
    """Records in the order of a segment, with the columns that their payloads became."""

    table: Table
    columns: Sequence[SegmentColumn]
    projected: Sequence[Sequence[Any]]
    projection: str


class Sealer:
    """Makes segments. Blocks for some seconds per segment; call it from a worker thread.

    Crash: a file that the manifest does not name is no part of the archive; ``clean`` removes it. Two sealers of one
    partition fence each other: one gets PositionConflict, the other's segment stands. Raises StoreUnavailable when the disk
    is full or the index is away; then nothing has changed, and trying again is safe.
    Not promised: bounded memory beyond what ``SealLimits`` says and what one flush adds.
    """

    def __init__(self, store: ArchiveStore, catalogue: Catalogue, fold: Fold, *, fault: Fault = no_fault) -> None:
        self._store = store
        self._catalogue = catalogue
        self._fault = fault
        self._reader = ArchiveReader(store)
        self._makers = {topic.base: SnapshotMaker(fold, topic.base) for topic in catalogue.topics}

    def seal(self, partition: TopicPartition) -> Segment | None:
        """Seals everything in the tail; None if there is nothing."""
        index = self._store.index(partition)
        mark = index.mark() if index is not None else None
        if index is None or mark is None:
            return None
        records = [record for piece in self._reader.judged(partition, mark.sealed, mark.next) for record in piece]
        if not records:
            return None
        self._fault("tail read")
        with no_collecting():
            return self._seal(partition, index, mark, records)

    def clean(self, partition: TopicPartition) -> Sequence[str]:
        """Removes files that the manifest does not name, left by a crash or replaced; their names."""
        index, files = self._store.index(partition), self._store.files(partition)
        removed: list[str] = []

        def remove(known: frozenset[str]) -> None:
            for name in sorted(set(files.names()) - known):
                files.remove(name)
                removed.append(name)

        if index is not None:
            with _translated(partition):
                index.sweep(remove)
        return removed

    def take_in(self, partition: TopicPartition, segment: Segment, records: Sequence[Judged]) -> None:
        """Puts a segment whose file is there already into the index: what ``rebuild`` does for each."""
        index = self._store.made(partition)
        mark = index.mark()
        assert mark is not None  # noqa: S101  # the caller has appended the records
        with no_collecting():
            heads = [*map(decode_sealed, records)]
            sealed = self._sealed(partition, index, mark, segment, records, heads, Table(records, heads))
        index.seal(sealed, lambda: self._is_there(partition, segment))

    def rewrite(self, partition: TopicPartition, segment: Segment, records: Sequence[Judged]) -> Segment | None:
        """The segment's records under today's projection, in a new file; None if it is that already. The old file goes."""
        with no_collecting():
            content = self._content(partition, records, [*map(decode_sealed, records)])
            if content.projection == segment.projection:
                return None
            name = f"{name_of(segment.base, segment.next).removesuffix('.parquet')}-{content.projection[:8] or 'none'}.parquet"
            new = self._written(partition, msgspec.structs.replace(segment, name=name), content)
        self._store.made(partition).replace(segment, new)
        self.clean(partition)
        return new

    def projection(self, partition: TopicPartition) -> str:
        """The id of today's projection; empty where no view reads the topic."""
        known = self._maker(partition).projection
        return known.id if known is not None else ""

    def _seal(self, partition: TopicPartition, index: ArchiveIndex, mark: ArchiveMark, records: Sequence[Judged]) -> Segment:
        segments = index.segments()
        previous = segments[-1].digest if segments else GENESIS
        heads = [*map(decode_sealed, records)]
        content = self._content(partition, records, heads)
        times = [one.time_us for one in records if one.time_us is not None and one.verdict == "first"]
        planned = Segment(
            name_of(mark.sealed, mark.next),
            mark.sealed,
            mark.next,
            len(records),
            min(times, default=None),
            max(times, default=None),
            raw_bytes_of(records),
            0,
            previous,
            digest_of(previous, partition, mark.sealed, mark.next, records),
            content.projection,
        )
        segment = self._written(partition, planned, content)
        self._fault("file put")
        sealed = self._sealed(partition, index, mark, segment, records, heads, content.table)
        self._fault("before commit")

        def is_whole() -> bool:
            self._fault("in commit")
            return self._is_there(partition, segment)

        index.seal(sealed, is_whole)
        self._fault("after commit")
        return sealed.segment

    def _content(self, partition: TopicPartition, records: Sequence[Judged], heads: Sequence[SealedHead | Undecodable]) -> _Content:
        """The records as columns. A payload that cannot become columns means that none of the segment does."""
        table, projection = Table(records, heads), self._maker(partition).projection
        projected = _project(projection, records, heads) if projection is not None else None
        if projection is None or projected is None:
            return _Content(table, COLUMNS, (), "")
        own = [SegmentColumn(f"{PROJECTED}{name}", "int" if whole else "word") for name, whole in projection.columns.items()]
        return _Content(table, [*COLUMNS, *own], projected, projection.id)

    def _written(self, partition: TopicPartition, segment: Segment, content: _Content) -> Segment:
        """The segment as it is in its file, which is there when this returns."""
        try:
            return self._put(partition, segment, content)
        except OverflowError:  # a value of somebody's own view, beyond 64 bits
            return self._put(partition, segment, _Content(content.table, COLUMNS, (), ""))

    def _put(self, partition: TopicPartition, segment: Segment, content: _Content) -> Segment:
        segment = msgspec.structs.replace(segment, projection=content.projection)
        groups = content.table.groups(content.projected)
        with _translated(partition):
            encoded = self._store.codec.encode(content.columns, groups, footer_of(partition, segment))
            self._fault("file made")
            self._store.files(partition).put(segment.name, encoded)
        return msgspec.structs.replace(segment, file_bytes=len(encoded))

    def _sealed(  # noqa: PLR0913  # everything that is known
        self,
        partition: TopicPartition,
        index: ArchiveIndex,
        mark: ArchiveMark,
        segment: Segment,
        records: Sequence[Judged],
        heads: Sequence[SealedHead | Undecodable],
        table: Table,
    ) -> Sealed:
        checks = Checks(partition, index.checks(), from_start=mark.first == 0)
        checks.read(records, heads)
        findings = checks.settle()
        written = SegmentReader(partition, segment, self._store.open_anew(partition, segment))
        parts, reducers = self._maker(partition).make(
            partition, segment, records, written, index, lambda: self._reader.rows(partition, mark.first, mark.sealed)
        )
        return Sealed(msgspec.structs.replace(segment, reducers=reducers), [*table.runs()], parts, findings, checks.dump())

    def _is_there(self, partition: TopicPartition, segment: Segment) -> bool:
        return self._store.files(partition).size(segment.name) == segment.file_bytes

    def _maker(self, partition: TopicPartition) -> SnapshotMaker:
        topic = self._catalogue.named(partition.topic)
        if topic is None:
            raise ValueError(f"{partition.topic} is no topic of the catalogue")
        return self._makers[topic.base]


def _project(
    projection: Projection, records: Sequence[Judged], heads: Sequence[SealedHead | Undecodable]
) -> Sequence[Sequence[Any]] | None:
    """The projected columns; None if some payload cannot become columns."""
    subjects, nothing, taken = Subjects(), (None,) * len(projection.columns), []
    for record, head in zip(records, heads, strict=True):
        if isinstance(head, Undecodable) or record.verdict != "first":
            taken.append(nothing)
            continue
        values = projection.take(head.type, head.schemaversion, head.data, subjects.of(head), record.time_us or 0)
        # Another agent than the record names is an upcaster's word; columns would contradict the locator.
        if values is None or values[0] != record.agent:
            return None
        taken.append(values[1:])
    return [*zip(*taken, strict=True)]


@contextlib.contextmanager
def _translated(partition: TopicPartition) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"archive {partition}", f"a segment cannot be written ({error.strerror or type(error).__name__})") from error
