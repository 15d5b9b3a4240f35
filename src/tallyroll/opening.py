"""Opening what the settings name: the log, the stores, the archive, processes. Each adapter is imported only when it is chosen."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import msgspec

from tallyroll.adapters.extras import require
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.adapters.system.processes import PythonWorkers
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.ports import Clock, EventLog, SpoolFactory, StateStore
from tallyroll.replay.replayer import Replayer
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters, Telemetry

_WORKER: Final = "tallyroll.worker"


async def open_log(settings: Settings, catalogue: Catalogue, clock: Clock, telemetry: Telemetry) -> EventLog:
    """Each adapter is imported only when its log is chosen: a missing extra must not be noticed by the others."""
    if settings.is_kafka:
        require("kafka")
        from tallyroll.adapters.kafka.log import KafkaLog  # noqa: PLC0415

        return await KafkaLog.open(settings, catalogue, clock=clock, telemetry=telemetry)
    from tallyroll.adapters.sqlite.log import SqliteLog  # noqa: PLC0415

    return await SqliteLog.open(
        None if settings.in_memory else settings.data_dir,
        catalogue,
        clock=clock,
        synchronous=settings.sqlite_synchronous,
        max_record_bytes=settings.max_record_bytes,
        session_timeout_ms=settings.session_timeout_ms,
    )


def spool_of(settings: Settings, log: EventLog) -> SpoolFactory | None:
    """How the spool of this process is opened; None before a log that is always there."""
    if not log.durable_spool_needed:
        return None
    from tallyroll.adapters.sqlite.spool import SqliteSpool  # noqa: PLC0415

    folder: Path = settings.data_dir / "spool"
    return lambda: SqliteSpool(folder, max_bytes=settings.spool_max_bytes)


async def open_state_store(settings: Settings) -> StateStore:
    """The store of the state follower: a file beside the log. Raises StoreUnavailable."""
    from tallyroll.adapters.sqlite.state_store import SqliteStateStore  # noqa: PLC0415  # opened when first needed

    return await SqliteStateStore.open(None if settings.in_memory else settings.data_dir / "state.db")


@asynccontextmanager
async def open_replayer(settings: Settings) -> AsyncIterator[Replayer]:
    """What a replay needs and nothing else: the log to be read, and the archive. No publisher, no spool, no group."""
    clock, catalogue = SystemClock(), catalogue_of(settings)
    async with AsyncExitStack() as stack:
        log = await open_log(settings, catalogue, clock, Counters())
        stack.push_async_callback(log.close)
        yield await stack.enter_async_context(replayer_on(settings, log, catalogue, clock))


@asynccontextmanager
async def replayer_on(settings: Settings, log: EventLog, catalogue: Catalogue, clock: Clock) -> AsyncIterator[Replayer]:
    """A replayer on a log that is open already."""
    workers = None if settings.in_memory else PythonWorkers(msgspec.json.encode(settings.to_env()), _WORKER)
    yield Replayer(log, catalogue, clock=clock, archive=None, workers=workers)
