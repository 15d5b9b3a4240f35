"""What Redis answers, with its errors as ours."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import TypeVar

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from tallyroll.errors import SettingsError, StoreUnavailable

_T = TypeVar("_T")


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
