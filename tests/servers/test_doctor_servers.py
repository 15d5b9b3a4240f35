"""tallyroll doctor before a real Redis and a real NATS: well, badly set up, and away."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.js.api import StreamConfig
from redis import Redis
from services import NatsServer, RedisServer
from typer.testing import CliRunner

from tallyroll.adapters.redis.outbox import RedisOutbox
from tallyroll.cli.app import app
from tallyroll.ports import OutboxRow

pytestmark = [pytest.mark.server, pytest.mark.slow]

CANARY = "canary-redis-9d"
Checks = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RedisServer, NatsServer]]:
    folder = Path(tmp_path_factory.mktemp("doctor"))
    with RedisServer(folder / "redis", appendonly=True) as redis, NatsServer(folder / "nats") as server:
        yield redis, server


@pytest.fixture
def tallyroll(servers: tuple[RedisServer, NatsServer], tmp_path: Path) -> Callable[..., str]:
    redis, server = servers
    with Redis(port=redis.port) as client:
        client.flushall()  # what another test's log had come to
    known = {
        "TALLYROLL_URL": f"sqlite:///{tmp_path / 'log'}",
        "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(redis.port), "NATS_SERVERS": server.url,
    }  # fmt: skip

    def call(*words: str, code: int = 0, **environ: str) -> str:
        result = CliRunner(env={**known, **environ}).invoke(app, list(words), prog_name="tallyroll")
        assert result.exit_code == code, f"{words}: {result.exit_code}\n{result.output}\n{result.exception!r}"
        return result.output

    return call


def checks(text: str) -> Checks:
    found: Checks = {}
    for one in json.loads(text)["checks"]:
        found.setdefault(one["name"], []).append(one)
    assert all(one["next"] for group in found.values() for one in group if one["verdict"] != "ok")
    return found


def verdicts(found: Checks, name: str) -> list[str]:
    return [one["verdict"] for one in found[name]]


async def stream(server: NatsServer, window_s: float | None) -> None:
    client = await nats.connect(server.url)
    context = client.jetstream()
    for one in await context.streams_info():
        await context.delete_stream(one.config.name)
    if window_s is not None:
        await context.add_stream(StreamConfig(name="agents", subjects=["agents.*.status"], duplicate_window=window_s))
    await client.close()


def test_all_is_well_and_behind_is_said_per_follower(tallyroll: Callable[..., str], servers: tuple[RedisServer, NatsServer]) -> None:
    asyncio.run(stream(servers[1], 1_200))
    tallyroll("simulate", "--events", "200", "--seed", "3")
    found = checks(tallyroll("doctor", "--json"))
    assert (verdicts(found, "redis"), verdicts(found, "nats")) == (["ok", "warn"], ["ok", "ok", "warn"])
    assert "records behind the log" in found["redis"][1]["says"]
    assert found["nats"][2]["next"].startswith("run 'tallyroll run nats'")
    tallyroll("run", "all", "--once")
    found = checks(tallyroll("doctor", "--json"))
    assert {name: set(verdicts(found, name)) for name in ("state", "analytics", "archive", "redis", "nats")} == {
        name: {"ok"} for name in ("state", "analytics", "archive", "redis", "nats")
    }
    assert "all is well" in tallyroll("doctor")


def test_a_state_that_somebody_else_wrote_is_counted(tallyroll: Callable[..., str], servers: tuple[RedisServer, NatsServer]) -> None:
    asyncio.run(stream(servers[1], 1_200))
    with Redis(port=servers[0].port) as client:
        tallyroll("simulate", "--events", "100", "--seed", "3")
        tallyroll("run", "redis", "nats", "state", "--once")
        keys = client.keys("tallyroll:agent:*:state")
        client.set(keys[0], b"theirs")
        client.delete(keys[1])
        client.hset(keys[1], "not", "text")
        client.set("other:agent:x:state", b"not under our prefix")
        before = {key: client.dump(key) for key in client.keys("*")}
        found = checks(tallyroll("doctor", "--json"))
        assert {key: client.dump(key) for key in client.keys("*")} == before  # it looks and touches nothing
    (foreign,) = [one for one in found["redis"] if one["verdict"] == "warn"]
    assert foreign["says"].startswith("2 of ")


def test_states_of_another_log_are_told_from_those_of_this_one(
    tallyroll: Callable[..., str], servers: tuple[RedisServer, NatsServer], tmp_path: Path
) -> None:
    asyncio.run(stream(servers[1], 1_200))
    tallyroll("simulate", "--events", "50", "--seed", "3", "--url", f"sqlite:///{tmp_path / 'other'}")
    tallyroll("run", "redis", "--once", "--url", f"sqlite:///{tmp_path / 'other'}")
    found = checks(tallyroll("doctor", "--json", code=1))
    assert "belongs to another log" in next(one["says"] for one in found["redis"] if one["verdict"] == "fail")


def test_created_tasks_that_the_log_does_not_know_of(tallyroll: Callable[..., str], servers: tuple[RedisServer, NatsServer]) -> None:
    async def leave() -> None:
        outbox = RedisOutbox("127.0.0.1", servers[0].port)
        await outbox.put(OutboxRow("r1", 1_700_000_000_000_000, 1_700_000_060_000_000, b"{}", b"{}"))
        await outbox.close()

    asyncio.run(stream(servers[1], 1_200))
    assert verdicts(checks(tallyroll("doctor", "--json")), "outbox") == ["ok"]
    asyncio.run(leave())
    (found,) = checks(tallyroll("doctor", "--json"))["outbox"]
    assert (found["verdict"], "1 of them made" in found["says"]) == ("warn", True)
    assert checks(tallyroll("doctor", "--json"))["outbox"], "a look takes nothing out"


@pytest.mark.parametrize(("window_s", "says"), [(None, "no stream covers agents.*.status"), (120, "forgets ids after 2 min")])
def test_a_stream_that_will_not_do(
    tallyroll: Callable[..., str], servers: tuple[RedisServer, NatsServer], window_s: float | None, says: str
) -> None:
    asyncio.run(stream(servers[1], window_s))
    found = checks(tallyroll("doctor", "--json", code=1))
    assert says in next(one["says"] for one in found["nats"] if one["verdict"] == "fail")
    assert "fail" not in verdicts(checks(tallyroll("doctor", "--json", TALLYROLL_NATS_MODE="core")), "nats")


def test_a_wrong_password_is_named_and_not_shown(tallyroll: Callable[..., str], servers: tuple[RedisServer, NatsServer]) -> None:
    with Redis(port=servers[0].port) as client:
        client.config_set("requirepass", CANARY + "-right")
        try:
            text = tallyroll("doctor", "--json", code=1, REDIS_PASSWORD=CANARY)
        finally:
            client.config_set("requirepass", "")
    assert "REDIS_PASSWORD" in next(one["says"] for one in checks(text)["redis"] if one["verdict"] == "fail")
    assert CANARY not in text


def test_who_is_away_is_named_with_the_next_step(tallyroll: Callable[..., str]) -> None:
    found = checks(tallyroll("doctor", "--json", code=1, REDIS_PORT="1", NATS_SERVERS="nats://127.0.0.1:1"))
    assert (verdicts(found, "redis"), verdicts(found, "nats")[0]) == (["fail"], "fail")
    assert "127.0.0.1:1 does not answer" in found["redis"][0]["says"]
    assert found["nats"][0]["next"] == "start NATS, or mend NATS_SERVERS"
