"""The one place where the benchmark meets what it measures: archives opened, replays asked for."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from bench.replay_projector import register
from tallyroll.adapters.parquet.codec import ParquetCodec
from tallyroll.adapters.sqlite.archive_index import SqliteArchiveIndexes
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.adapters.system.processes import PythonWorkers
from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.archive.follower import ArchiveFollower
from tallyroll.archive.opening import OpenArchive
from tallyroll.archive.reader import ArchiveReader
from tallyroll.archive.sealing import SealLimits
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import SegmentFiles
from tallyroll.replay.fold import State
from tallyroll.replay.projector import StateProjector
from tallyroll.replay.replayer import Ask, Replayer
from tallyroll.replay.views import AGENT, FOLD

CATALOGUE: Final = Catalogue()
FOLD_ID: Final = FOLD.fold_id
NEVER: Final = SealLimits(records=10**12, raw_bytes=10**15, age_us=10**15)


@asynccontextmanager
async def open_archive(folder: Path) -> AsyncIterator[OpenArchive]:
    """The archive in a folder, both halves."""

    def files(partition: TopicPartition) -> SegmentFiles:
        return LocalSegmentFiles(folder / partition.topic / str(partition.partition) / "segments")

    opened = OpenArchive(SqliteArchiveIndexes(folder), files, ParquetCodec(), CATALOGUE, clock=SystemClock())
    try:
        yield opened
    finally:
        opened.close()


def follower_of(archive: OpenArchive, limits: SealLimits | None = None) -> ArchiveFollower:
    """A follower that is fed by hand: there is no log behind it."""
    return archive.follower(NoLog(archive.reader), limits=limits)  # type: ignore[arg-type]  # it asks for starts and ends only


class NoLog:
    """A log that has nothing any more that the archive does not have; its reading half."""

    def __init__(self, archive: ArchiveReader) -> None:
        self._archive = archive

    async def starts(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """Where it ends."""
        return await self.ends(topics)

    async def ends(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """Where the archive ends."""
        partitions = CATALOGUE.partitions(topics)
        return {partition: mark.next for partition, mark in self._archive.marks(partitions).items()}


@asynccontextmanager
async def replays_of(folder: Path) -> AsyncIterator[Replayer]:
    """Replays from the archive in a folder alone; other processes open it by the folder's name."""
    async with open_archive(folder) as archive:
        yield Replayer(
            NoLog(archive.reader),  # type: ignore[arg-type]  # the reading half is all a replay uses
            CATALOGUE,
            clock=SystemClock(),
            archive=archive.reader,
            workers=PythonWorkers(str(folder).encode(), "bench.replay_worker"),
        )


def ask(**more: Any) -> Ask:  # noqa: ANN401  # members of Ask
    """Every agent's state from the archive, unless told otherwise."""
    return Ask(**{"view": AGENT, "source": "archive", **more})


class NotMeasured(Exception):
    """There is nothing to measure yet; the reason."""


async def projected(replayer: Replayer, workers: int) -> Mapping[str, State]:
    """Every agent's state by the handlers of ``bench.replay_projector``."""
    projector = StateProjector(version=1)
    register(projector)
    found = await replayer.project(projector, ask(workers=workers), whole=False)
    return {owner: one.state for owner, one in found.states.items()}
