"""How tallyroll connects to Redis, and what Redis answers, with its errors as ours."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ConnectionError, NoPermissionError, RedisError, ResponseError  # noqa: A004  # that of Redis

from tallyroll.errors import SettingsError, StoreUnavailable
from tallyroll.settings import Secret

TIMEOUT_S: Final = 5.0
_T = TypeVar("_T")


def connecting(host: str, port: int, password: Secret | None, *, timeout_s: float = TIMEOUT_S, again: int = 1) -> Redis:
    """A client that connects with its first call. It makes a call ``again`` where a restart has closed the connection, at once."""
    return Redis(
        host=host,
        port=port,
        password=None if password is None else password.reveal(),
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), again, (ConnectionError,)),
    )


def place(host: str, port: int) -> str:
    """How messages name a server."""
    return f"Redis at {host}:{port}"


async def answer(call: Awaitable[_T], where: str) -> _T:
    """The answer of Redis at ``where``; its errors as ours, without what they quote. Lets a script's CONFLICT through."""
    try:
        return await call
    except (AuthenticationError, NoPermissionError) as error:
        raise SettingsError("REDIS_PASSWORD", f"Redis refused ({type(error).__name__})") from None
    except ResponseError as error:
        if str(error).startswith("CONFLICT"):
            raise
        raise StoreUnavailable(where, f"refuses for now ({str(error).partition(' ')[0]})") from None
    except (RedisError, OSError) as error:
        raise StoreUnavailable(where, f"does not answer ({type(error).__name__})") from None
