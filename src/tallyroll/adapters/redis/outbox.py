"""Implements ``ports.Outbox`` as one hash in Redis, ``tallyroll:outbox``: a field per row, so that any host can finish it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tallyroll.adapters.redis.answering import TIMEOUT_S, answer, connecting, place
from tallyroll.adapters.redis.scripts import REPLACE
from tallyroll.errors import StoreUnavailable
from tallyroll.ports import OutboxRow
from tallyroll.settings import Secret

_KEY: Final = "tallyroll:{tenant}outbox"

_pack: Final = msgspec.msgpack.Encoder().encode
_unpack: Final = msgspec.msgpack.Decoder(tuple[int, int, bytes, bytes | None]).decode


class RedisOutbox:
    """An outbox in Redis; ``tenant`` stands before its name. Connects with the first call.

    Durability: as the server's own persistence gives; ``appendonly yes`` keeps what was written. Touches no key but its own.
    Not promised: a row that Redis lost. What it stood for is then a task without an event, which nobody knows of.
    """

    def __init__(self, host: str, port: int, password: Secret | None = None, *, tenant: str = "", timeout_s: float = TIMEOUT_S) -> None:
        self._client = connecting(host, port, password, timeout_s=timeout_s)
        self._where = place(host, port)
        self._key = _KEY.format(tenant=tenant)
        self._replace = self._client.register_script(REPLACE)

    async def put(self, row: OutboxRow) -> None:
        await self._ask("HSET", row.id, _packed(row))

    async def ready(self, row_id: str, event: bytes, until_us: int) -> bool:
        while True:  # ends: whoever is quicker than we are adds the event, or removes the row, or moves its time, once a minute
            stored = await self._ask("HGET", row_id)
            row = None if stored is None else _row(row_id, stored)
            if row is None or row.event is not None:
                return False
            if await self._exchange(row_id, stored, row._replace(event=event, until_us=until_us)):
                return True

    async def lease(self, row: OutboxRow, until_us: int) -> bool:
        return await self._exchange(row.id, _packed(row), row._replace(until_us=until_us))

    async def rows(self, limit: int = 1_000) -> Sequence[OutboxRow]:
        stored = await self._ask("HGETALL")
        rows = [_row(row_id.decode(), packed) for row_id, packed in stored.items()]
        return sorted(rows, key=lambda row: (row.since_us, row.id))[:limit]

    async def remove(self, row_id: str) -> None:
        await self._ask("HDEL", row_id)

    async def close(self) -> None:
        await self._client.aclose()

    async def _exchange(self, row_id: str, old: bytes, new: OutboxRow) -> bool:
        return bool(await answer(self._replace([self._key], [row_id, old, _packed(new)]), self._where))

    async def _ask(self, command: str, *arguments: str | bytes) -> Any:  # noqa: ANN401  # what the command gives
        return await answer(self._client.execute_command(command, self._key, *arguments), self._where)  # type: ignore[no-untyped-call]  # theirs


def _packed(row: OutboxRow) -> bytes:
    return _pack(row[1:])


def _row(row_id: str, packed: bytes) -> OutboxRow:
    try:
        return OutboxRow(row_id, *_unpack(packed))
    except msgspec.MsgspecError:
        raise StoreUnavailable("Redis", f"field {row_id} of the outbox is no row of ours; remove it") from None
