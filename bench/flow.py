"""The whole flow on real Kafka, Redis and NATS: from an event to each place where it can be seen, and what all of it takes."""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from services.nats import NatsServer
from services.redis import RedisServer
from services.stack import Stack

from bench.analytics_kafka import send
from bench.analytics_load import Load
from bench.flow_latency import measure
from bench.report import ROOT, save, table
from bench.workload import Meter, Wire, drop_topics, make_topics, wire
from tallyroll.adapters.system.interpreter import serve_calmly
from tallyroll.cli.run.spreading import shares
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.roll import FOLLOWERS, Roll
from tallyroll.settings import Secret, Settings
from tallyroll.telemetry import NATS_FORWARDED, REDIS_VIEWS, Counters

_AGENTS: Final = 1_000
_PIPELINE: Final = 500
_LEAST_SETS: Final = 50_000  # fewer take too short a time to be measured


def spread(catalogue: Catalogue, count: int) -> Iterator[Wire]:
    """Every event concerns an agent or a task of its own, and each is of a type that is forwarded: nothing coalesces."""
    return iter(wire(catalogue, [_lonely(number) for number in range(count)]))


def _lonely(number: int) -> AgentEvent:
    name = f"agent-{number // 2:07}"
    if number % 2 == 0:
        return AgentEvent("agent.started", name, "agent", {"agent_type": "worker", "version": "1.0"})
    return AgentEvent("task.completed", f"task-{number // 2:07}", "task", {"agent_id": name, "duration_ms": 1_000.0})


async def follow(settings: Settings, names: list[str]) -> dict[str, Any]:
    """These followers in one process until each has stored everything; how fast, and what bridges have sent.

    Counted from the moment when the first has partitions: joining a group takes seconds, however much there is to read.
    """
    counters = Counters()
    async with Roll.open(settings, telemetry=counters) as roll:
        loops = {name: await roll.follow(name) for name in names}
        serve_calmly()  # as ``tallyroll run`` does
        await _until(lambda: any(loop.assignment for loop in loops.values()))  # whoever is first begins to work
        with Meter() as meter:
            ends = {name: {lag.partition: lag.end for lag in await roll.lag(name) if lag.end} for name in names}
            await _until(lambda: all(_has(loop.flushed.get(name, {}), ends[name]) for name, loop in loops.items()))
        count = max(sum(of_one.values()) for of_one in ends.values())
        views, messages = counters.value(REDIS_VIEWS), counters.value(NATS_FORWARDED)
        return {
            **meter.per(count),
            "views": views,
            "views_per_s": views / meter.wall_s or None,
            "messages_per_s": messages / meter.wall_s or None,
        }


def _has(flushed: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]) -> bool:
    return all(flushed.get(where, 0) >= end for where, end in ends.items())


async def _until(done: Callable[[], bool]) -> None:
    while not done():  # noqa: ASYNC110  # the benchmark looks on from outside
        await asyncio.sleep(0.01)  # noqa: TID251  # as above


async def plain_set(settings: Settings) -> dict[str, Any]:
    """The views that are in Redis now, written with pipelined SET under other keys: what client and server take for that alone."""
    from redis.asyncio import Redis

    client = Redis(host=settings.redis_host, port=settings.redis_port)
    try:
        keys = [key async for key in client.scan_iter(match="tallyroll:*:state", count=1_000)]
        values: list[bytes] = [found for key in keys if (found := await client.get(key)) is not None]  # type: ignore[misc]
        made, count = 0, max(len(keys), _LEAST_SETS)
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


def _worker(step: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """A step in a process of its own, as a service would be."""
    command = [sys.executable, "-m", "bench.flow", "--worker", step, "--settings", json.dumps(settings)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr[-3_000:]}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def _settings(fields: Mapping[str, Any]) -> Settings:
    return Settings(**{**fields, "data_dir": Path(fields["data_dir"]), "audit_secret_key": Secret("5f" * 32)})


def _throughput(fleet: Mapping[str, Any], alone: Mapping[str, Any]) -> dict[str, Any]:
    """Each step from the beginning of its topics, into empty stores and an empty Redis."""
    found = {
        "redis, fleet": _step(fleet, ["redis"]),
        "redis, spread": _step(alone, ["redis"]),
        "pipelined SET, spread": _worker("set", alone),
        "nats, spread": _step(alone, ["nats"]),
        "all in one, fleet": _step(fleet, list(FOLLOWERS)),
        "all in two, fleet": _spread(fleet, 2),
    }
    return {**found, "redis_to_set": found["redis, spread"]["views_per_s"] / found["pipelined SET, spread"]["views_per_s"]}


def _step(base: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    print(f"following: {', '.join(names)}", file=sys.stderr)
    _flush_redis(base)
    own = f"{base['topic_prefix']}{len(names)}{names[0]}."
    return _worker("follow:" + ",".join(names), {**base, "data_dir": f"{base['data_dir']}/{own}", "group_prefix": own})


def _spread(base: Mapping[str, Any], processes: int) -> dict[str, Any]:
    """All followers as ``tallyroll run --processes`` spreads them: the rate of the slowest process, the CPU of all."""
    parts = shares(list(FOLLOWERS), processes)
    print(f"following: {', '.join(map(' + '.join, parts))}", file=sys.stderr)
    _flush_redis(base)
    own = f"{base['topic_prefix']}{processes}processes."
    settings = {**base, "data_dir": f"{base['data_dir']}/{own}", "group_prefix": own}
    with ThreadPoolExecutor() as pool:
        found = [*pool.map(lambda names: _worker("follow:" + ",".join(names), settings), parts)]
    slowest = min(found, key=lambda one: float(one["events_per_s"]))
    return {**slowest, "cpu_us_per_event": sum(one["cpu_us_per_event"] for one in found)}


def _flush_redis(base: Mapping[str, Any]) -> None:
    from redis import Redis

    with Redis(host=base["redis_host"], port=base["redis_port"]) as client:
        client.flushall()


def _sync_each_second(base: Mapping[str, Any]) -> None:
    """As a Redis with a file does by itself; with a sync for each answer the disk would be measured, in SET most of all."""
    from redis import Redis

    with Redis(host=base["redis_host"], port=base["redis_port"]) as client:
        client.config_set("appendfsync", "everysec")


async def _make_stream(url: str) -> None:
    import nats
    from nats.js.api import StreamConfig

    connection = await nats.connect(url)
    await connection.jetstream().add_stream(StreamConfig(name="flow", subjects=["agents.*.status"], duplicate_window=1_200))
    await connection.close()


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/flow.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench flow", description=__doc__)
    parser.add_argument(
        "--count", type=int, default=200_000, help="events to follow for the rates, of either kind; 0: none (default %(default)s)"
    )
    parser.add_argument("--rates", default="1000,10000", help="events/s during which time to visibility is taken (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=20, help="how long at each rate (default %(default)s)")
    parser.add_argument(
        "--visible", default="all,redis,nats", help="which followers then run: all in one process, or one alone (%(default)s)"
    )
    parser.add_argument("--processes", type=int, default=1, help="in how many processes all of them then run (default %(default)s)")
    parser.add_argument("--bootstrap", help="a broker that is already running")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--settings", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        settings = _settings(json.loads(options.settings))
        step, _, names = options.worker.partition(":")
        print(json.dumps(asyncio.run(plain_set(settings) if step == "set" else follow(settings, names.split(",")))))
        return
    bootstrap = options.bootstrap or Stack().up(1)["env"]["KAFKA_BOOTSTRAP_SERVERS"]
    figures: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder) / "redis", appendonly=True) as redis_server,
        NatsServer(Path(folder) / "nats") as nats_server,
        ExitStack() as stack,
    ):
        asyncio.run(_make_stream(nats_server.url))
        run = f"flow-{time.time_ns() % 10**9}."
        fleet, alone = (
            {
                "url": f"kafka://{bootstrap}", "topic_prefix": f"{run}{load}.", "redis_host": "127.0.0.1", "redis_port": redis_server.port,
                "nats_servers": nats_server.url, "data_dir": folder,
            }
            for load in ("fleet", "spread")
        )  # fmt: skip
        _sync_each_second(fleet)
        for base, load in ((fleet, _fleet), (alone, spread)):
            catalogue = catalogue_of(_settings(base))
            make_topics(bootstrap, catalogue)
            stack.callback(drop_topics, bootstrap, catalogue)
            send(bootstrap, load(catalogue, options.count))
        # First, since what the rates leave behind (logs to be rewritten and flushed) keeps the servers busy for a while.
        figures["visible"] = [
            measure(
                _settings({**fleet, "data_dir": f"{folder}/{who}{rate}", "group_prefix": f"{who}{rate}."}),
                rate,
                options.seconds,
                names,
                processes=options.processes if who == "all" else 1,
            )
            for who, names in ((who, FOLLOWERS if who == "all" else (who,)) for who in options.visible.split(","))
            for rate in map(int, options.rates.split(","))
        ]
        figures["rates"] = _throughput(fleet, alone) if options.count else {}
    _show(figures)
    print(save("flow", figures))


def _fleet(catalogue: Catalogue, count: int) -> Iterator[Wire]:
    """A fleet whose 1,000 agents and some thousand tasks have many events each."""
    return Load(catalogue, _AGENTS, round_s=1.0).records(count)


def _show(figures: Mapping[str, Any]) -> None:
    if rates := figures["rates"]:
        columns = ["events_per_s", "cpu_us_per_event", "views_per_s", "messages_per_s"]
        rows = [[step, *(found.get(name) for name in columns)] for step, found in rates.items() if isinstance(found, dict)]
        print(table("Followers from the beginning of their topics, each step in a process of its own", ["step", *columns], rows))
        print(f"state updates to Redis, fleet: {rates['redis, fleet']['events_per_s']:,.0f} events/s, all of them to be seen in the views")
        print(f"views to Redis, spread: {rates['redis_to_set']:.2f} of pipelined SET of the same views\n")
    for run in figures["visible"]:
        rows = [[place, one["seen"], one["p50_ms"], one["p99_ms"], one["worst_ms"]] for place, one in run["places"].items()]
        who = f"{', '.join(run['followers'])}; processes: {run['processes']}"
        title = f"From the client to each place, {run['rate_reached']:,.0f} events/s, {who}"
        print(table(title, ["place", "seen", "p50 ms", "p99 ms", "worst ms"], rows) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
