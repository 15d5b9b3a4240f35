"""Events as messages on NATS subjects."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError
from nats.js.errors import NotFoundError

from tallyroll.adapters.nats.connecting import MESSAGE_ID, TIMEOUT_S, Connection
from tallyroll.errors import SettingsError
from tallyroll.ports import Message

WINDOW: Final = 1_000
"""Messages that are out at a time."""

LEAST_DUPLICATE_WINDOW_S: Final = 600
"""A stream that forgets ids sooner may keep a message twice after a bad restart."""

_AT_ONCE: Final = 100  # messages; the client by itself would make all of them before it writes the first
_LOOK_S: Final = 0.25  # how often a connection that says nothing is looked at


class NatsMessages:
    """Implements ``ports.MessageTarget``, by JetStream or by core NATS.

    With ``jetstream`` a stream has each acknowledged message, and drops repeats by their id; plain subscribers see all of
    them. Without, acknowledged means that the server has it: nothing is kept for who is away. Connects with the first
    call, and again after a failure. Not promised: that the stream's copy survives the machine; see the stream's replicas.
    """

    def __init__(self, servers: Sequence[str], *, jetstream: bool = True, window: int = WINDOW, timeout_s: int = TIMEOUT_S) -> None:
        self._connection = Connection(servers, timeout_s)
        self._jetstream = jetstream
        self._window = window
        self._timeout_s = timeout_s

    async def check(self, subject: str) -> None:
        if not self._jetstream:
            return
        try:
            stream = (await self._connection.client()).jetstream(timeout=self._timeout_s)
            name = await stream.find_stream_name_by_subject(subject)
            kept = (await stream.stream_info(name)).config.duplicate_window or 0
        except NotFoundError:
            raise SettingsError("TALLYROLL_NATS_SUBJECT", "expected a stream that covers it; make one, or use mode core") from None
        except (NatsError, OSError, TimeoutError) as error:
            await self.close()
            raise self._connection.unavailable(error) from None
        if kept < LEAST_DUPLICATE_WINDOW_S:
            raise SettingsError("NATS_SERVERS", f"expected a duplicate window of {LEAST_DUPLICATE_WINDOW_S} s or more of stream {name}")

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        try:
            client = await self._connection.client()
        except (NatsError, OSError, TimeoutError) as error:
            raise self._connection.unavailable(error) from None
        if self._jetstream:
            streaming = _Streaming(client, messages, self._window, self._timeout_s)
            await streaming.run()
            acknowledged = streaming.acknowledged
        else:
            acknowledged = await _by_core(client, messages, self._window, self._timeout_s)
        if not all(acknowledged):
            await self.close()
        return acknowledged

    async def close(self) -> None:
        await self._connection.close()


class _Ack(msgspec.Struct):
    """What a stream answers, as far as it matters."""

    error: Any = None


_decode_ack: Final = msgspec.json.Decoder(_Ack).decode


class _Streaming:
    """One call of ``send`` to a stream: no task or future per message, but one inbox, and each message's number in its reply.

    One message of a subject at a time, or a retry would land behind its successor.
    """

    def __init__(self, client: Client, messages: Sequence[Message], window: int, timeout_s: float) -> None:
        self._client = client
        self._messages = messages
        self._window = window
        self._timeout_s = timeout_s
        self._ready: deque[int] = deque()
        self._following: dict[int, int] = {}  # per message the next one of the same subject
        last: dict[str, int] = {}
        for number, message in enumerate(messages):
            if message.subject in last:
                self._following[last[message.subject]] = number
            else:
                self._ready.append(number)
            last[message.subject] = number
        self._out = 0
        self._failed = False
        self._news = asyncio.Event()
        self.acknowledged = [False] * len(messages)

    async def run(self) -> None:
        """Returns when everything was acknowledged; or else after a failure, when no more acknowledgements come."""
        inbox = self._client.new_inbox()
        try:
            answers = await self._client.subscribe(f"{inbox}.*", cb=self._came)
            await self._send(inbox)
            await answers.unsubscribe()
        except MaxPayloadError:
            raise _too_large() from None
        except (NatsError, OSError, TimeoutError):
            self._failed = True

    async def _send(self, inbox: str) -> None:
        while True:
            while self._ready and self._out < self._window and not self._failed:
                number = self._ready.popleft()
                message = self._messages[number]
                headers = {**message.headers, MESSAGE_ID: message.id}
                await self._client.publish(message.subject, message.body, f"{inbox}.{number}", headers)
                self._out += 1
                if not number % _AT_ONCE:
                    await asyncio.sleep(0)  # noqa: TID251  # the client writes what it has, and the server begins
            if not self._out:
                return
            self._news.clear()
            await self._hear()

    async def _hear(self) -> None:
        """Waits for the next acknowledgement. Raises TimeoutError if none comes, or none can come any more."""
        until = time.monotonic() + self._timeout_s
        while not self._news.is_set():
            if time.monotonic() >= until or not self._client.is_connected:
                raise TimeoutError
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._news.wait()

    async def _came(self, answer: Msg) -> None:
        self._out -= 1
        self._news.set()
        number = int(answer.subject.rpartition(".")[2])
        try:
            good = not answer.headers and _decode_ack(answer.data).error is None  # a header says that nobody answers there
        except msgspec.MsgspecError:
            good = False
        if not good:
            self._failed = True
            return
        self.acknowledged[number] = True
        following = self._following.get(number)
        if following is not None:
            self._ready.append(following)


async def _by_core(client: Client, messages: Sequence[Message], window: int, timeout_s: int) -> list[bool]:
    """The server answers a flush when it has what came before."""
    acknowledged = [False] * len(messages)
    for start in range(0, len(messages), window):
        chunk = messages[start : start + window]
        try:
            for message in chunk:
                await client.publish(message.subject, message.body, headers={**message.headers, MESSAGE_ID: message.id})
            await client.flush(timeout_s)
        except MaxPayloadError:
            raise _too_large() from None
        except (NatsError, OSError, TimeoutError):
            break
        acknowledged[start : start + len(chunk)] = [True] * len(chunk)
    return acknowledged


def _too_large() -> SettingsError:
    return SettingsError("NATS_SERVERS", "expected a server whose max_payload holds the largest event; raise it there")
