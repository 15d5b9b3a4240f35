"""tallyroll run analytics as a service on real servers: two processes, one of them killed; alerts to every receiver."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import signal
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import nats
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis.asyncio import Redis
from services import NatsServer, RedisServer
from tests.environment import environment
from tests.patience import LEAST_SESSION_MS, PATIENCE_S, SESSION_MS
from tests.servers.test_http_server import ask
from tests.servers.test_run_service import TALLYROLL, Service, running, tallyroll
from tests.unit.analytics_histories import differences, stored
from tests.unit.analytics_reference import Reference

from tallyroll.adapters.kafka.log import KafkaLog
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.adapters.system import SystemClock
from tallyroll.analytics.spec import BUILT_IN
from tallyroll.events.event import AgentEvent
from tallyroll.events.ids import utc_now
from tallyroll.events.topics import catalogue_of
from tallyroll.ports import Delivered, Span
from tallyroll.roll import Roll
from tallyroll.settings import Settings
from tallyroll.telemetry import Counters

pytestmark = [pytest.mark.server, pytest.mark.slow]

CANARY = "canary-9f1c"
SECRET = "0123456789abcdef-of-this-test"  # noqa: S105  # of nobody
LABELS = {"topic", "partition", "metric", "severity", "sink", "outcome", "follower", "reason", "le", "version"}
LABELS |= {"tool"}  # the first fifty, then __other__


@pytest.fixture
def environ(kafka: str, prefix: str, tmp_path: Path) -> dict[str, str]:
    made = environment(
        TALLYROLL_URL=f"kafka://{kafka}", TALLYROLL_TOPIC_PREFIX=prefix, TALLYROLL_DATA_DIR=str(tmp_path / "data"),
        TALLYROLL_SESSION_TIMEOUT_MS=str(SESSION_MS), TALLYROLL_FLUSH_INTERVAL_MS="50",
    )  # fmt: skip
    tallyroll(made, "topics", "apply", "--yes")
    return made


async def panes_are_right(settings: Settings) -> int:
    """Nothing if the store has what a plain computation makes of the log, and all of it; how many events that is."""
    log = await KafkaLog.open(settings, catalogue_of(settings), clock=SystemClock(), telemetry=Counters())
    store = await SqliteWindowStore.open(settings.data_dir / "analytics.db")
    catalogue, clock, events = catalogue_of(settings), SystemClock(), 0
    topics = [topic.name for topic in catalogue.topics if topic.user and topic.base != "system-events"]
    found, progress = await stored(store, BUILT_IN), await store.load_progress()
    for place, end in (await log.ends(topics)).items():
        reference = Reference(BUILT_IN, clock.now_us())
        async for batch in log.read([Span(*place, 0, end)] if end else []):
            reference.feed(zip(batch.values, batch.timestamps_ms, strict=True))
        assert differences(found.get(place, {}), reference) == []
        assert not end or progress[place].next == end
        events += reference.counts["events"]
    await store.close()
    await log.close()
    return events


def holds(service: Service) -> int:
    return sum(one["partitions"] for one in service.json("/readyz")[1]["followers"])


def test_panes_are_right_after_one_of_two_processes_was_killed_under_load(environ: dict[str, str]) -> None:
    tallyroll(environ, "simulate", "--events", "3000", "--seed", "1")
    words = ("analytics", "--http", "127.0.0.1:0", "--interval", "200ms", "--json")
    doomed = {**environ, "TALLYROLL_SESSION_TIMEOUT_MS": str(LEAST_SESSION_MS)}
    with running(doomed, *words) as first, running(environ, *words) as second:
        first.until(lambda: holds(first))
        second.until(lambda: holds(second))
        with subprocess.Popen(
            [*TALLYROLL, "simulate", "--events", "3000", "--rate", "1500", "--seed", "2"],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as load:
            before = first.metrics()["analytics_events_processed_total"]
            first.until(lambda: first.metrics()["analytics_events_processed_total"] > before)
            first.process.send_signal(signal.SIGKILL)
            first.process.wait()
            assert load.wait(PATIENCE_S) == 0
        second.until(lambda: second.printed and json.loads(second.printed[-1])["behind"] == 0)
        assert second.json("/healthz") == (200, {"ok": True, "reasons": []})
        second.until(lambda: second.json("/readyz")[0] == 200)
        agents_are_not_in(ask(f"{second.url}/metrics")[2].decode())
        assert second.end(signal.SIGTERM) == 0
        assert "stopped; all that was applied is stored\n" in second.said
    assert asyncio.run(panes_are_right(Settings.from_env(environ))) > 4_000


def agents_are_not_in(page: str) -> None:
    """No label names an agent, a task or a user, and no value of one does."""
    names, labels = set(), set()
    for family in text_string_to_metric_families(page):
        for sample in family.samples:
            names |= set(sample.labels)
            labels |= set(sample.labels.values())
    assert names <= LABELS, names
    assert not [value for value in labels if value.startswith(("coder", "planner", "steady", "agent-", "task-0"))]
    assert "analytics_watermark_lag_seconds" in page


class Hook:
    """A receiver of webhooks that checks what it gets as its documentation says."""

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.bad: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # as http.server wants it
                body = self.rfile.read(int(self.headers["Content-Length"]))
                at, digest = (part.partition("=")[2] for part in self.headers["Tallyroll-Signature"].split(","))
                wanted = hmac.new(SECRET.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
                if not hmac.compare_digest(wanted, digest) or abs(time.time() - int(at)) > 60:  # noqa: TID251  # as a receiver would
                    outer.bad.append(self.headers["Tallyroll-Signature"])
                outer.got.append(json.loads(body))
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Nothing is printed."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/alerts"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def die(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@asynccontextmanager
async def _opened(settings: Settings) -> AsyncIterator[SqliteWindowStore]:
    store = await SqliteWindowStore.open(settings.data_dir / "analytics.db")
    yield store
    await store.close()


@contextmanager
def hook() -> Iterator[Hook]:
    made = Hook()
    yield made
    made.die()


class Ears:
    """Listens on Redis and NATS."""

    def __init__(self) -> None:
        self.heard: dict[str, list[dict[str, Any]]] = {"redis": [], "nats": []}

    async def listen(self, stack: AsyncExitStack, redis: RedisServer, server: NatsServer) -> None:
        client = await nats.connect(server.url)
        stack.push_async_callback(client.close)

        async def note(message: Any) -> None:
            self.heard["nats"].append(json.loads(message.data))

        await client.subscribe("tallyroll.alerts.*", cb=note)
        await client.flush()
        connection = Redis.from_url(redis.url)
        stack.push_async_callback(connection.aclose)
        channel = connection.pubsub()
        await channel.psubscribe("tallyroll:alerts:*")
        await channel.get_message(timeout=PATIENCE_S)
        task = asyncio.create_task(self._redis(channel))
        stack.push_async_callback(channel.aclose)
        stack.callback(task.cancel)

    async def _redis(self, channel: Any) -> None:
        async for message in channel.listen():
            if message["type"] == "pmessage":
                self.heard["redis"].append(json.loads(message["data"]))


def task(agent: str, number: int, took_ms: float, *, ago: timedelta = timedelta()) -> AgentEvent:
    payload = {"agent_id": agent, "duration_ms": took_ms, "api_key": CANARY, "note": f"sk-{CANARY}", "status": "ok"}
    return AgentEvent("task.completed", f"{agent}-{number}", "task", payload, timestamp=utc_now() - ago)


async def until(condition: Callable[[], object], what: str) -> Any:
    async with asyncio.timeout(PATIENCE_S):
        while not (found := condition()):
            await SystemClock().sleep(0.05)
    assert found, what
    return found


async def outlier(roll: Roll, agent: str) -> str:
    (outcome,) = await roll.publish_batch([event := task(agent, 999_999, 90_000)])
    assert isinstance(outcome, Delivered)
    return str(event.event_id)


async def told_in_the_log(roll: Roll) -> dict[str, Any]:
    """The alerts that became events: id and payload."""
    return {
        str(seen.event.event_id): seen.event.payload
        async for seen in roll.tail(since=utc_now() - timedelta(hours=1))
        if isinstance(seen.event, AgentEvent) and seen.event.event_type == "anomaly.detected"
    }


async def tell(service: Service, settings: Settings, hook: Hook, redis: RedisServer, server: NatsServer) -> None:
    """An outlier reaches everybody; when the webhook is dead, another one reaches the others."""
    ears = Ears()
    async with AsyncExitStack() as stack:
        await ears.listen(stack, redis, server)
        roll = await stack.enter_async_context(Roll.open(settings))
        usual = [
            task(agent, minute * 10 + number, 100 + number, ago=timedelta(minutes=minute))
            for minute in range(20, 0, -1)
            for number in range(10)
            for agent in ("steady-1", "steady-2")
        ]
        assert all(isinstance(one, Delivered) for one in await roll.publish_batch(usual))
        store = await stack.enter_async_context(_opened(settings))
        async with asyncio.timeout(PATIENCE_S):
            while len([name for name in await store.documents("baseline") if "response_time|agent|steady-" in name]) < 2:
                await SystemClock().sleep(0.1)

        def told(by: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
            return [
                one for one in by if (one["metric"], one["key"], one["state"], one["detector"]) == ("response_time", key, "firing", "live")
            ]

        first = await outlier(roll, "steady-1")
        for heard in (hook.got, ears.heard["redis"], ears.heard["nats"]):
            (one,) = await until(lambda heard=heard: told(heard, "steady-1"), "an alert")
            assert [shown["event_id"] for shown in one["evidence"]] == [first]
            assert one["value"] == 90_000
        logged = await until(lambda: [line for line in service.said if "steady-1" in line and '"live"' in line], "a line in the log")
        assert json.loads(logged[0])["id"] == told(hook.got, "steady-1")[0]["id"]
        hook.die()
        await outlier(roll, "steady-2")
        for heard in ears.heard.values():
            await until(lambda heard=heard: told(heard, "steady-2"), "an alert without the webhook")
        async with asyncio.timeout(PATIENCE_S):
            while not {one["id"] for one in ears.heard["redis"]} <= (events := await told_in_the_log(roll)).keys():
                await SystemClock().sleep(0.05)
        everything = json.dumps([hook.got, ears.heard, events]) + "".join(service.said)
        assert CANARY not in everything
    assert not hook.bad


def test_an_outlier_reaches_every_receiver_and_a_dead_one_keeps_none_of_them_waiting(environ: dict[str, str], tmp_path: Path) -> None:
    settings = Settings.from_env(environ)
    with RedisServer(tmp_path / "redis") as redis, NatsServer(tmp_path / "nats") as server, hook() as receiver:
        environ |= {
            "TALLYROLL_ALERTS_WEBHOOK_URL": receiver.url, "TALLYROLL_ALERTS_WEBHOOK_SECRET": SECRET, "REDIS_HOST": "127.0.0.1",
            "REDIS_PORT": str(redis.port), "NATS_SERVERS": server.url,
        }  # fmt: skip
        with running(environ, "analytics", "--http", "127.0.0.1:0", "--interval", "1s") as service:
            service.until(lambda: holds(service))
            asyncio.run(tell(service, settings, receiver, redis, server))
            page = ask(f"{service.url}/metrics")[2].decode()
            assert CANARY not in page
            agents_are_not_in(page)
            assert service.end(signal.SIGTERM) == 0
