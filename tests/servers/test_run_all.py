"""One process with every follower: it serves, drains, waits for what is away, and ends as a whole when one cannot go on."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import nats
import pytest
from nats.js.api import StreamConfig
from redis import Redis
from services import NatsServer, RedisServer
from tests.environment import environment
from tests.patience import PATIENCE_S
from tests.servers.test_run_service import running, tallyroll

from tallyroll.cli.run.services import SERVICES

pytestmark = [pytest.mark.server, pytest.mark.slow]

EVERYTHING = set(SERVICES)


async def make_stream(server: NatsServer) -> None:
    client = await nats.connect(server.url)
    await client.jetstream().add_stream(StreamConfig(name="agents", subjects=["agents.*.status"], duplicate_window=1_200))
    await client.close()


def configured(tmp_path: Path, **settings: object) -> dict[str, str]:
    file = tmp_path / "tallyroll.toml"
    lines = {"url": f"sqlite:///{tmp_path / 'log'}", "log_format": "json", "http_port": 0, **settings}
    file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in lines.items()))
    return environment(TALLYROLL_CONFIG=str(file))


async def test_all_in_one_process_from_one_file(tmp_path: Path) -> None:
    with RedisServer(tmp_path / "redis") as redis, NatsServer(tmp_path / "nats") as server:
        await make_stream(server)
        environ = configured(tmp_path, redis_host="127.0.0.1", redis_port=redis.port, nats_servers=server.url)
        tallyroll(environ, "simulate", "--events", "400", "--seed", "1")
        with running(environ, "all", "--interval", "200ms", "--json") as service:
            serving = service.until(lambda: next((json.loads(one) for one in service.said if '"serving ' in one), None))
            service.said.append(serving["message"])  # where the service's URL is looked for
            service.until(lambda: service.json("/readyz")[0] == 200)
            followers = {one["name"]: one for one in service.json("/readyz")[1]["followers"]}
            assert set(followers) == EVERYTHING
            assert all(one["ready"] and one["failure"] is None for one in followers.values())
            service.until(lambda: service.printed and json.loads(service.printed[-1])["behind"] == 0)
            found = service.metrics()
            assert found["bridge_redis_views_total"] > 0
            assert found["bridge_nats_messages_total"] > 0
            redis.kill()  # a target that is away is waited for, and stops nobody else
            tallyroll(environ, "simulate", "--events", "100", "--seed", "2")
            service.until(lambda: json.loads(service.printed[-1])["retries"] > 0)
            redis.restart()
            service.until(lambda: json.loads(service.printed[-1])["behind"] == 0)
            assert service.end(signal.SIGTERM) == 0
        said = [json.loads(line) for line in service.said if line != serving["message"]]  # every line is an object
        assert said[-1]["message"] == "stopped; all that was applied is stored"
        assert {"redis"} <= {line.get("follower") for line in said if line["level"] == "warning"}
        with Redis(port=redis.port) as client:
            assert client.keys("tallyroll:agent:*:state")
            last = json.loads(tallyroll(environ, "run", "all", "--once", "--json").splitlines()[0])
            assert (last["applied"], last["behind"]) == (0, 0)  # what was applied was stored, by every follower


def test_one_that_cannot_go_on_ends_all_with_its_reason(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:  # without the stream that keeps what is forwarded
        environ = configured(tmp_path, nats_servers=server.url)
        tallyroll(environ, "simulate", "--events", "300", "--seed", "1")
        with running(environ, "all") as service:
            assert service.process.wait(PATIENCE_S) == 2
            for reader in service._readers:
                reader.join(PATIENCE_S)
            said = [json.loads(line) for line in service.said]
    assert {"follower": "redis", "message": "redis is left out; it needs REDIS_HOST"}.items() <= said[0].items()
    (ended,) = [line for line in said if "has ended" in line["message"]]
    assert (ended["follower"], ended["error"]) == ("nats", "SettingsError")
    assert said[-1]["message"].startswith("TALLYROLL_NATS_SUBJECT: expected a stream that covers it")
    assert said[-1]["next"]
