"""Alerts published on NATS subjects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nats.errors import Error as NatsError

from tallyroll.adapters.nats.connecting import TIMEOUT_S, Connection
from tallyroll.errors import SinkUnavailable
from tallyroll.ports import Notice

SUBJECTS: Final = "tallyroll.alerts."
"""What the subjects begin with; the severity follows."""


class NatsSink:
    """Implements ``ports.AlertSink`` by publishing on ``tallyroll.alerts.SEVERITY``, with the notice's id as ``Nats-Msg-Id``.

    The server has the notice when ``send`` returns; a stream over the subjects drops repeats by the id. Connects with the
    first notice, and again after a failure. Not promised: that anybody listens.
    """

    name: Final = "nats"

    def __init__(self, servers: Sequence[str]) -> None:
        self._connection = Connection(servers)

    async def send(self, notice: Notice) -> None:
        try:
            client = await self._connection.client()
            await client.publish(SUBJECTS + notice.severity, notice.body, headers={"Nats-Msg-Id": notice.id})
            await client.flush(TIMEOUT_S)
        except (NatsError, OSError) as error:
            await self.close()
            raise SinkUnavailable(self.name, type(error).__name__) from None

    async def close(self) -> None:
        await self._connection.close()
