"""How bridges connect to NATS: at once or not at all, for whoever calls tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from nats.aio.client import Client

from tallyroll.errors import StoreUnavailable

_AGAIN_S: Final = 0.1


async def connect(client: Client, servers: Sequence[str], timeout_s: int) -> None:
    """Connects a new client; raises as the client does, and TimeoutError. Close the client also then."""
    async with asyncio.timeout(timeout_s):
        await client.connect(
            list(servers),
            connect_timeout=timeout_s,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # with 0 the client would try for ever
            reconnect_time_wait=_AGAIN_S,  # type: ignore[arg-type]  # a time in seconds
            error_cb=_ignored,
        )


def unavailable(servers: Sequence[str], error: Exception) -> StoreUnavailable:
    """What an error of the client means to who asked one of these servers for something."""
    return StoreUnavailable(f"NATS at {','.join(servers)}", f"does not answer ({type(error).__name__})")


async def _ignored(_: Exception) -> None:
    """Errors come out of the calls; the client would print them as well."""
