"""What a Redis server is like, for who looks before states are kept there. Reads only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from hashlib import sha1
from typing import Any, Final, Literal, NamedTuple

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from tallyroll.adapters.redis.answering import connecting, place
from tallyroll.errors import SettingsError, StoreUnavailable
from tallyroll.settings import Secret

LEAST_VERSION: Final = (6, 2)
"""The first that has every command that the scripts use."""

MOST_KEYS: Final = 2_000
"""So many states are looked at: enough to see that somebody else writes there, and done in a second."""

_OWN: Final = "tallyroll:"
_PAGE: Final = 500
_STATES: Final = ("agent", "task", "workflow")

Persistence = Literal["every write", "snapshots", "nothing"]


class RedisReport(NamedTuple):
    """``now_us`` is the server's clock; ``foreign`` of the ``looked_at`` states were written by somebody else."""

    version: str
    cluster: bool
    evicts: bool
    persistence: Persistence
    persists_well: bool
    scripts: bool
    now_us: int
    looked_at: int
    foreign: int

    @property
    def new_enough(self) -> bool:
        """Whether the version is one that the bridge works with."""
        parts = self.version.split(".")
        return tuple(int(part) for part in parts[:2] if part.isdigit()) >= LEAST_VERSION


async def redis_report(host: str, port: int, password: Secret | None, *, prefix: str, tenant: str) -> RedisReport:
    """Asks the server. Raises StoreUnavailable; SettingsError where it refuses the password or the right to look."""
    client = connecting(host, port, password, again=0)
    try:
        return await _look(client, prefix + tenant, _OWN + tenant)
    except (AuthenticationError, NoPermissionError) as error:
        raise SettingsError("REDIS_PASSWORD", f"Redis refused ({type(error).__name__})") from None
    except (RedisError, OSError) as error:
        raise StoreUnavailable(place(host, port), f"does not answer ({type(error).__name__})") from None
    finally:
        await client.aclose()


async def _look(client: Redis, views: str, own: str) -> RedisReport:
    info: Mapping[str, Any] = await client.info()
    seconds, micros = await client.time()
    looked_at = foreign = 0
    async for keys in _pages(client, views, own):
        looked_at += len(keys)
        foreign += await _foreign(client, keys, views, own)
    aof = bool(info.get("aof_enabled"))
    well = info.get("aof_last_write_status", "ok") == "ok" if aof else info.get("rdb_last_bgsave_status", "ok") == "ok"
    return RedisReport(
        version=str(info.get("redis_version", "unknown")),
        cluster=bool(info.get("cluster_enabled")),
        evicts=bool(info.get("maxmemory")) and str(info.get("maxmemory_policy", "")).startswith("allkeys-"),
        persistence="every write" if aof else await _snapshots(client),
        persists_well=well,
        scripts=await _may_run_scripts(client),
        now_us=seconds * 1_000_000 + micros,
        looked_at=looked_at,
        foreign=foreign,
    )


async def _snapshots(client: Redis) -> Persistence:
    """Whether snapshots are taken by themselves; where that may not be asked, whether one ever was."""
    try:
        return "snapshots" if (await client.config_get("save")).get("save") else "nothing"
    except ResponseError:
        return "snapshots" if (await client.info("persistence")).get("rdb_saves") else "nothing"


async def _may_run_scripts(client: Redis) -> bool:
    try:
        return bool(await client.eval("return 1", 0) == 1)
    except ResponseError:
        return False


async def _pages(client: Redis, views: str, own: str) -> AsyncIterator[list[str]]:
    """Keys of states, at most ``MOST_KEYS``; steps over a keyspace of others without looking at all of it."""
    seen, steps, cursor = 0, 0, 0
    pattern = "".join(f"\\{char}" if char in "*?[]\\" else char for char in views) + "*:state"
    ours = tuple(f"{own}{kind}:" for kind in ("part", "guard", "sync"))
    states = tuple(f"{views}{kind}:" for kind in _STATES)
    while True:
        cursor, found = await client.scan(cursor, match=pattern, count=_PAGE)
        keys = [
            key
            for key in (one.decode(errors="surrogateescape") for one in found if isinstance(one, bytes))
            if key.startswith(states) and not key.startswith(ours)
        ]
        seen, steps = seen + len(keys), steps + 1
        if keys:
            yield keys
        if not cursor or seen >= MOST_KEYS or steps >= MOST_KEYS:
            return


async def _foreign(client: Redis, keys: list[str], views: str, own: str) -> int:
    """How many of these do not hold what the bridge wrote last."""
    pipeline = client.pipeline(transaction=False)
    for key in keys:
        owner = key[len(views) :].removesuffix(":state")
        pipeline.get(key.encode(errors="surrogateescape"))
        pipeline.hget(f"{own}guard:{owner}".encode(errors="surrogateescape"), "digest")
    answers = await pipeline.execute(raise_on_error=False)  # a key of another type answers with an error
    return sum(not _is_ours(body, digest) for body, digest in zip(answers[::2], answers[1::2], strict=True))


def _is_ours(body: object, digest: object) -> bool:
    return isinstance(body, bytes) and sha1(body, usedforsecurity=False).hexdigest().encode() == digest
