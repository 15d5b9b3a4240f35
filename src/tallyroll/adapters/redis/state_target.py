"""Implements ``ports.StateTarget`` on Redis 6.2 or newer, one node.

============================================  ======  ======================================================
``PREFIX agent:ID:state``, task, workflow     string  the view as JSON: what others read; also the channel of its changes
``tallyroll:part:agent:ID``                   hash    per topic/partition fold, end offset and part; ``n`` counts changes
``tallyroll:guard:agent:ID``                  hash    digest of the view that was last written, and its fold
``tallyroll:sync:TOPIC/PARTITION``            hash    ``epoch token fold next first repeats``
============================================  ======  ======================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ResponseError

from tallyroll.adapters.redis.answering import answer
from tallyroll.adapters.redis.scripts import ACQUIRE, COMMIT, PARTS, VIEWS
from tallyroll.errors import PositionConflict, SettingsError
from tallyroll.events.ids import new_id
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Claim, Merged, Progress, ViewsWritten
from tallyroll.settings import Secret

_OWN: Final = "tallyroll:"
_TIMEOUT_S: Final = 5.0
_FOLD_CHARS: Final = 16
_MARK_CHARS: Final = _FOLD_CHARS + 19


class RedisStateTarget:
    """States in Redis. ``prefix`` stands before the keys of views, ``tenant`` before all names.

    Connects with the first call. Refuses, with SettingsError, a cluster, and a server that evicts keys without a time to live:
    parts would vanish unseen. Not promised: durability beyond what the server's own persistence gives; what it loses is
    made anew.
    """

    def __init__(  # noqa: PLR0913  # one per setting
        self, host: str, port: int, password: Secret | None = None, *, prefix: str = _OWN, tenant: str = "", timeout_s: float = _TIMEOUT_S
    ) -> None:
        self._client: Redis = Redis(
            host=host,
            port=port,
            password=None if password is None else password.reveal(),
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 1),  # a connection that a restart has closed; who calls tries again by itself
        )
        self._views = prefix + tenant
        self._own = _OWN + tenant
        self._acquire = self._client.register_script(ACQUIRE)
        self._parts = self._client.register_script(PARTS)
        self._write_views = self._client.register_script(VIEWS)
        self._commit = self._client.register_script(COMMIT)
        self._checked = False

    async def progress(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Progress]:
        await self._check_server()
        pipeline = self._client.pipeline(transaction=False)
        for partition in partitions:
            pipeline.hmget(self._sync(partition), ["fold", "first", "next", "repeats"])
        rows = await answer(pipeline.execute())
        return {
            partition: Progress(fold.decode(), int(first), int(end), repeats)
            for partition, (fold, first, end, repeats) in zip(partitions, rows, strict=True)
            if end is not None
        }

    async def acquire(self, claim: Claim) -> Claim:
        await self._check_server()
        token = new_id()
        conflict = await answer(self._acquire([self._sync(claim.partition)], [token, claim.fold_id, _offset(claim.next)]))
        if conflict is not None:
            raise _conflict(claim, conflict[0])
        return claim._replace(token=token)

    async def check(self, claims: Sequence[Claim]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for claim in claims:
            pipeline.hmget(self._sync(claim.partition), ["fold", "next", "token"])
        for claim, (fold, end, token) in zip(claims, await answer(pipeline.execute()), strict=True):
            same = fold == claim.fold_id.encode() and (end or b"") == _offset(claim.next).encode()
            if not same or (claim.token and token != claim.token.encode()):
                raise _conflict(claim, end)

    async def parts(self, claim: Claim, owners: Sequence[str]) -> Mapping[str, tuple[int, bytes]]:
        pipeline = self._client.pipeline(transaction=False)
        for owner in owners:
            pipeline.hget(self._part(owner), str(claim.partition))
        found = zip(owners, await answer(pipeline.execute()), strict=True)
        fold = _fold(claim.fold_id)
        return {
            owner: (int(data[_FOLD_CHARS:_MARK_CHARS]), data[_MARK_CHARS:])
            for owner, data in found
            if data is not None and data.startswith(fold)
        }

    async def write_parts(self, claim: Claim, end: int, parts: Sequence[tuple[str, bytes]]) -> Mapping[str, Merged]:
        fold = _fold(claim.fold_id)
        keys = [self._sync(claim.partition), *(self._part(owner) for owner, _ in parts)]
        mark = fold + _offset(end).encode()
        arguments: list[str | bytes] = [claim.token, _offset(claim.next), mark, str(claim.partition), *(data for _, data in parts)]
        found = await self._fenced(claim, self._parts(keys, arguments))
        return {
            owner: Merged(int(change), _parts(flat, fold) | ({claim.partition: data} if wrote else {}))
            for (owner, data), (wrote, change, flat) in zip(parts, found, strict=True)
        }

    async def write_views(self, views: Sequence[tuple[str, int, bytes]], fold_id: str) -> ViewsWritten:
        if not views:
            return ViewsWritten(0, 0)
        keys = [key for owner, _, _ in views for key in (self._part(owner), f"{self._own}guard:{owner}", self.view_key(owner))]
        arguments: list[str | bytes | int] = [fold_id, *(item for _, change, body in views for item in (change, body))]
        return ViewsWritten(*await answer(self._write_views(keys, arguments)))

    async def commit(self, claim: Claim, progress: Progress) -> Claim:
        arguments: list[str | bytes] = [claim.token, _offset(claim.next), _offset(progress.next), _offset(progress.first), progress.repeats]
        await self._fenced(claim, self._commit([self._sync(claim.partition)], arguments))
        return claim._replace(next=progress.next)

    async def close(self) -> None:
        await self._client.aclose()

    def view_key(self, owner: str) -> str:
        """The key at which others read the view of ``view:id``, and the channel on which its changes are published."""
        return f"{self._views}{owner}:state"

    def _sync(self, partition: TopicPartition) -> str:
        return f"{self._own}sync:{partition}"

    def _part(self, owner: str) -> str:
        return f"{self._own}part:{owner}"

    async def _fenced(self, claim: Claim, call: Awaitable[Any]) -> Any:  # noqa: ANN401  # what the script gives
        try:
            return await answer(call)
        except ResponseError as error:
            word, _, stored = str(error).partition(" ")
            if word != "CONFLICT":
                raise
            raise _conflict(claim, stored.encode()) from None

    async def _check_server(self) -> None:
        if self._checked:
            return
        info = await answer(self._client.info())
        if info.get("cluster_enabled"):
            raise SettingsError("REDIS_HOST", "expected one node; a cluster cannot keep the parts of an owner together")
        if info.get("maxmemory") and str(info.get("maxmemory_policy", "")).startswith("allkeys-"):
            raise SettingsError("REDIS_HOST", "expected maxmemory-policy noeviction or volatile-…; this server evicts any key")
        self._checked = True


def _conflict(claim: Claim, stored: bytes | None) -> PositionConflict:
    return PositionConflict(str(claim.partition), stored=int(stored) if stored else None, expected=claim.next)


def _offset(offset: int | None) -> str:
    return "" if offset is None else f"{offset:019}"


def _fold(fold_id: str) -> bytes:
    return fold_id.encode()[:_FOLD_CHARS].ljust(_FOLD_CHARS, b"-")


def _parts(flat: Sequence[bytes], fold: bytes) -> dict[TopicPartition, bytes]:
    parts = {}
    for field, value in zip(flat[::2], flat[1::2], strict=True):
        if value.startswith(fold):
            topic, _, partition = field.decode().rpartition("/")
            parts[TopicPartition(topic, int(partition))] = value[_MARK_CHARS:]
    return parts
