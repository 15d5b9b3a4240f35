"""How tallyroll connects to NATS: at once or not at all, for whoever calls tries again."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from nats.aio.client import Client
from nats.errors import FlushTimeoutError

from tallyroll.errors import StoreUnavailable

TIMEOUT_S: Final = 5
MESSAGE_ID: Final = "Nats-Msg-Id"
"""The header by which streams tell repeats."""

_AGAIN_S: Final = 0.1
_LEAVE_S: Final = 1.0  # for what the client has not written yet; whoever closes it counts on nothing of that


class Connection:
    """One connection, made when it is first asked for, and again after it has broken."""

    def __init__(self, servers: Sequence[str], timeout_s: int = TIMEOUT_S) -> None:
        self._servers = list(servers)
        self._timeout_s = timeout_s
        self._client: Client | None = None

    @property
    def is_up(self) -> bool:
        """Whether ``client`` gives the same client again."""
        return self._client is not None and self._client.is_connected

    async def client(self) -> Client:
        """A client that is connected. Raises as it does, and TimeoutError."""
        if self._client is None or not self._client.is_connected:
            await self.close()
            self._client = Client()  # known before it is connected, so that half a connection is closed as well
            async with asyncio.timeout(self._timeout_s):
                await self._client.connect(
                    self._servers,
                    connect_timeout=self._timeout_s,
                    allow_reconnect=False,
                    max_reconnect_attempts=1,  # with 0 the client would try for ever
                    reconnect_time_wait=_AGAIN_S,  # type: ignore[arg-type]  # a time in seconds
                    flush_timeout=self._timeout_s,  # by default a full buffer is waited for without an end
                    error_cb=self._noticed,
                )
        return self._client

    def unavailable(self, error: Exception) -> StoreUnavailable:
        """What an error of the client means to who asked one of these servers for something."""
        return StoreUnavailable(f"NATS at {','.join(self._servers)}", f"does not answer ({type(error).__name__})")

    async def close(self) -> None:
        """Ends it: what the client still has in its buffer must not come later by itself. Safe to call twice.

        Waits a second at most, also where the server is there and reads nothing.
        """
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            closing = asyncio.ensure_future(client.close())
            await asyncio.wait({closing}, timeout=_LEAVE_S)
            if not closing.done():
                _abort(client)
            with suppress(OSError):  # what it had not written
                await closing

    async def _noticed(self, error: Exception) -> None:
        """Errors come out of the calls, and the client would print them as well; but after this one it would just go on."""
        if isinstance(error, FlushTimeoutError) and self._client is not None:
            _abort(self._client)


def _abort(client: Client) -> None:
    """Ends a connection at once, without what is not written; the client has no such call, and waits for its peer to read."""
    writer = getattr(client._transport, "_io_writer", None)  # noqa: SLF001  # as said
    if writer is not None:
        writer.transport.abort()
