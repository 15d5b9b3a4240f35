"""``tallyroll doctor``: is everything as it should be, and what to do where it is not."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

import typer

from tallyroll import compiled
from tallyroll.adapters.extras import EXTRAS, available, require
from tallyroll.adapters.sqlite.log import SqliteLog
from tallyroll.adapters.sqlite.spool_report import spool_report
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.cli.doctor.bridges import bridge_checks
from tallyroll.cli.doctor.checks import Check, config_check, setting_checks, url_check
from tallyroll.cli.doctor.followers import follower_checks
from tallyroll.cli.doctor.outbox import outbox_checks
from tallyroll.cli.doctor.permissions import permission_checks
from tallyroll.cli.exits import ExitCode, explain
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted, number
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of, verbs
from tallyroll.cli.verdicts import show
from tallyroll.errors import LogUnavailable, MissingExtra, StoreUnavailable, TallyrollError
from tallyroll.events.topic_plan import drift, replication_for
from tallyroll.events.topics import DEAD_LETTER_TOPIC, Catalogue, catalogue_of
from tallyroll.ports import EventLog
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

if TYPE_CHECKING:
    from tallyroll.adapters.kafka.admin import KafkaAdmin

app = verbs()

_REQUEST_S: Final = 6.0  # a broker that needs longer for a look is not well
_LOW_DISK_BYTES: Final = 500_000_000  # some minutes of a busy fleet
_FUTURE_MS: Final = 60_000  # clocks that are kept differ by less than a second; a minute ahead is no accident


@app.command(epilog=examples("tallyroll doctor", "tallyroll doctor --url kafka://broker:9092 --json"))
def doctor(context: typer.Context, *, url: Url = None, json: Json = False) -> None:
    """Check settings, log, topics, rights, clocks, dead letters, followers, Redis, NATS, spool and outbox; say what to do next.

    Exit code 0 if nothing fails, warnings or not; 1 if something does.

    Changes nothing, joins no group, and shows no secret.
    """
    session = session_of(context, url, json)
    found = run(_examine(session))
    show(found, json=session.json)


async def _examine(session: Session) -> list[Check]:
    found = [_versions()]
    try:
        settings, sources = session.settings_and_sources()
        catalogue = catalogue_of(settings)
    except TallyrollError as error:
        return [*found, _failed("settings", error)]
    found += [config_check(session.file, sources), url_check(settings, sources, os.environ), *setting_checks(settings, os.environ)]
    if settings.traces != "off" and not available("otel"):
        found.append(Check("traces", "fail", str(MissingExtra("otel")), "install it with the command above, or set TALLYROLL_TRACES=off"))
    folder = _folder(settings)
    bridges = await bridge_checks(settings)
    found += [folder, *permission_checks(settings), *bridges]
    async with AsyncExitStack() as stack:
        try:
            cluster = [check async for check in _cluster(settings, catalogue)] if settings.is_kafka else []
            found += cluster
            if not any(check.verdict == "fail" for check in (folder, *cluster)):
                log = await _open_log(settings, catalogue)
                stack.push_async_callback(log.close)
                found += await _look(settings, catalogue, log)
        except TallyrollError as error:
            found.append(_failed("stores" if isinstance(error, StoreUnavailable) else "log", error, kafka=settings.is_kafka))
    found.append(_spool(settings))
    if not any(check.verdict == "fail" for check in (folder, *bridges) if check.name in ("folder", "redis")):  # where the outbox is
        found += await outbox_checks(settings)
    return found


def _failed(name: str, error: Exception, *, kafka: bool = False) -> Check:
    trouble = explain(error)
    # Within doctor, "see doctor" is no next step.
    next_step = "change that setting"
    if trouble.code is ExitCode.UNAVAILABLE:
        ours = isinstance(error, StoreUnavailable) or not kafka
        next_step = "do what it says, or look at the disk and at who may write there" if ours else "start the broker, or mend the address"
    return Check(name, "fail", trouble.what, next_step if "doctor" in trouble.next_step else trouble.next_step)


def _versions() -> Check:
    modules = {extra: EXTRAS[extra][0].replace("_", "-") for extra in EXTRAS if available(extra)}
    said = [f"tallyroll {version('tallyroll')}", f"Python {platform.python_version()}"]
    for module in modules.values():
        try:
            said.append(f"{module} {version(module)}")
        except PackageNotFoundError:
            said.append(module)
    core = compiled.version()
    said.append(f"tallyroll-core {core}" if core else "no compiled core")
    return Check("versions", "ok", ", ".join(said))


def _folder(settings: Settings) -> Check:
    folder = settings.data_dir
    if settings.in_memory:
        return Check("folder", "ok", "none; everything is in memory")
    there = folder
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        return Check("folder", "fail", f"{folder} cannot be written: {error.strerror}", "mend its permissions, or set TALLYROLL_DATA_DIR")
    free = shutil.disk_usage(there).free
    says = f"{folder} is writable, {free / 1e9:,.1f} GB free" if there == folder else f"{folder} does not exist yet and can be made"
    if free < _LOW_DISK_BYTES:
        return Check("folder", "warn", says, "free some space: spool and stores lie there")
    return Check("folder", "ok", says)


async def _open_log(settings: Settings, catalogue: Catalogue) -> EventLog:
    """The log alone: a whole roll would take over spool files of dead processes and send them."""
    clock = SystemClock()
    if not settings.is_kafka:
        return await SqliteLog.open(None if settings.in_memory else settings.data_dir, catalogue, clock=clock)
    from tallyroll.adapters.kafka.log import KafkaLog  # noqa: PLC0415  # needs the extra

    return await KafkaLog.open(settings, catalogue, clock=clock, telemetry=Counters())


async def _cluster(settings: Settings, catalogue: Catalogue) -> AsyncIterator[Check]:
    """What only Kafka has: TLS, brokers, topics, rights."""
    require("kafka")
    from tallyroll.adapters.kafka.admin import KafkaAdmin  # noqa: PLC0415  # needs the extra
    from tallyroll.adapters.kafka.tls import probe_tls  # noqa: PLC0415  # as above

    away = await asyncio.to_thread(probe_tls, settings)
    if away:
        yield Check("tls", "warn", f"not reached: {', '.join(away)}", "start these brokers, or mend the address")
    admin = KafkaAdmin(settings, request_s=_REQUEST_S)
    if not away and settings.kafka_security_protocol.endswith("SSL"):
        yield Check(
            "tls", "ok", f"every broker that answers speaks TLS {settings.kafka_tls_minimum} or better, with a certificate we trust"
        )
    try:
        brokers = await admin.broker_count()
    except LogUnavailable as error:
        yield Check("brokers", "fail", f"{settings.bootstrap_servers} {error.reason}", "start the broker, or mend the address")
        return
    yield Check("brokers", "ok", f"{number(brokers)} alive; we are {settings.kafka_sasl_username or 'anonymous or known by certificate'}")
    async for check in _topics(settings, catalogue, admin, brokers):
        yield check


async def _topics(settings: Settings, catalogue: Catalogue, admin: KafkaAdmin, brokers: int) -> AsyncIterator[Check]:
    states = await admin.describe([topic.name for topic in catalogue.topics])
    missing = [topic.name for topic in catalogue.topics if topic.name not in states]
    if missing:
        yield Check(
            "topics",
            "fail",
            f"missing, or hidden from us: {', '.join(missing)}",
            "run 'tallyroll topics apply'; if they exist, see 'tallyroll topics acls'",
        )
    differences = [
        one
        for one in drift(
            catalogue, states, replication=replication_for(settings.replication, brokers), max_record_bytes=settings.max_record_bytes
        )
        if one.actual is not None
    ]
    if differences:
        first = differences[0]
        yield Check(
            "topics",
            "warn",
            f"{counted(len(differences), 'difference')} from the catalogue, first {first.topic} {first.what}",
            "see 'tallyroll topics drift'",
        )
    if not missing and not differences:
        yield Check("topics", "ok", f"all {len(catalogue.topics)} as the catalogue says")
    yield Check("rights", "ok", "topics may be described; writing and reading show only when done, see 'tallyroll topics acls'")


async def _look(settings: Settings, catalogue: Catalogue, log: EventLog) -> list[Check]:
    """What is in the log and in the store."""
    topics = [topic.name for topic in catalogue.topics if topic.user]
    ends = await log.ends(topics)
    starts = await log.starts(topics)
    held = sum(end - starts.get(partition, 0) for partition, end in ends.items())
    clock = SystemClock()
    future = await log.positions_at(topics, clock.now_us() // 1_000 + _FUTURE_MS)
    ahead = sum(end - future[partition] for partition, end in ends.items())
    found = [Check("records", "ok", f"{number(held)} in {len(ends)} partitions")]
    if ahead:
        found.append(
            Check(
                "clock",
                "warn",
                f"up to {number(ahead)} records are more than {short_span(_FUTURE_MS / 1_000)} in the future",
                "set the clocks right, of this machine and of the publishers",
            )
        )
    else:
        found.append(Check("clock", "ok", "no record comes from the future (the log tells no time of its own to compare with)"))
    found.append(await _dead_letters(catalogue, log))
    found += [check async for check in follower_checks(settings, catalogue, log)]
    return found


async def _dead_letters(catalogue: Catalogue, log: EventLog) -> Check:
    topic = catalogue[DEAD_LETTER_TOPIC].name
    starts, ends = await log.starts([topic]), await log.ends([topic])
    kept = sum(end - starts.get(partition, 0) for partition, end in ends.items())
    if kept:
        said = f"{counted(kept, 'record')} in the dead letters, also those that were applied since"
        return Check("letters", "warn", said, "see 'tallyroll dlq ls', then 'tallyroll dlq redrive'")
    return Check("letters", "ok", "no dead letters")


def _spool(settings: Settings) -> Check:
    if not settings.is_kafka:
        return Check("spool", "ok", "none needed: the embedded log is on this disk")
    report = spool_report(settings.data_dir / "spool")
    said = f"{counted(report.waiting, 'event')} waiting, {number(report.refused)} refused by the log"
    if report.damaged:
        return Check(
            "spool",
            "fail",
            f"{said}; not readable: {', '.join(report.damaged)}",
            f"keep these files and look at the disk: {settings.data_dir / 'spool'}",
        )
    if report.refused:
        return Check("spool", "fail", said, f"refused events are kept in {settings.data_dir / 'spool'}; mend what the log refuses")
    if report.waiting:
        return Check("spool", "warn", said, "they go out with the next event published from here, once the broker takes them")
    return Check("spool", "ok", "empty")
