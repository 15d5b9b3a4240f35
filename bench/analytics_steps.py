"""The steps of the analytics benchmark that need no broker: each runs in a process of its own."""

from __future__ import annotations

import asyncio
import resource
import tempfile
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench.analytics_load import START, Load, batches
from bench.analytics_naive import NaiveEngine
from bench.workload import resident_mib
from tallyroll import compiled as core
from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.adapters.system import SystemClock
from tallyroll.analytics.columns import Layout
from tallyroll.analytics.follower import AnalyticsFollower
from tallyroll.analytics.gathered import Tally
from tallyroll.analytics.gathering import gather
from tallyroll.analytics.kernel import Kernel
from tallyroll.analytics.pane import Pane
from tallyroll.analytics.spec import BUILT_IN, MetricSpec
from tallyroll.analytics.spec import Path as ValuePath
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.schema import SCHEMAS
from tallyroll.events.topics import Catalogue, catalogue_of
from tallyroll.settings import Settings

_AGENTS: Final = 1_000
_SETTLE_ROWS: Final = 200_000  # as often as the follower stores
_NOW_US: Final = 4_000_000_000_000_000  # nothing is from the future


def _catalogue() -> Catalogue:
    return catalogue_of(Settings())


def _made(count: int, agents: int = _AGENTS, late_every: int = 0, round_s: float | None = 1.0) -> list[Batch]:
    return list(batches(Load(_catalogue(), agents, round_s=round_s).records(count, late_every=late_every)))


def _fold(some: Sequence[Batch], *, compiled: bool = True) -> tuple[float, float]:
    """CPU seconds of records to panes, and of the reading into columns alone."""
    kernel = Kernel(BUILT_IN, SCHEMAS, compiled=compiled)
    lanes = {place: kernel.open(place) for place in {batch.topic_partition for batch in some}}
    waiting, unsettled, began = 0, 0, time.process_time()
    for batch in some:
        lanes[batch.topic_partition].batches.append(batch)
        waiting += len(batch)
        if waiting >= kernel.run_rows:
            kernel.run(_NOW_US, observe=False)
            unsettled, waiting = unsettled + waiting, 0
        if unsettled >= _SETTLE_ROWS:
            kernel.settle()
            unsettled = 0
    kernel.run(_NOW_US, observe=False)
    kernel.settle()
    whole = time.process_time() - began

    again = Kernel(BUILT_IN, SCHEMAS)
    layout, lanes = Layout(BUILT_IN, again.kinds, SCHEMAS, compiled=compiled), {place: again.open(place) for place in lanes}
    waiting, began = 0, time.process_time()
    for batch in some:
        lanes[batch.topic_partition].batches.append(batch)
        waiting += len(batch)
        if waiting >= kernel.run_rows:
            gather([lane for lane in lanes.values() if lane.batches], layout, _NOW_US, Tally())
            waiting = 0
    gather([lane for lane in lanes.values() if lane.batches], layout, _NOW_US, Tally())
    return whole, time.process_time() - began


def panes(count: int) -> dict[str, Any]:
    """Records to panes of all built-in metrics, in memory, on one core, of a fleet that makes 50,000 events a second."""
    return _panes(_made(count))


def history(count: int) -> dict[str, Any]:
    """The same of a fleet as slow as people are: an agent has three events a minute, so there is a pane for each few events."""
    return _panes(_made(count, round_s=None))


def in_python(count: int) -> dict[str, Any]:
    """As ``panes``, without the compiled core."""
    return _panes(_made(count), compiled=False)


def _panes(some: Sequence[Batch], *, compiled: bool = True) -> dict[str, Any]:
    count = sum(map(len, some))
    _fold(some[:40], compiled=compiled)
    whole, read = _fold(some, compiled=compiled)
    return {
        "core": core.version() if compiled else None,
        "events": count, "cpu_us_per_event": whole / count * 1e6, "read_us_per_event": read / count * 1e6,
        "events_per_s_and_core": count / whole, "update_to_read": (whole - read) / read,
    }  # fmt: skip


def naive(count: int) -> dict[str, Any]:
    """json.loads, and a dictionary for each window."""
    values = [value for batch in _made(count) for value in batch.values if value is not None]
    engine, began = NaiveEngine(), time.process_time()
    engine.feed(values)
    whole = time.process_time() - began
    return {"events": count, "cpu_us_per_event": whole / count * 1e6, "events_per_s_and_core": count / whole}


def late(count: int) -> dict[str, Any]:
    """One event in a hundred a minute and a half late, beside none."""
    _fold(_made(20_000))
    none, some = _fold(_made(count))[0], _fold(_made(count, late_every=100))[0]
    return {"events": count, "cpu_us_none": none / count * 1e6, "cpu_us_late": some / count * 1e6, "ratio": some / none}


def imported(count: int) -> dict[str, Any]:
    """A history behind newer events of its partitions, hours or days old, beside one of which nothing is late; to durable panes."""
    _made(20_000)
    found = {ago: asyncio.run(_imported(count, hours)) / count * 1e6 for ago, hours in (("first", 0), ("hours", 12), ("days", 120))}
    return {
        "events": count, **{f"cpu_us_{ago}": us for ago, us in found.items()},
        "hours_to_first": found["hours"] / found["first"], "days_to_first": found["days"] / found["first"],
    }  # fmt: skip


async def _imported(count: int, hours: float) -> float:
    """CPU seconds of a history that came after events which were so many hours younger; 0 for none."""
    load, heads = Load(_catalogue(), _AGENTS), dict[TopicPartition, int]()
    newer = list(batches(load.records(20_000, start=START + timedelta(hours=hours), session=1_000), heads)) if hours else []
    history = list(batches(load.records(count), heads))
    with tempfile.TemporaryDirectory() as folder:
        store = await SqliteWindowStore.open(Path(folder) / "analytics.db")
        follower = AnalyticsFollower(store, _catalogue(), BUILT_IN, clock=SystemClock())
        await follower.positions(list({batch.topic_partition for batch in (*newer, *history)}))
        await _feed(follower, newer)
        began = time.process_time()
        await _feed(follower, history)
        spent = time.process_time() - began
        await store.close()
    return spent


async def _feed(follower: AnalyticsFollower, some: Sequence[Batch]) -> None:
    for batch in some:
        follower.apply(batch)
        if follower.wants_flush(interval_over=True):
            await follower.flush()
    await follower.flush()


def keys(count: int) -> dict[str, Any]:
    """Ten thousand agents beside one thousand."""
    _fold(_made(20_000))
    few, many = _fold(_made(count, 1_000))[0], _fold(_made(count, 10_000))[0]
    return {"events": count, "cpu_us_1000": few / count * 1e6, "cpu_us_10000": many / count * 1e6, "ratio": many / few}


def percentiles(count: int) -> dict[str, Any]:
    """The largest relative error of percentiles out of panes, over distributions of many shapes."""
    spec = MetricSpec(name="x", unit="ms", help="A value.", event_types=("task.completed",), value=ValuePath("payload.x"), per=("fleet",))
    random, worst = np.random.default_rng(7), {}
    shapes = {
        "lognormal": random.lognormal(6, 1.5, count), "exponential": random.exponential(300, count),
        "uniform": random.uniform(1, 9_000, count),
        "two humps": np.concatenate([random.normal(100, 5, count // 2), random.normal(9_000, 90, count - count // 2)]),
        "Pareto": (random.pareto(1.5, count) + 1) * 20,
    }  # fmt: skip
    for name, values in shapes.items():
        pane = _pane_of(spec, values)
        exact = np.percentile(values, [50, 95, 99], method="lower")
        found = [pane.quantile(share) for share in (0.5, 0.95, 0.99)]
        worst[name] = max(abs(float(a) - float(b)) / float(b) for a, b in zip(found, exact, strict=True) if a is not None)
    return {"values": count, "worst_relative_error": max(worst.values()), "by_shape": worst}


def _pane_of(spec: MetricSpec, values: NDArray[np.float64]) -> Pane:
    kernel = Kernel([spec], SCHEMAS)
    lane = kernel.open(TopicPartition("task-events", 0))
    head = (
        b'{"specversion":"1.0","id":"%d","source":"b","type":"task.completed","time":"2026-01-05T00:00:00.000000Z","aggregatetype":"task"'
    )
    head += b',"aggregateid":"t","schemaversion":"1.0.0","data":{"x":%s}}'
    for start in range(0, len(values), 10_000):
        some = values[start : start + 10_000].tolist()
        lane.batches.append(
            Batch(
                "task-events", 0, offsets=range(start, start + len(some)), keys=[None] * len(some),
                values=[head % (start + at, repr(value).encode()) for at, value in enumerate(some)], timestamps_ms=[-1] * len(some),
            )
        )  # fmt: skip
        kernel.run(_NOW_US, observe=False)
        kernel.settle()
    return kernel.pane("x", "fleet", "", int(START.timestamp()))


def day(count: int) -> dict[str, Any]:
    """A day of ten thousand agents through the follower into a store on disk: memory on the way and at the end."""
    return asyncio.run(_day(count))


def _mib(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.iterdir()) / 2**20


async def _day(count: int) -> dict[str, Any]:
    rounds = max(1, count // 50_000)
    load = Load(_catalogue(), 10_000, round_s=86_400 / rounds)
    before = resident_mib()
    with tempfile.TemporaryDirectory() as folder:
        store = await SqliteWindowStore.open(Path(folder) / "analytics.db")
        follower = AnalyticsFollower(store, _catalogue(), BUILT_IN, clock=SystemClock())
        await follower.positions(
            [TopicPartition(topic.name, partition) for topic in _catalogue().topics for partition in range(topic.partitions)]
        )
        marks: list[float] = []
        fed, mark, began = 0, count // 10, time.process_time()
        for batch in batches(load.records(count)):
            follower.apply(batch)
            fed += len(batch)
            if follower.wants_flush(interval_over=True):
                await follower.flush()
            if fed >= mark * (len(marks) + 1):
                marks.append(resident_mib())
        await follower.flush()
        cpu = time.process_time() - began
        await store.close()
        size = _mib(Path(folder))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {
        "events": count, "agents": 10_000, "peak_mib": peak, "program_and_load_mib": before, "mib_by_tenths": marks,
        "end_to_a_fifth": marks[-1] / marks[1], "store_mib": size, "cpu_us_per_event_with_load": cpu / count * 1e6,
    }  # fmt: skip
