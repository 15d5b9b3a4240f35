"""The checks of ``tallyroll doctor`` that ask Redis and NATS, where the settings name them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from tallyroll.adapters.extras import require
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.bridges.subjects import example_of
from tallyroll.cli.doctor.checks import Check
from tallyroll.cli.moments import short_span
from tallyroll.cli.printing import counted, number
from tallyroll.errors import MissingExtra, SettingsError, StoreUnavailable
from tallyroll.settings import Settings

if TYPE_CHECKING:
    from tallyroll.adapters.nats.server_report import NatsReport
    from tallyroll.adapters.redis.server_report import RedisReport

_CLOCKS_US: Final = 1_000_000  # clocks that are kept differ by less
_LEAST_WINDOW_S: Final = 600  # as the bridge asks for


async def bridge_checks(settings: Settings) -> list[Check]:
    """What there is to say of Redis and NATS; nothing of those that are not named."""
    found: list[Check] = []
    if settings.redis_host:
        found += await _redis(settings)
    if settings.nats_servers:
        found += await _nats(settings)
    return found


async def _redis(settings: Settings) -> list[Check]:
    where = f"{settings.redis_host}:{settings.redis_port}"
    try:
        require("redis")
        from tallyroll.adapters.redis.server_report import redis_report  # noqa: PLC0415  # needs the extra

        prefix = "" if settings.redis_prefix == "none" else settings.redis_prefix
        report = await redis_report(
            settings.redis_host, settings.redis_port, settings.redis_password, prefix=prefix, tenant=settings.topic_prefix
        )
    except MissingExtra as error:
        return [Check("redis", "fail", str(error), "install it with the command above, or unset REDIS_HOST")]
    except SettingsError as error:
        return [
            Check("redis", "fail", f"{where}: {error}", "put the right password into the file of REDIS_PASSWORD_FILE, or grant its user")
        ]
    except StoreUnavailable as error:
        return [Check("redis", "fail", f"{where} {error.reason}", "start Redis, or mend REDIS_HOST and REDIS_PORT")]
    return list(redis_findings(where, report, SystemClock().now_us()))


def redis_findings(where: str, report: RedisReport, now_us: int) -> Iterator[Check]:
    """What a report means. Pure."""
    if not report.new_enough:
        yield Check("redis", "fail", f"{where} is Redis {report.version}, older than 6.2", "upgrade Redis")
    else:
        yield Check("redis", "ok", f"{where} answers, Redis {report.version}")
    if report.cluster:
        yield Check(
            "redis", "fail", "it is a cluster, which cannot keep the parts of an owner together", "name one node without cluster mode"
        )
    if not report.scripts:
        yield Check("redis", "fail", "we may not run scripts there", "grant the user +eval, +evalsha and +script|load")
    if report.evicts:
        yield Check("redis", "fail", "it evicts any key when memory is full", "set maxmemory-policy to noeviction or volatile-…")
    if report.persistence == "nothing":
        yield Check(
            "redis",
            "warn",
            "it keeps nothing on disk: after a restart all states are made anew from the log",
            "set appendonly yes, or save",
        )
    elif not report.persists_well:
        yield Check("redis", "fail", f"its last write to disk failed ({report.persistence})", "look at its log and its disk")
    if report.foreign:
        says = (
            f"{number(report.foreign)} of {counted(report.looked_at, 'state')} looked at hold what somebody else wrote, and are left alone"
        )
        yield Check("redis", "warn", says, "choose another TALLYROLL_REDIS_PREFIX, or stop who writes there and delete these keys")
    if abs(report.now_us - now_us) > _CLOCKS_US:
        span = short_span(abs(report.now_us - now_us) / 1_000_000)
        yield Check("clock", "warn", f"ours and that of Redis differ by {span}", "set the clocks right")


async def _nats(settings: Settings) -> list[Check]:
    subject = example_of(settings.nats_subject)
    try:
        require("nats")
        from tallyroll.adapters.nats.server_report import nats_report  # noqa: PLC0415  # needs the extra

        report = await nats_report(settings.nats_servers.split(","), subject)
    except MissingExtra as error:
        return [Check("nats", "fail", str(error), "install it with the command above, or unset NATS_SERVERS")]
    except StoreUnavailable as error:
        return [Check("nats", "fail", f"{settings.nats_servers} {error.reason}", "start NATS, or mend NATS_SERVERS")]
    return list(nats_findings(settings, report))


def nats_findings(settings: Settings, report: NatsReport) -> Iterator[Check]:
    """What a report means. Pure."""
    yield Check("nats", "ok", f"{settings.nats_servers} answers, NATS {report.version}")
    if report.max_payload < settings.max_record_bytes:
        says = f"it takes messages of {number(report.max_payload)} bytes, events may have {number(settings.max_record_bytes)}"
        yield Check("nats", "warn", says, "raise max_payload of the server, or lower TALLYROLL_MAX_RECORD_BYTES")
    if settings.nats_mode == "core":
        yield Check(
            "nats", "warn", "mode core: nothing is kept for subscribers who are away", "set TALLYROLL_NATS_MODE=jetstream to keep it"
        )
        return
    wanted = re.sub(r"\{\w+\}", "*", settings.nats_subject)
    if not report.jetstream:
        yield Check("nats", "fail", "JetStream is off there", "start nats-server with -js, or set TALLYROLL_NATS_MODE=core")
    elif report.stream is None:
        yield Check("nats", "fail", f"no stream covers {wanted}", f"nats stream add --subjects '{wanted}' --dupe-window 20m")
    elif report.duplicate_window_s < _LEAST_WINDOW_S:
        says = f"stream {report.stream} forgets ids after {short_span(report.duplicate_window_s)}: repeats may stay after a bad restart"
        yield Check("nats", "fail", says, f"nats stream edit {report.stream} --dupe-window 20m")
    else:
        yield Check("nats", "ok", f"stream {report.stream} covers {wanted} and drops repeats for {short_span(report.duplicate_window_s)}")
