"""The other side of each bridge: Redis, NATS, and the outbox of created tasks."""

from __future__ import annotations

from tallyroll.adapters.extras import require
from tallyroll.errors import SettingsError
from tallyroll.ports import MessageSource, MessageTarget, Outbox, StateTarget
from tallyroll.settings import Settings


def open_state_target(settings: Settings) -> StateTarget:
    """Where the Redis bridge keeps states; connects when first asked. Raises MissingExtra, SettingsError without a host."""
    if not settings.redis_host:
        raise SettingsError("REDIS_HOST", "expected a host, where states are kept")
    require("redis")
    from tallyroll.adapters.redis.state_target import RedisStateTarget  # noqa: PLC0415  # needs the extra

    prefix = "" if settings.redis_prefix == "none" else settings.redis_prefix
    return RedisStateTarget(settings.redis_host, settings.redis_port, settings.redis_password, prefix=prefix, tenant=settings.topic_prefix)


async def open_outbox(settings: Settings) -> Outbox:
    """The outbox of created tasks: in Redis where that is set, so that any host can finish it, else a file beside the log.

    Raises MissingExtra, StoreUnavailable for a file that cannot be opened.
    """
    if settings.redis_host:
        require("redis")
        from tallyroll.adapters.redis.outbox import RedisOutbox  # noqa: PLC0415  # needs the extra

        return RedisOutbox(settings.redis_host, settings.redis_port, settings.redis_password, tenant=settings.topic_prefix)
    from tallyroll.adapters.sqlite.outbox import SqliteOutbox  # noqa: PLC0415  # opened when first needed

    return await SqliteOutbox.open(None if settings.in_memory else settings.data_dir / "outbox.db")


def open_message_target(settings: Settings) -> MessageTarget:
    """Where events are forwarded to; connects when first asked. Raises MissingExtra, SettingsError without servers."""
    if not settings.nats_servers:
        raise SettingsError("NATS_SERVERS", "expected servers, where events are forwarded to")
    require("nats")
    from tallyroll.adapters.nats.message_target import NatsMessages  # noqa: PLC0415  # needs the extra

    return NatsMessages(settings.nats_servers.split(","), jetstream=settings.nats_mode == "jetstream")


def open_message_source(settings: Settings, subject: str) -> MessageSource:
    """Where events are taken from; connects when first asked. Raises MissingExtra, SettingsError without servers."""
    if not settings.nats_servers:
        raise SettingsError("NATS_SERVERS", "expected servers, where events are taken from")
    require("nats")
    from tallyroll.adapters.nats.message_source import NatsSource  # noqa: PLC0415  # needs the extra

    return NatsSource(settings.nats_servers.split(","), subject, settings.group("inward"))
