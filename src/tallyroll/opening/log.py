"""The log, the spool before it, and where spans go."""

from __future__ import annotations

from pathlib import Path

from tallyroll.adapters.extras import require
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Clock, EventLog, SpoolFactory, Tracing
from tallyroll.settings import Settings
from tallyroll.telemetry import Telemetry


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


def open_tracing(settings: Settings, clock: Clock) -> Tracing | None:
    """Where spans go; None where nothing is traced. Raises MissingExtra, SettingsError."""
    if settings.traces == "off":
        return None
    require("otel")
    from tallyroll.adapters.otel.tracing import otlp_tracing  # noqa: PLC0415  # needs the extra

    return otlp_tracing(settings, clock)
