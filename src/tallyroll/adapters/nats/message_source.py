"""Messages of a stream, as events to be taken in."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig
from nats.js.errors import NotFoundError

from tallyroll.adapters.nats.connecting import MESSAGE_ID, TIMEOUT_S, Connection
from tallyroll.errors import SettingsError
from tallyroll.ports import Received


class NatsSource:
    """Implements ``ports.MessageSource`` by a durable pull consumer of the stream that covers ``subject``.

    ``name`` names the consumer: all processes with the same one share the messages. What is not settled within
    ``ack_wait_s`` is delivered again, to any of them. Raises SettingsError where no stream covers the subject.
    """

    def __init__(self, servers: Sequence[str], subject: str, name: str, *, ack_wait_s: float = 30) -> None:
        self._connection = Connection(servers)
        self._subject = subject
        self._name = name.replace(".", "_")
        self._ack_wait_s = ack_wait_s
        self._pulling: JetStreamContext.PullSubscription | None = None
        self._open: dict[str, Msg] = {}

    async def receive(self, most: int, wait_s: float) -> Sequence[Received]:
        try:
            pulling = await self._connected()
            try:
                messages = await pulling.fetch(most, timeout=wait_s)
            except TimeoutError:  # the client's own derives from it; it raises the plain one where the server was just in time
                return []
        except NotFoundError:
            raise SettingsError("NATS_SERVERS", f"expected a stream that covers {self._subject}") from None
        except (NatsError, OSError, TimeoutError) as error:
            await self.close()
            raise self._connection.unavailable(error) from None
        received = []
        for message in messages:
            place = f"{message.metadata.stream}-{message.metadata.sequence.stream}"
            headers = dict(message.headers or {})
            self._open[place] = message
            received.append(Received(place, headers.get(MESSAGE_ID) or place, message.data, headers))
        return received

    async def settle(self, taken: Sequence[Received], dropped: Sequence[Received]) -> None:
        try:
            await asyncio.gather(*(self._open.pop(one.place).ack_sync(TIMEOUT_S) for one in taken))
            await asyncio.gather(*(self._open.pop(one.place).term() for one in dropped))
        except (NatsError, OSError, TimeoutError) as error:
            await self.close()
            raise self._connection.unavailable(error) from None
        finally:
            self._open.clear()

    async def close(self) -> None:
        self._pulling = None
        self._open.clear()
        await self._connection.close()

    async def _connected(self) -> JetStreamContext.PullSubscription:
        if self._pulling is None or not self._connection.is_up:
            await self.close()
            stream = (await self._connection.client()).jetstream(timeout=TIMEOUT_S)
            config = ConsumerConfig(ack_policy=AckPolicy.EXPLICIT, ack_wait=self._ack_wait_s, max_ack_pending=1_000)
            self._pulling = await stream.pull_subscribe(self._subject, durable=self._name, config=config)
        return self._pulling
