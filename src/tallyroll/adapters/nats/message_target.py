"""Events as messages on NATS subjects."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from tallyroll.adapters.nats.connecting import connect
from tallyroll.errors import SettingsError, StoreUnavailable
from tallyroll.ports import Message

WINDOW: Final = 1_000
"""Messages that are out at a time."""

LEAST_DUPLICATE_WINDOW_S: Final = 600
"""A stream that forgets ids sooner may keep a message twice after a bad restart."""

_ID: Final = "Nats-Msg-Id"
_STORE: Final = "nats"
_TIMEOUT_S: Final = 5


class NatsMessages:
    """Implements ``ports.MessageTarget``, by JetStream or by core NATS.

    With ``jetstream`` a stream has each acknowledged message, and drops repeats by their id; plain subscribers see all of
    them. Without, acknowledged means that the server has it: nothing is kept for who is away. Connects with the first
    call, and again after a failure. Not promised: that the stream's copy survives the machine; see the stream's replicas.
    """

    def __init__(self, servers: Sequence[str], *, jetstream: bool = True, window: int = WINDOW, timeout_s: int = _TIMEOUT_S) -> None:
        self._servers = list(servers)
        self._jetstream = jetstream
        self._window = window
        self._timeout_s = timeout_s
        self._client: Client | None = None

    async def check(self, subject: str) -> None:
        if not self._jetstream:
            return
        try:
            stream = (await self._connected()).jetstream(timeout=self._timeout_s)
            name = await stream.find_stream_name_by_subject(subject)
            kept = (await stream.stream_info(name)).config.duplicate_window or 0
        except NotFoundError:
            raise SettingsError("TALLYROLL_NATS_SUBJECT", "expected a stream that covers it; make one, or use mode core") from None
        except (NatsError, OSError, TimeoutError) as error:
            await self.close()
            raise StoreUnavailable(_STORE, type(error).__name__) from None
        if kept < LEAST_DUPLICATE_WINDOW_S:
            raise SettingsError("NATS_SERVERS", f"expected a duplicate window of {LEAST_DUPLICATE_WINDOW_S} s or more of stream {name}")

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        try:
            client = await self._connected()
        except (NatsError, OSError, TimeoutError) as error:
            raise StoreUnavailable(_STORE, type(error).__name__) from None
        sending = _Sending(client, messages)
        if self._jetstream:
            await sending.by_stream(self._window, self._timeout_s)
        else:
            await sending.by_core(self._window, self._timeout_s)
        if not all(sending.acknowledged):
            await self.close()  # what the client still has in its buffer must not come later by itself
        return sending.acknowledged

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            await client.close()

    async def _connected(self) -> Client:
        if self._client is None or not self._client.is_connected:
            await self.close()
            self._client = Client()  # known before it is connected, so that half a connection is closed as well
            await connect(self._client, self._servers, self._timeout_s)
        return self._client


class _Sending:
    """One call of ``send``."""

    def __init__(self, client: Client, messages: Sequence[Message]) -> None:
        self._client = client
        self._messages = messages
        self._failed = False
        self.acknowledged = [False] * len(messages)

    async def by_stream(self, window: int, timeout_s: int) -> None:
        """One message of a subject at a time, or a retry would land behind its successor."""
        lanes: defaultdict[str, list[int]] = defaultdict(list)
        for index, message in enumerate(self._messages):
            lanes[message.subject].append(index)
        gate = asyncio.Semaphore(window)
        stream = self._client.jetstream(timeout=timeout_s)
        await asyncio.gather(*(self._lane(stream, indexes, gate) for indexes in lanes.values()))

    async def _lane(self, stream: JetStreamContext, indexes: Sequence[int], gate: asyncio.Semaphore) -> None:
        for index in indexes:
            async with gate:
                if self._failed:
                    return
                message = self._messages[index]
                try:
                    await stream.publish(message.subject, message.body, headers={**message.headers, _ID: message.id})
                except MaxPayloadError:
                    raise _too_large() from None
                except (NatsError, OSError, TimeoutError):
                    self._failed = True
                    return
                self.acknowledged[index] = True

    async def by_core(self, window: int, timeout_s: int) -> None:
        """The server answers a flush when it has what came before."""
        for start in range(0, len(self._messages), window):
            chunk = self._messages[start : start + window]
            try:
                for message in chunk:
                    await self._client.publish(message.subject, message.body, headers={**message.headers, _ID: message.id})
                await self._client.flush(timeout_s)
            except MaxPayloadError:
                raise _too_large() from None
            except (NatsError, OSError, TimeoutError):
                return
            self.acknowledged[start : start + len(chunk)] = [True] * len(chunk)


def _too_large() -> SettingsError:
    return SettingsError("NATS_SERVERS", "expected a server whose max_payload holds the largest event; raise it there")
