"""The whole flow on real Kafka, Redis and NATS: from an event to each place where it can be seen, and what all of it takes."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from services.nats import NatsServer
from services.redis import RedisServer
from services.stack import Stack

from bench.analytics_kafka import send
from bench.analytics_load import Load
from bench.flow_latency import measure
from bench.report import ROOT, save, table
from bench.workload import Meter, drop_topics, make_topics
from tallyroll.adapters.system.collector import serve_calmly
from tallyroll.events.topics import catalogue_of
from tallyroll.roll import FOLLOWERS, Roll
from tallyroll.settings import Secret, Settings
from tallyroll.telemetry import NATS_FORWARDED, REDIS_VIEWS, Counters

_AGENTS: Final = 1_000
_PIPELINE: Final = 500
_ALL_TYPES: Final = "agent.started,task.completed,task.started,tool.completed"


async def follow(settings: Settings, names: list[str], count: int) -> dict[str, Any]:
    """These followers in one process until each has stored everything; how fast, and what bridges have sent."""
    counters = Counters()
    async with Roll.open(settings, telemetry=counters) as roll:
        with Meter() as meter:
            loops = {name: await roll.follow(name) for name in names}
            serve_calmly()  # as ``tallyroll run`` does
            while any([await _left(roll, name) for name in loops]):  # noqa: ASYNC110  # the benchmark looks on from outside
                await asyncio.sleep(0.25)  # noqa: TID251  # as above; seldom, for to ask costs too
        sent = {"views": counters.value(REDIS_VIEWS), "messages": counters.value(NATS_FORWARDED)}
        return {**meter.per(count), **{f"{what}_per_s": number / meter.wall_s for what, number in sent.items() if number}, **sent}


async def _left(roll: Roll, name: str) -> int:
    return sum(lag.records for lag in await roll.lag(name))


async def plain_set(settings: Settings, count: int) -> dict[str, Any]:
    """The views that are in Redis now, written ``count`` times with pipelined SET under other keys: what Redis itself takes."""
    from redis.asyncio import Redis

    client = Redis(host=settings.redis_host, port=settings.redis_port)
    try:
        keys = [key async for key in client.scan_iter(match="tallyroll:*:state", count=1_000)]
        values: list[bytes] = [found for key in keys if (found := await client.get(key)) is not None]  # type: ignore[misc]
        made = 0
        with Meter() as meter:
            while made < count:
                pipe = client.pipeline(transaction=False)
                for at in range(made, min(made + _PIPELINE, count)):
                    pipe.set(b"plain:" + keys[at % len(keys)], values[at % len(values)])
                await pipe.execute()
                made += _PIPELINE
    finally:
        await client.aclose()
    return {"views_per_s": count / meter.wall_s, "mean_bytes": sum(map(len, values)) / len(values)}


def _worker(step: str, settings: Mapping[str, Any], count: int) -> dict[str, Any]:
    """A step in a process of its own, as a service would be."""
    command = [sys.executable, "-m", "bench.flow", "--worker", step, "--settings", json.dumps(settings), "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr[-3_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _settings(fields: Mapping[str, Any]) -> Settings:
    return Settings(**{**fields, "data_dir": Path(fields["data_dir"]), "audit_secret_key": Secret("5f" * 32)})


def _throughput(base: Mapping[str, Any], count: int, folder: str) -> dict[str, Any]:
    """Each step from the same topics into empty stores and an empty Redis."""
    steps = {"redis": ["redis"], "nats": ["nats"], "all in one": list(FOLLOWERS)}
    found: dict[str, Any] = {}
    for number, (step, names) in enumerate(steps.items()):
        print(f"following: {step}", file=sys.stderr)
        _flush_redis(base)
        fields = {**base, "data_dir": f"{folder}/{number}", "group_prefix": f"bench{number}."}
        if step == "nats":
            fields["nats_event_types"] = _ALL_TYPES
        found[step] = _worker("follow:" + ",".join(names), fields, count)
        if step == "redis":
            found["pipelined SET"] = _worker("set", fields, round(found[step]["views"]))
    found["redis_to_set"] = found["redis"]["views_per_s"] / found["pipelined SET"]["views_per_s"]
    return found


def _flush_redis(base: Mapping[str, Any]) -> None:
    from redis import Redis

    with Redis(host=base["redis_host"], port=base["redis_port"]) as client:
        client.flushall()


async def _make_stream(url: str) -> None:
    import nats
    from nats.js.api import StreamConfig

    connection = await nats.connect(url)
    await connection.jetstream().add_stream(StreamConfig(name="flow", subjects=["agents.*.status"], duplicate_window=1_200))
    await connection.close()


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/flow.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench flow", description=__doc__)
    parser.add_argument("--count", type=int, default=200_000, help="events to follow for the rates (default %(default)s)")
    parser.add_argument("--rates", default="1000,10000", help="events/s during which time to visibility is taken (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=20, help="how long at each rate (default %(default)s)")
    parser.add_argument("--bootstrap", help="a broker that is already running")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        settings = _settings(json.loads(options.settings))
        step, _, names = options.worker.partition(":")
        work = plain_set(settings, options.count) if step == "set" else follow(settings, names.split(","), options.count)
        print(json.dumps(asyncio.run(work)))
        return
    bootstrap = options.bootstrap or Stack().up(1)["env"]["KAFKA_BOOTSTRAP_SERVERS"]
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder) / "redis", appendonly=True) as redis_server,
        NatsServer(Path(folder) / "nats") as nats_server,
    ):
        asyncio.run(_make_stream(nats_server.url))
        base = {
            "url": f"kafka://{bootstrap}", "topic_prefix": f"flow-{time.time_ns() % 10**9}.", "redis_host": "127.0.0.1",
            "redis_port": redis_server.port, "nats_servers": nats_server.url, "data_dir": folder,
        }  # fmt: skip
        catalogue = catalogue_of(_settings(base))
        make_topics(bootstrap, catalogue)
        try:
            send(bootstrap, Load(catalogue, _AGENTS, round_s=1.0).records(options.count))
            figures["rates"] = _throughput(base, options.count, folder)
            figures["visible"] = [
                measure(_settings({**base, "data_dir": f"{folder}/live{rate}", "group_prefix": f"live{rate}."}), rate, options.seconds)
                for rate in map(int, options.rates.split(","))
            ]
        finally:
            drop_topics(bootstrap, catalogue)
    _show(figures)
    print(save("flow", figures))


def _show(figures: Mapping[str, Any]) -> None:
    columns = ["events_per_s", "cpu_us_per_event", "views_per_s", "messages_per_s"]
    rows = [[step, *(found.get(name) for name in columns)] for step, found in figures["rates"].items() if isinstance(found, dict)]
    print(table("Followers of the same topics, each alone in its process", ["step", *columns], rows))
    print(f"views to Redis: {figures['rates']['redis_to_set']:.2f} of pipelined SET of the same views\n")
    for run in figures["visible"]:
        rows = [[place, one["seen"], one["p50_ms"], one["p99_ms"], one["worst_ms"]] for place, one in run["places"].items()]
        title = f"From the client to each place, {run['rate_reached']:,.0f} events/s"
        print(table(title, ["place", "seen", "p50 ms", "p99 ms", "worst ms"], rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
