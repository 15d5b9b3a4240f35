"""What Redis answers, with its errors as ours."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Final, TypeVar

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from tallyroll.errors import SettingsError, StoreUnavailable

_STORE: Final = "redis"

_T = TypeVar("_T")


async def answer(call: Awaitable[_T]) -> _T:
    """The answer of Redis; its errors as ours, without what they quote. Lets a script's CONFLICT through."""
    try:
        return await call
    except (AuthenticationError, NoPermissionError) as error:
        raise SettingsError("REDIS_PASSWORD", f"Redis refused ({type(error).__name__})") from None
    except ResponseError as error:
        if str(error).startswith("CONFLICT"):
            raise
        raise StoreUnavailable(_STORE, str(error).partition(" ")[0]) from None
    except (RedisError, OSError) as error:
        raise StoreUnavailable(_STORE, type(error).__name__) from None
