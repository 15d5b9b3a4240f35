"""Alerts published on NATS subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nats.aio.client import Client
from nats.errors import Error as NatsError

from tallyroll.adapters.nats.connecting import connect
from tallyroll.errors import SinkUnavailable
from tallyroll.ports import Notice

SUBJECTS: Final = "tallyroll.alerts."
"""What the subjects begin with; the severity follows."""

_TIMEOUT_S: Final = 5


class NatsSink:
    """Implements ``ports.AlertSink`` by publishing on ``tallyroll.alerts.SEVERITY``, with the notice's id as ``Nats-Msg-Id``.

    The server has the notice when ``send`` returns; a stream over the subjects drops repeats by the id. Connects with the
    first notice, and again after a failure. Not promised: that anybody listens.
    """

    name: Final = "nats"

    def __init__(self, servers: Sequence[str]) -> None:
        self._servers = list(servers)
        self._client: Client | None = None

    async def send(self, notice: Notice) -> None:
        try:
            client = await self._connected()
            await client.publish(SUBJECTS + notice.severity, notice.body, headers={"Nats-Msg-Id": notice.id})
            await client.flush(_TIMEOUT_S)
        except (NatsError, OSError) as error:
            await self.close()  # what the client still has in its buffer must not come later by itself
            raise SinkUnavailable(self.name, type(error).__name__) from None

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            await client.close()

    async def _connected(self) -> Client:
        if self._client is None or not self._client.is_connected:
            await self.close()
            self._client = Client()
            await connect(self._client, self._servers, _TIMEOUT_S)
        return self._client
