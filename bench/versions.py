"""Events with an expected version beside plain ones, one after the other, on each log; and the first question about a partition."""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from services import KafkaCluster

from bench.report import ROOT, save, table
from tallyroll.adapters.kafka.admin import KafkaAdmin
from tallyroll.events.event import AgentEvent
from tallyroll.events.topic_plan import CreateTopic, plan
from tallyroll.events.topics import catalogue_of
from tallyroll.roll import Roll
from tallyroll.settings import Settings
from tallyroll.testing.versions import rivals

Figures = dict[str, float]


def progressed() -> AgentEvent:
    """An event of the one task."""
    return AgentEvent("task.progressed", "t", "task", {"progress_percent": 1})


async def latencies(settings: Settings, count: int) -> Figures:
    """Median and CPU of both kinds; one after the other."""
    async with Roll.open(settings) as roll:
        await roll.publish(progressed())
        version = await roll.version("task", "t")
        figures: Figures = {}
        for kind in ("plain", "expected"):
            spent, cpu = [], time.process_time()
            for number in range(count):
                began = time.perf_counter()
                await roll.publish(progressed(), expected_version=version + number if kind == "expected" else None)
                spent.append((time.perf_counter() - began) * 1e3)
            figures |= {f"{kind}_p50_ms": statistics.median(spent), f"{kind}_cpu_ms": (time.process_time() - cpu) / count * 1e3}
        began = time.perf_counter()
        await rivals([roll], writers=16)
        return {**figures, "rivals_16_ms": (time.perf_counter() - began) * 1e3}


async def first_question(folder: Path, records: int) -> float:
    """CPU seconds of the first question about a partition with so many records."""
    async with Roll.open(f"sqlite:///{folder}") as roll:
        for _ in range(records // 5_000):
            await roll.publish_batch([progressed() for _ in range(5_000)])
    async with Roll.open(f"sqlite:///{folder}") as roll:
        cpu = time.process_time()
        await roll.version("task", "t")
        return time.process_time() - cpu


async def create_topics(settings: Settings) -> None:
    """All topics of the catalogue, one replica."""
    catalogue, admin = catalogue_of(settings), KafkaAdmin(settings)
    for change in plan(catalogue, await admin.describe([topic.name for topic in catalogue.topics]), replication=1).changes:
        if isinstance(change, CreateTopic):
            await admin.create(change.topic, replication=change.replication, config=change.config)


async def measure(count: int, records: int) -> dict[str, Figures]:
    """Figures per log."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        found = {"embedded": await latencies(Settings(url=f"sqlite:///{place / 'log'}"), count)}
        found["embedded"]["first_question_cpu_s"] = await first_question(place / "large", records)
        cluster = KafkaCluster(place / "kafka")
        await asyncio.to_thread(cluster.start)
        try:
            settings = Settings(url=f"kafka://{cluster.bootstrap}", data_dir=place / "data")
            await create_topics(settings)
            found["kafka"] = await latencies(settings, count)
        finally:
            await asyncio.to_thread(cluster.close)
        return found


def main(argv: list[str]) -> None:
    """Prints the table and writes bench-results/versions.json."""
    parser = argparse.ArgumentParser(prog="scripts/bench versions", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="events of each kind (default %(default)s)")
    parser.add_argument("--records", type=int, default=100_000, help="records before the first question (default %(default)s)")
    options = parser.parse_args(argv)
    found = asyncio.run(measure(options.count, options.records))
    columns = ["log", "plain p50 ms", "CPU ms", "expected p50 ms", "CPU ms", "16 rivals ms"]
    rows = [[log, *list(figures.values())[:5]] for log, figures in found.items()]
    print(table(f"\n{options.count} events one after the other", columns, rows))
    print(f"\nfirst question, {options.records:,} records: {found['embedded']['first_question_cpu_s']:.2f} s of CPU")
    print(f"written to {save('versions', found).relative_to(ROOT)}")
