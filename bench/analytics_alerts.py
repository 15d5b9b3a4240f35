"""From an event to its alert: the service is a process of its own; the load and the receiver, in this one, share a clock."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from typing import Any, Final

import msgspec
from confluent_kafka import Producer

from bench.analytics_kafka import send
from bench.analytics_load import Load
from bench.service import send_at, serving
from bench.workload import Wire, make_topics, percentile
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.anomalies.baseline import Baseline
from tallyroll.analytics.anomalies.watcher import BASELINE
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.settings import Settings

_WARM_MINUTES: Final = 15
_WARM_EVENTS: Final = 6
_USUAL: Final = 3_000  # events of the fleet in a minute of the past
_PATIENCE_S: Final = 180


class Receiver:
    """A webhook: when the alert of each event came, by the event's id, in ns of the wall clock."""

    def __init__(self) -> None:
        self.came: dict[str, int] = {}
        came = self.came

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                now = time.time_ns()
                for one in body["evidence"]:
                    came.setdefault(one["event_id"], now)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_port}/alerts"

    def close(self) -> None:
        """Listens no more."""
        self._server.shutdown()


def measure(settings: Settings, rate: int, seconds: int, outliers_per_s: int) -> dict[str, Any]:
    """Percentiles of the time from handing an outlier to the client until the webhook has its alert, while ``rate`` events/s pass."""
    catalogue = catalogue_of(settings)
    make_topics(settings.bootstrap_servers, catalogue)
    agents = [f"watched-{number}" for number in range(seconds * outliers_per_s)]
    send(settings.bootstrap_servers, _past(catalogue, agents))
    receiver = Receiver()
    try:
        with serving(replace(settings, alerts_webhook_url=receiver.url), "analytics"):
            _wait(lambda: asyncio.run(_baselines(settings)) >= len(agents), "every agent has a baseline")
            sent, achieved = _live(settings, catalogue, agents, rate, outliers_per_s)
            _wait(lambda: sent.keys() <= receiver.came.keys(), "every alert", soft=True)
    finally:
        receiver.close()
    took = sorted((receiver.came[one] - at) / 1e6 for one, at in sent.items() if one in receiver.came)
    if not took:
        raise SystemExit("no alert came")
    return {
        "rate_asked": rate, "rate_reached": achieved, "outliers": len(sent), "alerts": len(took), "p50_ms": percentile(took, 50),
        "p95_ms": percentile(took, 95), "p99_ms": percentile(took, 99), "worst_ms": took[-1],
    }  # fmt: skip


def _event(agent: str, took_ms: float, moment: datetime) -> AgentEvent:
    task = f"t-{agent}-{moment.timestamp()}"
    return AgentEvent("task.completed", task, "task", {"agent_id": agent, "duration_ms": took_ms}, timestamp=moment)


def _wire(catalogue: Catalogue, event: AgentEvent) -> Wire:
    key = event.key.encode()
    place = catalogue.place(event.event_type, key)
    return Wire(place.topic, place.partition, key, encode(event))


def _past(catalogue: Catalogue, agents: list[str]) -> Iterator[Wire]:
    """A quarter of an hour of quiet work of the fleet and of every watched agent, which baselines are made of."""
    began = datetime.now(UTC) - timedelta(minutes=_WARM_MINUTES + 3)
    usual = Load(catalogue, 50, distinct=_USUAL, round_s=60.0).records(_USUAL * _WARM_MINUTES, start=began)
    for minute in range(_WARM_MINUTES):
        yield from islice(usual, _USUAL)
        for number in range(_WARM_EVENTS):
            for at, agent in enumerate(agents):
                moment = began + timedelta(minutes=minute, seconds=number * 10)
                yield _wire(catalogue, _event(agent, 1_000.0 + (at * 7 + number * 31 + minute * 13) % 97, moment))


def _live(settings: Settings, catalogue: Catalogue, agents: list[str], rate: int, outliers_per_s: int) -> tuple[dict[str, int], float]:
    """Sends at a rate, and now and then an outlier; gives when each outlier was handed over, and the rate that was reached."""
    sent, waiting = dict[str, int](), iter(agents)

    def outlier(producer: Producer) -> None:
        event = _event(next(waiting), 60_000.0, datetime.now(UTC))
        one = _wire(catalogue, event)
        sent[event.event_id] = time.time_ns()
        producer.produce(one.topic, one.value, one.key, one.partition)

    seconds = len(agents) / outliers_per_s
    return sent, send_at(rate, settings, catalogue, seconds, probes_per_s=outliers_per_s, probe=outlier)


async def _baselines(settings: Settings) -> int:
    """How many of the agents the service knows well enough to call something unusual."""
    path = settings.data_dir / "analytics.db"
    if not path.exists():  # nothing else runs
        return 0
    store = await SqliteWindowStore.open(path)
    try:
        found = await store.documents(BASELINE)
        known = [
            msgspec.msgpack.decode(data, type=Baseline) for name, data in found.items() if name.startswith("response_time|agent|watched-")
        ]
        return sum(one.usual() is not None for one in known)
    finally:
        await store.close()


def _wait(done: Callable[[], bool], what: str, *, soft: bool = False) -> None:
    """Until something is so; after three minutes the benchmark ends, or with ``soft`` goes on after ten seconds."""
    until = time.monotonic() + (10 if soft else _PATIENCE_S)
    while not done():
        if time.monotonic() > until:
            if soft:
                return
            raise SystemExit(f"waited in vain: {what}")
        time.sleep(0.2)  # the benchmark looks on from outside
