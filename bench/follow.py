"""Following: events per second from the log into the state store, beside reading alone, on Kafka and on the embedded log."""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from services.stack import Stack

from bench.report import ROOT, save, table
from bench.workload import Meter, drop_topics, events, make_topics
from tallyroll.errors import Undecodable
from tallyroll.events.topics import catalogue_of
from tallyroll.ports import Span
from tallyroll.replay.state import StateFollower
from tallyroll.replay.views import AGENT
from tallyroll.roll import Roll
from tallyroll.settings import Settings

Step = Callable[[Settings, int], Coroutine[Any, Any, dict[str, Any]]]


async def _spans(roll: Roll) -> list[Span]:
    names = [roll.catalogue[base].name for base in StateFollower.TOPICS]
    return [Span(*partition, 0, end) for partition, end in (await roll.log.ends(names)).items()]


async def bare(settings: Settings, count: int) -> dict[str, Any]:
    """confluent-kafka consume(500) in a loop, values dropped: as fast as the client reads. Kafka only."""
    from confluent_kafka import Consumer, TopicPartition

    async with Roll.open(settings) as roll:
        spans = await _spans(roll)
    consumer = Consumer({"bootstrap.servers": settings.bootstrap_servers, "group.id": "bench", "enable.auto.commit": False})
    left = sum(span.end for span in spans)
    consumer.assign([TopicPartition(span.topic, span.partition, 0) for span in spans])
    with Meter() as meter:
        while left > 0:
            left -= len(consumer.consume(500, 0.05))
    consumer.close()
    return dict(meter.per(count))


async def read(settings: Settings, count: int) -> dict[str, Any]:
    """Batches from the log, heads decoded, nothing folded."""
    async with Roll.open(settings) as roll:
        spans = await _spans(roll)
        bad = 0
        with Meter() as meter:
            async for batch in roll.log.read(spans):
                bad += sum(isinstance(head, Undecodable) for head in batch.heads())
        assert bad == 0
        return dict(meter.per(count))


async def replay(settings: Settings, count: int) -> dict[str, Any]:
    """Every agent's state from the log alone."""
    async with Roll.open(settings) as roll:
        with Meter() as meter:
            replayed = await roll.replay(AGENT)
        assert not replayed.finding_counts, replayed.finding_counts
        return dict(meter.per(count))


async def follow(settings: Settings, count: int) -> dict[str, Any]:
    """The loop into an empty state store (agents, tasks, workflows), until everything is stored."""
    async with Roll.open(settings) as roll:
        ends = {(span.topic, span.partition): span.end for span in await _spans(roll)}
        with Meter() as meter:
            loop = await roll.follow()
            while sum(loop.flushed.get("state", {}).values()) < sum(ends.values()):  # noqa: ASYNC110  # the benchmark looks on from outside
                await asyncio.sleep(0.01)  # noqa: TID251  # as above
        return dict(meter.per(count))


STEPS: Final[dict[str, Step]] = {
    "confluent-kafka consume, bare": bare,
    "read and decode": read,
    "replay all agents": replay,
    "follow into the store": follow,
}


def _settings(url: str, prefix: str, folder: str) -> Settings:
    return Settings(url=url, topic_prefix=prefix, data_dir=Path(folder)) if url.startswith("kafka") else Settings(url=url)


async def _fill(settings: Settings, count: int) -> int:
    some = events()
    async with Roll.open(settings) as roll:
        sent = 0
        while sent < count:
            # New ids each time round: the same event again would be dropped as a repeat, which is another benchmark.
            part = [
                type(event)(event.event_type, event.aggregate_id, event.aggregate_type, event.payload) for event in some[: count - sent]
            ]
            await roll.publish_batch(part)
            sent += len(part)
        return sum(span.end for span in await _spans(roll))


def _worker(step: str, url: str, prefix: str, folder: str, count: int) -> dict[str, Any]:
    command = [
        sys.executable, "-m", "bench.follow", "--worker", step, "--url", url, "--prefix", prefix, "--folder", folder, "--count", str(count),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{step} failed:\n{done.stderr[-2_000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _measure(url: str, prefix: str, work: str, options: argparse.Namespace) -> tuple[int, dict[str, list[dict[str, Any]]]]:
    count = asyncio.run(_fill(_settings(url, prefix, work), options.count))
    steps = [step for step in STEPS if url.startswith("kafka") or step != "confluent-kafka consume, bare"]
    runs: dict[str, list[dict[str, Any]]] = {step: [] for step in steps}
    for number in range(options.rounds):
        for step in steps:
            print(f"{url.partition(':')[0]} round {number + 1}: {step}", file=sys.stderr)
            for store in Path(work).glob("state.db*"):
                store.unlink()
            runs[step].append(_worker(step, url, prefix, work, count))
    return count, runs


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/follow.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench follow", description=__doc__)
    parser.add_argument("--count", type=int, default=300_000, help="events in the log (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default %(default)s)")
    parser.add_argument("--bootstrap", help="a broker that is already running")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    parser.add_argument("--prefix", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        print(json.dumps(asyncio.run(STEPS[options.worker](_settings(options.url, options.prefix, options.folder), options.count))))
        return
    bootstrap = options.bootstrap or Stack().up(1)["env"]["KAFKA_BOOTSTRAP_SERVERS"]
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        kafka = _settings(f"kafka://{bootstrap}", f"bench-{time.time_ns() % 10**9}.", f"{folder}/kafka")
        make_topics(bootstrap, catalogue_of(kafka))
        try:
            figures["kafka"] = _measure(kafka.url, kafka.topic_prefix, f"{folder}/kafka", options)
        finally:
            drop_topics(bootstrap, catalogue_of(kafka))
        figures["sqlite"] = _measure(f"sqlite:///{folder}/sqlite", "", f"{folder}/sqlite", options)
    saved: dict[str, Any] = {}
    for name, (count, runs) in figures.items():
        rate = {step: statistics.median(run["events_per_s"] for run in some) for step, some in runs.items()}
        cpu = {step: statistics.median(run["cpu_us_per_event"] for run in some) for step, some in runs.items()}
        first = next(iter(rate.values()))
        rows = [[step, rate[step], cpu[step], rate[step] / first] for step in runs]
        print(table(f"\n{name}: {count:,} events", ["step", "events/s", "CPU µs/event", "x first"], rows))
        saved[name] = {"events": count, "rounds": runs, "events_per_s": rate, "cpu_us_per_event": cpu}
    where = save("follow", saved)
    print(f"\nwritten to {where.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
