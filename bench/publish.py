"""Publishing: tallyroll beside raw clients, against the same broker, with the same bytes, lz4 and acks=all.

Each contender runs in a process of its own, the contenders take turns, and the median of the rounds counts.
"""

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

from services.install import kafka_kit
from services.stack import Stack

from bench.report import ROOT, save, table
from bench.workload import DISTINCT, Meter, Wire, drop_topics, events, make_topics, percentile, resident_mib, wire
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Delivered
from tallyroll.roll import Roll
from tallyroll.settings import Settings

_LINGER_MS: Final = 5
_BATCH: Final = 10_000
_COMMON: Final = {"acks": "all", "enable.idempotence": True, "compression.type": "lz4", "linger.ms": _LINGER_MS}
Contender = Callable[[str, str, int], Coroutine[Any, Any, dict[str, Any]]]


def _settings(bootstrap: str, prefix: str, folder: str, **more: Any) -> Settings:  # noqa: ANN401
    return Settings(url=f"kafka://{bootstrap}", topic_prefix=prefix, data_dir=Path(folder), **more)


async def tallyroll_batch(bootstrap: str, prefix: str, count: int) -> dict[str, Any]:
    """publish_batch of 10,000: envelope, chain, spool at hand, a true outcome per event."""
    some = events()
    with tempfile.TemporaryDirectory() as folder:
        async with Roll.open(_settings(bootstrap, prefix, folder)) as roll:
            await roll.publish_batch(some[:1_000])
            with Meter() as meter:
                for start in range(0, count, _BATCH):
                    at = start % DISTINCT
                    outcomes = await roll.publish_batch(some[at : at + _BATCH])
                    assert all(isinstance(outcome, Delivered) for outcome in outcomes)
            return dict(meter.per(count))


async def tallyroll_single(bootstrap: str, prefix: str, count: int) -> dict[str, Any]:
    """publish, awaited one by one by 1,000 tasks."""
    some = events()
    with tempfile.TemporaryDirectory() as folder:
        async with Roll.open(_settings(bootstrap, prefix, folder)) as roll:
            await roll.publish_batch(some[:1_000])

            async def task(first: int) -> None:
                for index in range(first, count, 1_000):
                    await roll.publish(some[index % DISTINCT])

            with Meter() as meter:
                await asyncio.gather(*(task(first) for first in range(1_000)))
            return dict(meter.per(count))


async def raw_confluent(bootstrap: str, prefix: str, count: int) -> dict[str, Any]:
    """confluent-kafka produce() in a loop: no envelope, no header, no report."""
    from confluent_kafka import Producer  # each contender imports its own client

    records = wire(Catalogue(prefix=prefix), events())
    producer = Producer(
        {"bootstrap.servers": bootstrap, **_COMMON, "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 1_048_576}
    )
    producer.produce(records[0].topic, records[0].value, records[0].key, records[0].partition)
    producer.flush()
    with Meter() as meter:
        for index in range(count):
            topic, partition, key, value = records[index % DISTINCT]
            while True:
                try:
                    producer.produce(topic, value, key, partition)
                    break
                except BufferError:
                    producer.poll(0.05)
        assert producer.flush(120) == 0
    return dict(meter.per(count))


async def confluent_reports(bootstrap: str, prefix: str, count: int) -> dict[str, Any]:
    """confluent-kafka produce() with a delivery report and the content-type header per record."""
    from confluent_kafka import KafkaError, Message, Producer

    from tallyroll.events.codec import HEADERS

    records = wire(Catalogue(prefix=prefix), events())
    producer = Producer(
        {"bootstrap.servers": bootstrap, **_COMMON, "queue.buffering.max.messages": 1_000_000, "queue.buffering.max.kbytes": 1_048_576}
    )
    good = 0

    def report(error: KafkaError | None, _: Message) -> None:
        nonlocal good
        good += error is None

    producer.produce(records[0].topic, records[0].value, records[0].key, records[0].partition)
    producer.flush()
    with Meter() as meter:
        for index in range(count):
            topic, partition, key, value = records[index % DISTINCT]
            while True:
                try:
                    producer.produce(topic, value, key, partition, on_delivery=report, headers=list(HEADERS))
                    break
                except BufferError:
                    producer.poll(0.05)
            if index % 1_000 == 0:
                producer.poll(0)
        assert producer.flush(120) == 0
    assert good == count, good
    return dict(meter.per(count))


async def aiokafka(bootstrap: str, prefix: str, count: int) -> dict[str, Any]:
    """aiokafka send() with the futures awaited in groups of 10,000."""
    from aiokafka import AIOKafkaProducer

    records = wire(Catalogue(prefix=prefix), events())
    producer = AIOKafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=_LINGER_MS,
        max_batch_size=1_000_000,
    )
    await producer.start()
    await producer.send_and_wait(records[0].topic, records[0].value, records[0].key, records[0].partition)
    with Meter() as meter:
        for start in range(0, count, _BATCH):
            group = (records[index % DISTINCT] for index in range(start, min(start + _BATCH, count)))
            futures = [await producer.send(topic, value, key, partition) for topic, partition, key, value in group]
            await asyncio.gather(*futures)
    await producer.stop()
    return dict(meter.per(count))


async def kafka_python(bootstrap: str, prefix: str, count: int) -> dict[str, Any]:
    """kafka-python send() in a loop, then flush."""
    from kafka import KafkaProducer

    records = wire(Catalogue(prefix=prefix), events())
    producer = KafkaProducer(
        bootstrap_servers=bootstrap,
        acks="all",
        enable_idempotence=True,
        compression_type="lz4",
        linger_ms=_LINGER_MS,
        batch_size=1_000_000,
    )
    producer.send(records[0].topic, records[0].value, records[0].key, partition=records[0].partition).get(30)
    with Meter() as meter:
        for index in range(count):
            topic, partition, key, value = records[index % DISTINCT]
            producer.send(topic, value, key, partition=partition)
        producer.flush(120)
    producer.close()
    return dict(meter.per(count))


CONTENDERS: Final[dict[str, Contender]] = {
    "tallyroll batch": tallyroll_batch,
    "tallyroll single": tallyroll_single,
    "confluent-kafka, bare": raw_confluent,
    "confluent-kafka, header and report": confluent_reports,
    "aiokafka": aiokafka,
    "kafka-python": kafka_python,
}


async def latency(bootstrap: str, prefix: str, rate: int, seconds: float, **more: Any) -> dict[str, Any]:  # noqa: ANN401
    """Open loop: an event is due every 1/rate seconds whether the last one is back or not; time runs from when it was due."""
    some = events()
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Roll.open(_settings(bootstrap, prefix, folder, **more)) as roll:
            await roll.publish_batch(some[:1_000])

            async def one(index: int, due: float) -> None:
                await roll.publish(some[index % DISTINCT])
                times.append(time.perf_counter() - due)

            begin, pending, count, sent = time.perf_counter() + 0.1, set(), int(rate * seconds), 0
            warm = rate  # the first second is not counted
            while sent < count + warm:
                now = time.perf_counter()
                while sent < count + warm and begin + sent / rate <= now:
                    task = asyncio.create_task(one(sent, begin + sent / rate))
                    pending.add(task)
                    task.add_done_callback(pending.discard)
                    sent += 1
                await asyncio.sleep(0.0005 if rate > 2_000 else 0.0002)  # noqa: PLR2004, TID251  # the load's own clock
            await asyncio.gather(*pending)
    counted = sorted(times[warm:])
    return {"rate": rate, "p50_ms": percentile(counted, 50) * 1e3, "p99_ms": percentile(counted, 99) * 1e3, "max_ms": counted[-1] * 1e3}


async def memory(bootstrap: str, prefix: str, count: int) -> dict[str, Any]:
    """Resident memory while millions of events go through publish_batch; flat means no growth after the first tenth."""
    some = events()
    samples: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        async with Roll.open(_settings(bootstrap, prefix, folder)) as roll:
            for start in range(0, count, _BATCH):
                await roll.publish_batch(some[start % DISTINCT : start % DISTINCT + _BATCH])
                if start % (count // 20) < _BATCH:
                    samples.append(resident_mib())
    return {"events": count, "rss_mib": [round(sample, 1) for sample in samples], "growth_mib": samples[-1] - samples[2]}


def producer_perf(bootstrap: str, prefix: str, count: int, records: list[Wire]) -> dict[str, Any]:
    """Kafka's own producer-perf-test, Java, on the topic most events go to; values from a file, no keys."""
    topic, kit = Catalogue(prefix=prefix)["task-events"].name, kafka_kit()
    with tempfile.NamedTemporaryFile("wb", suffix=".txt") as payloads:
        payloads.write(b"\n".join(record.value for record in records))
        payloads.flush()
        command = [
            str(kit.java),
            "-Xmx512m",
            "-cp",
            ":".join(str(jar) for jar in kit.jars),
            "org.apache.kafka.tools.ProducerPerformance",
            "--topic",
            topic,
            "--num-records",
            str(count),
            "--throughput",
            "-1",
            "--payload-file",
            payloads.name,
            "--payload-delimiter",
            "\\n",
            "--command-property",
            f"bootstrap.servers={bootstrap}",
            "acks=all",
            "compression.type=lz4",
            f"linger.ms={_LINGER_MS}",
            "batch.size=1000000",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    last = done.stdout.strip().splitlines()[-1]
    return {"events": count, "events_per_s": float(last.split(",")[1].split()[0]), "cpu_us_per_event": None}


def _worker(bootstrap: str, what: str, *arguments: object) -> dict[str, Any]:
    """One measurement in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "bench.publish",
        "--worker",
        what,
        "--bootstrap",
        bootstrap,
        *(str(argument) for argument in arguments),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-2_000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def _run_worker(options: argparse.Namespace) -> None:
    prefix = f"bench-{time.time_ns() % 10**9}."
    catalogue = Catalogue(prefix=prefix)
    make_topics(options.bootstrap, catalogue)
    try:
        if options.worker == "latency":
            more = {"kafka_preset": options.preset}
            result = asyncio.run(latency(options.bootstrap, prefix, options.rate, options.seconds, **more))
        elif options.worker == "memory":
            result = asyncio.run(memory(options.bootstrap, prefix, options.count))
        elif options.worker == "producer-perf-test":
            result = producer_perf(options.bootstrap, prefix, options.count, wire(catalogue, events(5_000)))
        else:
            result = asyncio.run(CONTENDERS[options.worker](options.bootstrap, prefix, options.count))
    finally:
        drop_topics(options.bootstrap, catalogue)
    print(json.dumps(result))


def main(argv: list[str]) -> None:
    """Prints the tables and writes bench-results/publish.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench publish", description=__doc__)
    parser.add_argument("--count", type=int, default=300_000, help="events per contender and round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the median counts (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=10, help="seconds per latency measurement (default %(default)s)")
    parser.add_argument(
        "--memory-events", type=int, default=5_000_000, help="events of the memory run, 0 leaves it out (default %(default)s)"
    )
    parser.add_argument("--bootstrap", help="a broker that is already running")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--preset", default="default", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        _run_worker(options)
        return
    bootstrap = options.bootstrap or Stack().up(1)["env"]["KAFKA_BOOTSTRAP_SERVERS"]
    names = [*CONTENDERS, "producer-perf-test"]
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names:
            print(f"round {number + 1}: {name}", file=sys.stderr)
            rounds[name].append(_worker(bootstrap, name, "--count", options.count))
    rate = {name: statistics.median(run["events_per_s"] for run in runs) for name, runs in rounds.items()}
    cpu = {
        name: runs[0]["cpu_us_per_event"] and statistics.median(run["cpu_us_per_event"] for run in runs) for name, runs in rounds.items()
    }
    bare, other = rate["confluent-kafka, bare"], max(rate["aiokafka"], rate["kafka-python"])
    rows = [[name, rate[name], cpu[name], rate[name] / bare, rate[name] / other] for name in names]
    print(
        table(
            "publish: same broker, same bytes, lz4, acks=all",
            ["contender", "events/s", "CPU µs/event", "x bare", "x best pure Python"],
            rows,
        )
    )
    latencies = []
    for preset, per_second in (("default", 1_000), ("default", 20_000), ("latency", 1_000)):
        print(f"latency: {preset}, {per_second}/s", file=sys.stderr)
        found = _worker(bootstrap, "latency", "--rate", per_second, "--seconds", options.seconds, "--preset", preset)
        latencies.append({"preset": preset, **found})
    print(
        table(
            "\nto acknowledgement, open loop",
            ["preset", "events/s", "p50 ms", "p99 ms", "max ms"],
            [[item["preset"], item["rate"], item["p50_ms"], item["p99_ms"], item["max_ms"]] for item in latencies],
        )
    )
    flat = None
    if options.memory_events:
        print("memory", file=sys.stderr)
        flat = _worker(bootstrap, "memory", "--count", options.memory_events)
        begin, end = flat["rss_mib"][2], flat["rss_mib"][-1]
        print(f"\nmemory over {flat['events']:,} events: {begin:,.0f} MiB after a tenth, {end:,.0f} MiB at the end")
    where = save("publish", {"rounds": rounds, "events_per_s": rate, "cpu_us_per_event": cpu, "latency": latencies, "memory": flat})
    print(f"\nwritten to {where.relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
