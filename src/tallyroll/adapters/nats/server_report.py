"""What a NATS server is like, for who looks before events are forwarded to it. Reads only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.errors import NotFoundError

from tallyroll.adapters.nats.connecting import TIMEOUT_S, Connection


class NatsReport(NamedTuple):
    """``stream`` covers the subject asked for (None: none does), and forgets ids after ``duplicate_window_s``."""

    version: str
    max_payload: int
    jetstream: bool
    stream: str | None = None
    duplicate_window_s: float = 0.0


async def nats_report(servers: Sequence[str], subject: str) -> NatsReport:
    """Asks the first server that answers. Raises StoreUnavailable."""
    connection = Connection(servers)
    try:
        return await _look(await connection.client(), subject)
    except (NatsError, OSError, TimeoutError) as error:
        raise connection.unavailable(error) from None
    finally:
        await connection.close()


async def _look(client: Client, subject: str) -> NatsReport:
    is_ = client.connected_server_version
    report = NatsReport(f"{is_.major}.{is_.minor}.{is_.patch}", client.max_payload, jetstream=False)
    context = client.jetstream(timeout=TIMEOUT_S)
    try:
        await context.account_info()
    except NatsError:  # nobody answers where JetStream is off, or it is off for this account
        return report
    report = report._replace(jetstream=True)
    try:
        name = await context.find_stream_name_by_subject(subject)
    except NotFoundError:
        return report
    window = (await context.stream_info(name)).config.duplicate_window or 0
    return report._replace(stream=name, duplicate_window_s=window)
