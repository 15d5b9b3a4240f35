"""What states are kept in and made of: the store, the archive, what replays."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tallyroll.adapters.extras import require
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.adapters.system.processes import PythonWorkers
from tallyroll.adapters.system.segment_files import LocalSegmentFiles
from tallyroll.errors import SettingsError
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.opening.log import open_log
from tallyroll.ports import Archive, Clock, EventLog, StateStore
from tallyroll.replay.replayer import Replayer
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

if TYPE_CHECKING:
    from tallyroll.archive.opening import OpenArchive
    from tallyroll.archive.sealing import SealLimits

_WORKER: Final = "tallyroll.worker"


async def open_state_store(settings: Settings) -> StateStore:
    """The store of the state follower: a file beside the log. Raises StoreUnavailable."""
    from tallyroll.adapters.sqlite.state_store import SqliteStateStore  # noqa: PLC0415  # opened when first needed

    return await SqliteStateStore.open(None if settings.in_memory else settings.data_dir / "state.db")


def archive_folder(settings: Settings) -> Path:
    """Where the archive lies, whether or not there is one."""
    return settings.archive_dir or settings.data_dir / "archive"


def open_archive(settings: Settings, catalogue: Catalogue, clock: Clock) -> OpenArchive:
    """The archive of these settings; nothing is made before something is archived. Raises MissingExtra, SettingsError."""
    if settings.in_memory:
        raise SettingsError("archive", "a log in memory keeps nothing, so there is nothing to archive")
    require("archive")
    from tallyroll.adapters.parquet.codec import ParquetCodec  # noqa: PLC0415  # needs the extra
    from tallyroll.adapters.sqlite.archive_index import SqliteArchiveIndexes  # noqa: PLC0415  # opened when first needed
    from tallyroll.archive.opening import OpenArchive  # noqa: PLC0415  # needs the extra

    folder = archive_folder(settings)

    def files(partition: TopicPartition) -> LocalSegmentFiles:
        return LocalSegmentFiles(folder / partition.topic / str(partition.partition) / "segments")

    return OpenArchive(SqliteArchiveIndexes(folder), files, ParquetCodec(), catalogue, clock=clock)


def seal_limits(settings: Settings) -> SealLimits:
    """When the tail of a partition becomes a segment."""
    from tallyroll.archive.sealing import SealLimits  # noqa: PLC0415  # needs the extra

    return SealLimits(settings.archive_seal_records, settings.archive_seal_bytes, settings.archive_seal_age_ms * 1_000)


@asynccontextmanager
async def open_replayer(settings: Settings) -> AsyncIterator[Replayer]:
    """What a replay needs and nothing else: the log to be read, and the archive. No publisher, no spool, no group."""
    clock, catalogue = SystemClock(), catalogue_of(settings)
    async with AsyncExitStack() as stack:
        log = await open_log(settings, catalogue, clock, Counters())
        stack.push_async_callback(log.close)
        archive = None
        if not settings.in_memory and archive_folder(settings).is_dir():
            archive = open_archive(settings, catalogue, clock)
            stack.callback(archive.close)
        yield replayer_on(settings, log, catalogue, clock, archive.reader if archive is not None else None)


def replayer_on(settings: Settings, log: EventLog, catalogue: Catalogue, clock: Clock, archive: Archive | None) -> Replayer:
    """A replayer on what is open already."""
    workers = None if settings.in_memory else PythonWorkers(msgspec.json.encode(settings.to_env()), _WORKER)
    kept = None if settings.in_memory else LocalSegmentFiles(settings.data_dir / "projections")
    return Replayer(log, catalogue, clock=clock, archive=archive, workers=workers, kept=kept)
