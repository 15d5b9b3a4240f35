"""Implements ``ports.StateTarget`` on Redis 6.2 or newer, one node.

============================================  ======  ======================================================
``PREFIX agent:ID:state``, task, workflow     string  the view as JSON: what others read; also the channel of its changes
``tallyroll:part:agent:ID``                   hash    per topic/partition fold, end offset and part; ``n`` counts changes
``tallyroll:guard:agent:ID``                  hash    digest of the view that was last written, and its fold
``tallyroll:sync:TOPIC/PARTITION``            hash    ``epoch token fold next first repeats``
============================================  ======  ======================================================
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from tallyroll.adapters.redis.answering import TIMEOUT_S, answer, connecting, place
from tallyroll.adapters.redis.scripts import ACQUIRE, COMMIT, LOAD, PARTS, VIEWS
from tallyroll.errors import PositionConflict, SettingsError
from tallyroll.events.ids import new_id
from tallyroll.events.position import TopicPartition
from tallyroll.ports import Claim, Merged, PartAt, Progress, ViewsWritten, ViewWrite
from tallyroll.settings import Secret

_OWN: Final = "tallyroll:"
_FOLD_CHARS: Final = 16
_MARK_CHARS: Final = _FOLD_CHARS + 19
_pack: Final = msgspec.msgpack.Encoder().encode
_sizes: Final = msgspec.msgpack.Decoder(list[int]).decode
_heads: Final = msgspec.msgpack.Decoder(list[list[Any]]).decode


class RedisStateTarget:
    """States in Redis. ``prefix`` stands before the keys of views, ``tenant`` before all names.

    Connects with the first call. Refuses, with SettingsError, a cluster, and a server that evicts keys without a time to live:
    parts would vanish unseen. Not promised: durability beyond what the server's own persistence gives; what it loses is
    made anew.
    """

    def __init__(  # noqa: PLR0913  # one per setting
        self, host: str, port: int, password: Secret | None = None, *, prefix: str = _OWN, tenant: str = "", timeout_s: float = TIMEOUT_S
    ) -> None:
        self._client = connecting(host, port, password, timeout_s=timeout_s)
        self._where = place(host, port)
        self._views = prefix + tenant
        self._own = _OWN + tenant
        self._acquire = self._client.register_script(ACQUIRE)
        self._load = self._client.register_script(LOAD)
        self._parts = self._client.register_script(PARTS)
        self._write_views = self._client.register_script(VIEWS)
        self._commit = self._client.register_script(COMMIT)
        self._checked = False

    async def progress(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Progress]:
        await self._check_server()
        pipeline = self._client.pipeline(transaction=False)
        for partition in partitions:
            pipeline.hmget(self._sync(partition), ["fold", "first", "next", "repeats"])
        rows = await answer(pipeline.execute(), self._where)
        return {
            partition: Progress(fold.decode(), int(first), int(end), repeats)
            for partition, (fold, first, end, repeats) in zip(partitions, rows, strict=True)
            if end is not None
        }

    async def acquire(self, claims: Sequence[Claim]) -> Sequence[Claim]:
        await self._check_server()
        claimed = [claim._replace(token=new_id()) for claim in claims]
        arguments = [item for claim in claimed for item in (claim.token, claim.fold_id, _offset(claim.next))]
        await self._fenced(claims, self._acquire(self._syncs(claims), arguments))
        return claimed

    async def check(self, claims: Sequence[Claim]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for claim in claims:
            pipeline.hmget(self._sync(claim.partition), ["fold", "next", "token"])
        for claim, (fold, end, token) in zip(claims, await answer(pipeline.execute(), self._where), strict=True):
            same = fold == claim.fold_id.encode() and (end or b"") == _offset(claim.next).encode()
            if not same or (claim.token and token != claim.token.encode()):
                raise _conflict(claim, end)

    async def parts(self, fold_id: str, wanted: Sequence[PartAt]) -> Mapping[PartAt, tuple[int, bytes]]:
        places: dict[str, int] = {}
        flat = [item for where, owner in wanted for item in (places.setdefault(str(where), len(places) + 1), owner)]
        head, data = await answer(self._load([], [_pack((f"{self._own}part:", list(places), flat))]), self._where)
        fold = _fold(fold_id).encode()
        return {
            where: (int(value[_FOLD_CHARS:_MARK_CHARS]), value[_MARK_CHARS:])
            for where, value in zip(wanted, _pieces(_sizes(head), data), strict=True)
            if value.startswith(fold)
        }

    async def write_parts(
        self, claims: Sequence[tuple[Claim, int]], parts: Mapping[str, Mapping[TopicPartition, bytes]]
    ) -> Mapping[str, Merged]:
        held = [claim for claim, _ in claims]
        places = {claim.partition: number for number, claim in enumerate(held, 1)}
        marks = [(_fold(claim.fold_id), _offset(end), str(claim.partition)) for claim, end in claims]
        sizes = [[owner, *(item for where, data in own.items() for item in (places[where], len(data)))] for owner, own in parts.items()]
        data = b"".join(chain.from_iterable(own.values() for own in parts.values()))
        arguments: list[str | bytes] = [*_proofs(held), _pack((f"{self._own}part:", marks, sizes)), data]
        head, rest = await self._fenced(held, self._parts(self._syncs(held), arguments))
        heads = _heads(head)
        values = _pieces([size for one in heads for size in one[2::2]], rest)
        fold = _fold(held[0].fold_id).encode()
        merged: dict[str, Merged] = {}
        for (owner, own), (change, *fields) in zip(parts.items(), heads, strict=True):
            others = {_partition(name): part for name in fields[::2] if (part := _of(fold, next(values))) is not None}
            merged[owner] = Merged(int(change), {**own, **others})
        return merged

    async def write_views(self, views: Sequence[ViewWrite], fold_id: str) -> ViewsWritten:
        if not views:
            return ViewsWritten(0, 0)
        return ViewsWritten(*await answer(self._write_views([], self._shown(views, fold_id)), self._where))

    async def commit(
        self, ended: Sequence[tuple[Claim, Progress]], views: Sequence[ViewWrite] = ()
    ) -> tuple[Sequence[Claim], ViewsWritten]:
        held = [claim for claim, _ in ended]
        ends: list[str | bytes] = [item for _, one in ended for item in (_offset(one.next), _offset(one.first), one.repeats)]
        shown = self._shown(views, held[0].fold_id)
        written = await self._fenced(held, self._commit(self._syncs(held), [*_proofs(held), *ends, *shown]))
        return [claim._replace(next=progress.next) for claim, progress in ended], ViewsWritten(*written)

    async def close(self) -> None:
        await self._client.aclose()

    def _shown(self, views: Sequence[ViewWrite], fold_id: str) -> list[bytes]:
        flat = [item for owner, change, body in views for item in (owner, str(change), len(body))]
        return [_pack((self._own, self._views, fold_id, flat)), b"".join(body for _, _, body in views)]

    def _sync(self, partition: TopicPartition) -> str:
        return f"{self._own}sync:{partition}"

    def _syncs(self, claims: Sequence[Claim]) -> list[str]:
        return [self._sync(claim.partition) for claim in claims]

    async def _fenced(self, claims: Sequence[Claim], call: Awaitable[Any]) -> Any:  # noqa: ANN401  # what the script gives
        try:
            return await answer(call, self._where)
        except ResponseError as error:
            word, _, rest = str(error).partition(" ")
            if word != "CONFLICT":
                raise
            place, _, stored = rest.partition(" ")
            raise _conflict(claims[int(place) - 1], stored.encode()) from None

    async def _check_server(self) -> None:
        if self._checked:
            return
        info = await answer(self._client.info(), self._where)
        if info.get("cluster_enabled"):
            raise SettingsError("REDIS_HOST", "expected one node; a cluster cannot keep the parts of an owner together")
        if info.get("maxmemory") and str(info.get("maxmemory_policy", "")).startswith("allkeys-"):
            raise SettingsError("REDIS_HOST", "expected maxmemory-policy noeviction or volatile-…; this server evicts any key")
        self._checked = True


def _conflict(claim: Claim, stored: bytes | None) -> PositionConflict:
    return PositionConflict(str(claim.partition), stored=int(stored) if stored else None, expected=claim.next)


def _offset(offset: int | None) -> str:
    return "" if offset is None else f"{offset:019}"


def _fold(fold_id: str) -> str:
    return fold_id[:_FOLD_CHARS].ljust(_FOLD_CHARS, "-")


def _proofs(claims: Sequence[Claim]) -> list[str]:
    return [item for claim in claims for item in (claim.token, _offset(claim.next))]


def _pieces(sizes: Sequence[int], data: bytes) -> Iterator[bytes]:
    """What stands end to end, piece by piece."""
    start = 0
    for size in sizes:
        yield data[start : start + size]
        start += size


def _of(fold: bytes, value: bytes) -> bytes | None:
    return value[_MARK_CHARS:] if value.startswith(fold) else None


@lru_cache(maxsize=4_096)  # the same few fields stand in every hash
def _partition(field: str) -> TopicPartition:
    topic, _, partition = field.rpartition("/")
    return TopicPartition(topic, int(partition))
