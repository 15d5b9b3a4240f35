"""Alerts published on Redis channels. Nothing is stored there, and no key is touched."""

from __future__ import annotations

from typing import Final

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from tallyroll.adapters.redis.answering import connecting
from tallyroll.errors import SinkRefused, SinkUnavailable
from tallyroll.ports import Notice
from tallyroll.settings import Secret

CHANNELS: Final = "tallyroll:alerts:"
"""What the channels begin with; the severity follows."""


class RedisSink:
    """Implements ``ports.AlertSink`` by PUBLISH on ``tallyroll:alerts:SEVERITY``.

    Connects with the first notice, and again after a failure. Not promised: that anybody listens; Redis keeps nothing for
    subscribers who are away.
    """

    name: Final = "redis"

    def __init__(self, host: str, port: int, password: Secret | None = None) -> None:
        self._client = connecting(host, port, password)

    async def send(self, notice: Notice) -> None:
        try:
            await self._client.publish(CHANNELS + notice.severity, notice.body)
        except (AuthenticationError, NoPermissionError, ResponseError) as error:
            raise SinkRefused(self.name, type(error).__name__) from None
        except (RedisError, OSError) as error:
            raise SinkUnavailable(self.name, type(error).__name__) from None

    async def close(self) -> None:
        await self._client.aclose()
