"""An archive in a folder, and what must come out of it: said by the fold, the judge and the log, not by the archive."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.unit.replay_histories import CATALOGUE, Log, ReadOnlyLog, batch_of

from tallyroll.adapters.parquet.codec import ParquetCodec
from tallyroll.adapters.sqlite.archive_index import SqliteArchiveIndexes
from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.archive.checks import Checks
from tallyroll.archive.follower import ArchiveFollower
from tallyroll.archive.opening import OpenArchive
from tallyroll.archive.records import judge
from tallyroll.archive.sealing import SealLimits
from tallyroll.archive.store import OpenFiles
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.repeats import RepeatFilter
from tallyroll.events.rows import Rows
from tallyroll.ports import OpenSegment, SegmentCodec, SegmentColumn, SegmentWriter
from tallyroll.replay.fold import Fold
from tallyroll.replay.judge import Judge
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.selection import concat_rows
from tallyroll.replay.views import FOLD
from tallyroll.testing.clock import FakeClock

ALL = 10**12
NEVER = SealLimits(records=ALL, raw_bytes=ALL, age_us=ALL)


def files_in(folder: Path, partition: TopicPartition) -> Path:
    return folder / partition.topic / str(partition.partition) / "segments"


@contextmanager
def archive_in(
    folder: Path,
    *,
    fold: Fold = FOLD,
    clock: FakeClock | None = None,
    open_files: OpenFiles | None = None,
    codec: SegmentCodec | None = None,
    **more: Any,
) -> Iterator[OpenArchive]:
    files = open_files or (lambda partition: LocalSegmentFiles(files_in(folder, partition)))
    indexes, clock = SqliteArchiveIndexes(folder), clock or FakeClock()
    opened = OpenArchive(indexes, files, codec or ParquetCodec(), CATALOGUE, clock=clock, fold=fold, **more)
    try:
        yield opened
    finally:
        opened.close()


async def following(archive: OpenArchive, log: Log, *, limits: SealLimits = NEVER, **more: Any) -> ArchiveFollower:
    follower = archive.follower(ReadOnlyLog(log, **more), limits=limits)
    await follower.positions(list(log))
    return follower


async def archived(archive: OpenArchive, log: Log, *, seal: bool = True) -> None:
    """All of a log, in one flush."""
    follower = await following(archive, log)
    for partition, values in log.items():
        if values:
            follower.apply(batch_of(partition, values))
    await follower.flush()
    if seal:
        archive.keeper.seal_all(list(log))


class WriterBeforePieces:
    """Makes a file as format 2 did: without columns for look-ups."""

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def finish(self, names: Any, order: Any, footer: Any, *, looked_up: Any, piece_rows: int, **more: Any) -> bytes:  # noqa: ARG002
        return self._writer.finish(names, order, {**footer, "format": "2"}, **more)


class CodecBeforePieces:
    """Makes files as format 2 did."""

    def writer(self, columns: Sequence[SegmentColumn]) -> WriterBeforePieces:
        return WriterBeforePieces(ParquetCodec().writer(columns))

    def open(self, content: memoryview) -> OpenSegment:
        return ParquetCodec().open(content)


def raw(batches: Sequence[Batch]) -> list[tuple[Any, ...]]:
    """Everything that the log has of each record."""
    return [
        (batch.offsets[i], batch.keys[i], batch.values[i], batch.timestamps_ms[i], [*batch.headers(i)])
        for batch in batches
        for i in range(len(batch))
    ]


def first_copies(batch: Batch) -> Rows | None:
    return Judge().rows(batch)


def all_rows(archive: OpenArchive, partition: TopicPartition, start: int = 0, end: int = ALL, **more: Any) -> Rows | None:
    some = list(archive.reader.rows(partition, start, end, **more))
    return concat_rows(some) if some else None


def cells(rows: Rows | None, indexes: Sequence[int] | None = None) -> list[tuple[Any, ...]]:
    """Rows one by one, ids and values too."""
    if rows is None:
        return []
    columns = (rows.offsets, rows.times_us, rows.types, rows.versions, rows.subjects, rows.data, rows.agents)
    every = list(zip(*columns, rows.ids or [None] * len(rows), rows.values or [None] * len(rows), strict=True))
    return every if indexes is None else [every[index] for index in indexes]


def owners_of(rows: Rows | None) -> dict[str, list[int]]:
    """Per key of the locator the indexes of its rows."""
    owned: dict[str, list[int]] = {}
    for index in range(len(rows) if rows is not None else 0):
        owned.setdefault(rows.subjects[index].key, []).append(index)
        if rows.agents[index] is not None:
            owned.setdefault(f"@{rows.agents[index]}", []).append(index)
    return owned


def full_fold(batch: Batch, *, fold: Fold = FOLD) -> PartitionFold:
    topic = CATALOGUE.named(batch.topic)
    whole = PartitionFold(fold, batch.topic, topic.base, batch.partition)
    whole.apply(batch)
    return whole


def all_findings(batch: Batch) -> list[Any]:
    """What the checks find in one go over everything."""
    checks = Checks(batch.topic_partition)
    checks.read(judge(batch, RepeatFilter()), batch.heads())
    return checks.findings()
