"""From the tail into a segment: the file first, then everything else in one transaction."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.archive.checks import Checks
from tallyroll.archive.parts import Forward
from tallyroll.archive.reader import ArchiveReader
from tallyroll.archive.records import Subjects
from tallyroll.archive.segment import (
    COLUMNS,
    GENESIS,
    PROJECTED,
    Row,
    decode_sealed,
    digest_of,
    footer_of,
    groups,
    name_of,
    raw_bytes_of,
    runs_of,
)
from tallyroll.archive.store import ArchiveStore
from tallyroll.errors import StoreUnavailable
from tallyroll.events.codec import Head
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import ArchiveIndex, ArchiveMark, Judged, Sealed, Segment, SegmentColumn, Tail
from tallyroll.replay.fields import INT_MAX
from tallyroll.replay.fold import Fold
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


Feed = Callable[[Judged, Head | None], None]
"""Takes every record in offset order, with its head if it has one."""


class _Content(NamedTuple):
    """Records in the order of a segment, and what is known of each payload."""

    rows: list[Row]
    columns: Sequence[SegmentColumn]
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
        self._fold = fold
        self._fault = fault
        self._reader = ArchiveReader(store)
        self._projections = {base: Projection(fold, base) for base in fold.topics}

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
        files = self._store.files(partition)
        with no_collecting():
            work = self._work(partition, index, mark, records)
            content = self._content(partition, records, work.feed)
            sealed = work.sealed(segment, content.rows)
        index.seal(sealed, lambda: files.size(segment.name) == segment.file_bytes)

    def rewrite(self, partition: TopicPartition, segment: Segment, records: Sequence[Judged]) -> Segment | None:
        """The segment's records under today's projection, in a new file; None if it is that already. The old file goes."""
        with no_collecting():
            content = self._content(partition, records, _ignore)
            if content.projection == segment.projection:
                return None
            name = f"{name_of(segment.base, segment.next).removesuffix('.parquet')}-{content.projection[:8] or 'none'}.parquet"
            new = self._written(partition, msgspec.structs.replace(segment, name=name, projection=content.projection), content)
        self._store.made(partition).replace(segment, new)
        self.clean(partition)
        return new

    def projection(self, partition: TopicPartition) -> str:
        """The id of today's projection; empty where no view reads the topic."""
        known = self._projections.get(self._base(partition))
        return known.id if known is not None else ""

    def _seal(self, partition: TopicPartition, index: ArchiveIndex, mark: ArchiveMark, records: Sequence[Judged]) -> Segment:
        segments = index.segments()
        previous = segments[-1].digest if segments else GENESIS
        work = self._work(partition, index, mark, records)
        content = self._content(partition, records, work.feed)
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
        sealed = work.sealed(segment, content.rows)
        self._fault("before commit")
        files = self._store.files(partition)

        def is_whole() -> bool:
            self._fault("in commit")
            return files.size(segment.name) == segment.file_bytes

        index.seal(sealed, is_whole)
        self._fault("after commit")
        return sealed.segment

    def _content(self, partition: TopicPartition, records: Sequence[Judged], feed: Feed) -> _Content:
        """The one pass over the records; a payload that cannot become columns means that none of the segment does."""
        projection = self._projections.get(self._base(partition))
        nothing = (None,) * (len(projection.columns) if projection is not None else 0)
        subjects, rows, intact = Subjects(), [], projection is not None
        for record in records:
            head = decode_sealed(record)
            feed(record, head)
            values: tuple[Any, ...] = nothing
            if head is not None and projection is not None and intact and record.verdict == "first":
                taken = projection.take(head.type, head.schemaversion, head.data, subjects.of(head), record.time_us or 0)
                # Another agent than the record names: an upcaster's. Columns would contradict the locator.
                intact = taken is not None and taken[0] == record.agent and all(map(_fits, taken))
                values = taken[1:] if taken is not None and intact else nothing
            rows.append(Row(record, head, values))
        rows.sort(key=_order)
        if projection is None or not intact:
            return _Content(rows, COLUMNS, "")
        projected = [SegmentColumn(f"{PROJECTED}{name}", "int" if whole else "word") for name, whole in projection.columns.items()]
        return _Content(rows, [*COLUMNS, *projected], projection.id)

    def _written(self, partition: TopicPartition, segment: Segment, content: _Content) -> Segment:
        chunks = groups(content.rows, len(content.columns))
        with _translated(partition):
            encoded = self._store.codec.encode(content.columns, chunks, footer_of(partition, segment))
            self._fault("file made")
            self._store.files(partition).put(segment.name, encoded)
        return msgspec.structs.replace(segment, file_bytes=len(encoded))

    def _work(self, partition: TopicPartition, index: ArchiveIndex, mark: ArchiveMark, records: Sequence[Judged]) -> _Work:
        base = self._base(partition)
        forward = Forward(self._fold, base, partition, index, lambda: self._reader.rows(partition, mark.first, mark.sealed))
        forward.prepare(records)
        return _Work(forward, Checks(partition, index.checks(), from_start=mark.first == 0))

    def _base(self, partition: TopicPartition) -> str:
        topic = self._catalogue.named(partition.topic)
        return topic.base if topic is not None else partition.topic


@dataclass(frozen=True, slots=True)
class _Work:
    """What is made of the records besides the file."""

    forward: Forward
    checks: Checks

    def feed(self, record: Judged, head: Head | None) -> None:
        self.checks.feed(record, head)
        if head is not None and record.verdict == "first":
            self.forward.add(record, head)

    def sealed(self, segment: Segment, rows: Sequence[Row]) -> Sealed:
        parts, reducers = self.forward.take(segment.next)
        findings = self.checks.settle()
        return Sealed(msgspec.structs.replace(segment, reducers=reducers), [*runs_of(rows)], parts, findings, self.checks.dump())


def _order(row: Row) -> tuple[str, str, int, int]:
    return row.order


def _fits(value: object) -> bool:
    return not isinstance(value, int) or -INT_MAX <= value <= INT_MAX


def _ignore(_record: Judged, _head: Head | None) -> None:
    """For a pass that makes the file only."""


@contextlib.contextmanager
def no_collecting() -> Iterator[None]:
    """Many new objects, no cycles: with the collector looking on a seal takes half as long again."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextlib.contextmanager
def _translated(partition: TopicPartition) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnavailable(f"archive {partition}", f"a segment cannot be written ({error.strerror or type(error).__name__})") from error
