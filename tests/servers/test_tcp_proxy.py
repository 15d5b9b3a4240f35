"""The proxy that soaks put before Redis and NATS does what it says: else its faults would be none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import ConnectionError, Redis, TimeoutError  # noqa: A004  # those of Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from services import RedisServer, TcpProxy

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(Path(tmp_path_factory.mktemp("proxied"))) as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[TcpProxy]:
    with TcpProxy(server.port) as proxy:
        yield proxy


def client(port: int) -> Redis:
    return Redis(port=port, socket_timeout=0.5, retry=Retry(NoBackoff(), 0))


def test_it_passes_on_what_it_gets(proxy):
    with client(proxy.port) as through:
        through.set("a", b"x" * 1_000_000)
        assert through.get("a") == b"x" * 1_000_000
    assert proxy.passed_bytes > 2_000_000


def test_it_cuts(proxy):
    with client(proxy.port) as through:
        connected = through.client_id()
        proxy.cut()
        assert through.client_id() != connected


def test_what_it_holds_does_not_arrive_before_the_release(proxy, server):
    with client(proxy.port) as through, client(server.port) as direct:
        through.set("held", "before")
        proxy.hold()
        with pytest.raises(TimeoutError):
            through.set("held", "after")
        assert direct.get("held") == b"before"
        proxy.release()
        assert through.ping()


def test_what_is_lost_was_done_and_its_connection_ends(proxy, server):
    with client(proxy.port) as through, client(server.port) as direct:
        through.set("lost", "before")
        proxy.lose_answers()
        with pytest.raises(TimeoutError):
            through.set("lost", "after")
        assert direct.get("lost") == b"after"
        assert proxy.lost_bytes > 0
        proxy.release()
        assert through.get("lost") == b"after"


def test_a_server_that_is_away_refuses(proxy, server):
    server.kill()
    with client(proxy.port) as through, pytest.raises(ConnectionError):
        through.ping()
    server.restart()
