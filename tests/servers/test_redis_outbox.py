"""The outbox in Redis keeps the contract of outboxes, and touches no key but its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from services.redis import RedisServer

from tallyroll.adapters.redis.outbox import RedisOutbox
from tallyroll.errors import StoreUnavailable
from tallyroll.ports import Outbox, OutboxRow
from tallyroll.testing.outbox_contract import CASES, Case

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(Path(tmp_path_factory.mktemp("redis"))) as running:
        yield running


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_contract(case: Case, server: RedisServer) -> None:
    with Redis(port=server.port) as redis:
        redis.flushall()
        redis.set("agent:a", "theirs")

        async def opener() -> Outbox:
            return RedisOutbox("127.0.0.1", server.port)

        await case(opener)
        assert set(redis.keys()) <= {b"agent:a", b"tallyroll:outbox"}


async def test_what_somebody_else_has_put_there_is_named(server: RedisServer) -> None:
    outbox = RedisOutbox("127.0.0.1", server.port, tenant="foreign.")
    with Redis(port=server.port) as redis:
        redis.hset("tallyroll:foreign.outbox", "row-9", "theirs")
        with pytest.raises(StoreUnavailable, match="row-9") as caught:
            await outbox.rows()
    assert "theirs" not in str(caught.value)
    await outbox.close()


async def test_tenants_do_not_meet(server: RedisServer) -> None:
    for tenant in ("one.", "two."):
        outbox = RedisOutbox("127.0.0.1", server.port, tenant=tenant)
        assert list(await outbox.rows()) == []
        await outbox.put(OutboxRow("row", 1, 2, tenant.encode()))
        await outbox.close()


async def test_a_server_that_is_away_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    with RedisServer(tmp_path, appendonly=True) as own:
        outbox, row = RedisOutbox("127.0.0.1", own.port), OutboxRow("row", 1, 2, b"canary")
        await outbox.put(row)
        own.kill()
        with pytest.raises(StoreUnavailable) as caught:
            await outbox.put(row)
        assert "canary" not in str(caught.value)
        own.restart()
        assert list(await outbox.rows()) == [row]
        await outbox.close()
