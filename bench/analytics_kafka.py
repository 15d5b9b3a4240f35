"""The steps of the analytics benchmark on a real broker: filling topics, following them, asking, and other engines beside."""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from bench.analytics_load import START, Load, agent_of
from bench.report import ROOT
from bench.workload import Meter, Wire, make_topics
from tallyroll.adapters.system.interpreter import serve_calmly
from tallyroll.analytics.opening import OpenAnalytics
from tallyroll.events.topics import catalogue_of
from tallyroll.roll import Roll
from tallyroll.settings import Settings

AGENTS: Final = 1_000
KEYED: Final = "by-agent"
_QUIX: Final = ROOT / ".bench-data" / "quixstreams"
_FULL: Final = 100_000  # records in librdkafka's queue


def send(bootstrap: str, records: Iterator[Wire]) -> None:
    """Puts records into their partitions, as fast as a plain client does; returns when all are there."""
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 50, "queue.buffering.max.messages": 2 * _FULL, "acks": "all"})
    for record in records:
        producer.produce(record.topic, record.value, record.key, record.partition)
        if len(producer) > _FULL:
            producer.poll(0.05)
    left = producer.flush(120)
    if left:
        raise SystemExit(f"{left} records did not reach the broker")


def fill(settings: Settings, count: int) -> None:
    """The log of a fleet that makes 50,000 events a second, and the same keyed by agent for engines that want it so."""
    catalogue = catalogue_of(settings)
    make_topics(settings.bootstrap_servers, catalogue)
    keyed = f"{settings.topic_prefix}{KEYED}"
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    admin.create_topics([NewTopic(keyed, 8, 1, config={"retention.ms": "-1"})])[keyed].result()
    made = list(Load(catalogue, AGENTS, round_s=1.0).records(count))
    send(settings.bootstrap_servers, iter(made))
    send(settings.bootstrap_servers, _by_agent(made, keyed))


def _by_agent(made: Sequence[Wire], topic: str) -> Iterator[Wire]:
    for one in made:
        agent = agent_of(one.value)
        if agent is not None:
            key = agent.encode()
            yield Wire(topic, sum(key) % 8, key, one.value)


async def follow(settings: Settings, count: int) -> dict[str, Any]:
    """The follower as a service runs it, from the topics into panes on disk, anomalies and alerts included, until all is stored."""
    async with Roll.open(settings) as roll:
        serve_calmly()  # as ``tallyroll run`` does
        with Meter() as meter:
            loop = await roll.follow("analytics")
            while sum(loop.flushed.get("analytics", {}).values()) < count:  # noqa: ASYNC110  # the benchmark looks on from outside
                await asyncio.sleep(0.01)  # noqa: TID251  # as above
        figures = dict(meter.per(count))
        analytics: OpenAnalytics = await roll._parts.analytics()  # noqa: SLF001  # the benchmark looks inside
        return figures | await _asking(analytics)


async def _asking(analytics: OpenAnalytics) -> dict[str, Any]:
    """One agent's hour out of the panes, the first time and again, in ms."""
    engine = analytics.onlooker
    at: datetime = (await engine.newest() or START) + timedelta(seconds=1)
    names = await engine.keys("agent", at=at)
    first: list[float] = []
    again: list[float] = []
    for name in names[:200]:
        for times in (first, again):
            began = time.perf_counter()
            found = await engine.get_agent_analytics(name, "1hour", at=at)
            times.append((time.perf_counter() - began) * 1e3)
            assert found["events_processed"] > 0
    return {"agents_asked": len(first), "query_p50_ms": statistics.median(first), "query_again_p50_ms": statistics.median(again)}


def quix(settings: Settings) -> dict[str, Any]:
    """The same windows in quixstreams, in an environment of its own; made at the first run."""
    python = _QUIX / "bin" / "python"
    if not python.exists():
        print("making the environment of quixstreams", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(_QUIX)], check=True)
        requirements = str(ROOT / "requirements" / "quixstreams.txt")
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", requirements], check=True)
    command = [str(python), str(ROOT / "bench" / "analytics_quix.py"), settings.bootstrap_servers, f"{settings.topic_prefix}{KEYED}"]
    done = subprocess.run([*command, f"quix-{time.time_ns()}"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"quixstreams failed:\n{done.stderr[-2_000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result
