"""Random events for the kernel, well-formed and not, and a follower that is fed with them in any order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tests.flows.publishing import breathe
from tests.unit.analytics_reference import EPOCH, Cell, Reference
from tests.unit.replay_histories import CATALOGUE

from tallyroll.adapters.sqlite.window_store import SqliteWindowStore
from tallyroll.analytics.follower import AnalyticsFollower
from tallyroll.analytics.pane import Pane, load_row
from tallyroll.analytics.spec import BUILT_IN, AggregationFunction, MetricSpec, Pair, Path
from tallyroll.errors import StoreUnavailable
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.ports import DocumentWrite, WindowStore, WindowWrite
from tallyroll.testing.clock import FakeClock

T0 = datetime(2026, 1, 1, 23, 58, tzinfo=UTC)  # a day ends soon
NOW = T0 + timedelta(days=30)
NOW_US = (NOW - EPOCH) // EPOCH.resolution
PLACES = (TopicPartition("task-events", 0), TopicPartition("task-events", 1), TopicPartition("agent-events", 0))
DIMENSIONS = ("fleet", "agent", "task_type", "tool", "model", "tenant", "payload.region", "agent+payload.region")

SPECS = (
    *BUILT_IN,
    MetricSpec(
        name="drift", unit="ms", help="Signed.", event_types=("task.progressed",), value=Path("payload.drift"), signed=True,
        domain=(0.5, 1e3), per=("fleet", "agent+payload.region"),
    ),
    MetricSpec(
        name="whole_time", unit="ms", help="From creation to the end.", event_types=("task.completed",), value=Pair("task.created"),
        per=("fleet",), pane_s=3_600, lateness_s=0, disorder_s=0,
    ),
    MetricSpec(
        name="steps", unit="steps", help="With few keys.", event_types=("task.progressed",), value=Path("payload.step"),
        per=("payload.region",), functions=(AggregationFunction.SUM,), max_keys=2, pane_s=10,
    ),
)  # fmt: skip

Record = tuple[bytes | None, int]


class Maker:
    """Events of some agents and tasks, most of them sound, at times that jump about. ``odd``: how much of that is not sound."""

    def __init__(self, random: Random, odd: float = 1.0) -> None:
        self.random = random
        self.odd = odd
        self.now = T0
        self.numbers: dict[str, int] = {}
        self.last: list[Record] = []

    def record(self) -> Record:
        draw = self.random.random()
        if self.last and draw < 0.04:
            return self.random.choice(self.last)  # sent again
        if draw < 0.04 + 0.02 * self.odd:
            return self.random.choice([b"", None, b"{", b"[]", b"\xff", b'{"specversion":"1.0"}', b"7"]), -1
        made = json.dumps(self.event()).encode(), self.timestamp_ms()
        self.last = [*self.last[-20:], made]
        return made

    def timestamp_ms(self) -> int:
        if self.random.random() < 0.5:
            return -1
        return int((self.now + timedelta(seconds=self.random.choice([0, 0, 0, 5, -90]))).timestamp() * 1_000)

    def event(self) -> dict[str, Any]:
        pick = self.random.choice
        self.now += timedelta(microseconds=round(pick([0, 1, 400, 2_000, 20_000, 100_000]) * self.random.random() * 1_000))
        if self.random.random() < 0.003:
            self.now += timedelta(hours=pick([1, 20, 30]))
        time = self.now - timedelta(seconds=pick([0, 0, 0, 0, 1, 9, 30, 100, 200, 4_000]))
        if self.random.random() < 0.05:
            time -= timedelta(hours=pick([7, 47, 49, 50, 60, 24 * 34, 24 * 36]))  # recorded elsewhere, imported now
        if self.random.random() < 0.01:
            time = NOW + timedelta(days=400)
        kind = pick(["task.created", "task.started", "task.completed", "task.failed", "task.progressed", "tool.invoked", "tool.completed",
                     "tool.failed", "agent.heartbeat", "message.sent", "anomaly.detected", "own.thing"])  # fmt: skip
        owner = ("agent", pick(["a-1", "a-12", "a-2"])) if kind.startswith("agent") else ("task", f"t-{self.random.randrange(6)}")
        session = pick("ab")
        self.numbers[session] = self.numbers.get(session, 0) + 1
        event: dict[str, Any] = {
            "specversion": "1.0", "id": f"{self.random.random()}", "source": "test", "type": kind, "subject": ":".join(owner),
            "time": self.time(time), "aggregatetype": owner[0], "aggregateid": owner[1], "schemaversion": "1.0.0", "data": self.data(),
            "tenantid": pick(["x", "y", None]), "chainsession": session, "chainnumber": str(self.numbers[session]),
        }  # fmt: skip
        odd = {"data": [1], "schemaversion": "7.0.0", "chainsession": "", "aggregateid": "", "source": 1}
        return event | {member: value for member, value in odd.items() if self.random.random() < 0.005 * self.odd}

    def time(self, moment: datetime) -> str:
        text = moment.isoformat(timespec="microseconds")
        draw = self.random.random()
        if draw < 1 - 0.1 * self.odd:
            return text[:-6] + "Z"
        others = [
            moment.isoformat(),
            text,
            (moment + timedelta(hours=2)).isoformat()[:-6] + "+02:00",
            text[:-6],
            "soon",
            text[:11] + "99:00:00.000000Z",
        ]
        return self.random.choice(others)

    def data(self) -> dict[str, Any]:
        pick = self.random.choice
        may: Mapping[str, Sequence[Any]] = {
            "agent_id": ["a-1", "a-12", "a-2", "", 7, "a" * 300],
            "task_type": ["review", "summary", "__other__", None, 5],
            "tool_name": ["search", "shell"],
            "model": ["large", "small", {"name": "x"}],
            "region": ["eu", "us", "asia", "africa"],
            "invocation_id": ["i1", "i2", "i3", 4],
            "duration_ms": [0, 0.0001, 1, 5, 1200, 1e9, 1e10, 2e10, 1e300, -3, "fast", True, 10**400],
            "execution_time": [0.5, 3, -1, None],
            "success": [True, False, "no"],
            "status": ["ok", "failed", "timeout", 3],
            "result": ["text", {"status": "error"}, {"status": "ok"}, [1, 2], None, 4, {"status": 5}],
            "tokens": [0, 1, 250, 12.5, 2**43, 2**43 + 1, 10**30, "12", "x", -5, [1]],
            "input_tokens": [0, 7, 90, -3, 10**30, "x"],
            "output_tokens": [1, 2.5, 2**43, None],
            "cost": [0, 0.010626, 0.0000005, "0.0000015", "1e3", "NaN", "Infinity", "1e999999", 3, -0.5, 10**20, True],
            "cpu_percent": [0, 1.5, 99],
            "memory_bytes": [1e6, 5e9],
            "drift": [0, 0.1, -0.1, 5, -5, 1e6, -1e6],
            "step": [1, 2, 3],
        }
        if self.random.random() > self.odd:
            may = {name: [value for value in values if is_plain(name, value)] for name, values in may.items()}
        return {name: pick(values) for name, values in may.items() if self.random.random() < 0.4}


TEXTS = {"agent_id", "task_type", "tool_name", "model", "region", "invocation_id", "status"}


def is_plain(name: str, value: Any) -> bool:
    """Whether a value is of the kind that belongs there, so that nobody has to look twice."""
    if value is None or name == "result":
        return not isinstance(value, dict) or isinstance(value["status"], str)
    if name in TEXTS or name == "success":
        return isinstance(value, str if name in TEXTS else bool)
    if isinstance(value, str):
        return name in ("tokens", "cost")  # decimal texts are exact
    return type(value) in (int, float) and abs(value) < 2**53


def logs(seed: int, count: int) -> dict[TopicPartition, list[Record]]:
    """Records of some partitions, in every other history most of them plain; session numbers and repeats are per partition."""
    random = Random(seed)  # noqa: S311  # a fixed history
    odd = 1.0 if seed % 2 else 0.02
    return {place: [maker.record() for _ in range(random.randrange(count))] for place in PLACES if (maker := Maker(random, odd))}


def batch(place: TopicPartition, records: Sequence[Record], start: int) -> Batch:
    """Records as a log hands them over."""
    return Batch(
        *place,
        offsets=range(start, start + len(records)),
        keys=[None] * len(records),
        values=[value for value, _ in records],
        timestamps_ms=[timestamp for _, timestamp in records],
    )


def follower_on(
    store: WindowStore, *, specs: Sequence[MetricSpec] = SPECS, clock: FakeClock | None = None, **options: Any
) -> AnalyticsFollower:
    """A follower that has done nothing yet, on what the store holds."""
    return AnalyticsFollower(store, CATALOGUE, specs, clock=clock or FakeClock(NOW), **options)


async def feed(
    open_follower: Callable[[FakeClock], Awaitable[AnalyticsFollower]],
    log: Mapping[TopicPartition, Sequence[Record]],
    random: Random,
    *,
    restarts: bool = False,
) -> AnalyticsFollower:
    """Everything, cut and mixed at random, beside flushes that are under way; with ``restarts``, followers die at any moment, too."""
    clock = FakeClock(NOW)
    follower = await open_follower(clock)
    flushes: list[asyncio.Task[Any]] = []  # one at most
    at = dict(await follower.positions(list(log)))
    while left := [place for place in log if at.get(place, 0) < len(log[place])]:
        place = random.choice(left)
        some = _some(place, log[place], at.get(place, 0), random)
        assert not follower.apply(some)
        at[place] = some.next_offset
        if random.random() < (0.5 if flushes else 0.1):
            clock.advance(0.1)
            clock.set_wall_clock(NOW)  # times from the future are put back to it, and the plain computation has one now
            follower.wants_flush(interval_over=False)
        if not flushes and random.random() < 0.1:
            flushes = [asyncio.create_task(follower.flush())]
        for _ in range(random.choice([0, 1, 30]) if flushes else 0):
            await breathe()
        if flushes and flushes[0].done():
            await _done(flushes.pop())
        if restarts and random.random() < 0.03:
            for one in flushes:
                one.cancel()
            await asyncio.gather(*flushes, return_exceptions=True)
            flushes, follower = [], await open_follower(clock)
            at = dict(await follower.positions(list(log)))
    for one in flushes:
        await _done(one)
    while (found := await _done(asyncio.create_task(follower.flush()))) is None:
        pass
    assert found == {place: len(log[place]) for place in log if log[place]}
    return follower


def _some(place: TopicPartition, records: Sequence[Record], start: int, random: Random) -> Batch:
    some = batch(place, records[start : start + random.choice([1, 2, 7, 50])], start)
    if random.random() < 0.3:
        some.heads()  # another follower had it first
    return some


async def _done(flush: asyncio.Task[Any]) -> Any:
    """What a flush gives; None if the store was away."""
    try:
        return await flush
    except StoreUnavailable:
        return None


class Shaky(SqliteWindowStore):
    """A store that takes its time, and is away for one flush in six. A commit that nobody waits for any more is not made."""

    random: Random

    async def commit(self, writes: Sequence[WindowWrite], documents: Sequence[DocumentWrite] = ()) -> None:
        for _ in range(self.random.randrange(20)):
            await breathe()
        if writes and self.random.random() < 0.17:
            raise StoreUnavailable("window store", "away")
        self._commit(writes, documents)
        for _ in range(self.random.randrange(20)):
            await breathe()


async def stored(store: WindowStore, specs: Sequence[MetricSpec] = SPECS) -> dict[TopicPartition, dict[Cell, Pane]]:
    """Every pane, by partition."""
    found: dict[TopicPartition, dict[Cell, Pane]] = {}
    for dimension, width in {(dimension, width) for spec in specs for dimension in spec.per for width in (spec.pane_s, 900)}:
        for row in await store.rows(dimension, width, -(2**40), 2**40):
            for name, pane in load_row(row.data).items():
                found.setdefault(row.partition, {})[dimension, row.at.key, width, row.at.start, name] = pane
    return found


def differences(found: Mapping[Cell, Pane], wanted: Reference) -> list[Cell]:
    """Cells that are not what the reference says."""
    either = found.keys() | wanted.panes.keys()
    return sorted(cell for cell in either if cell not in found or cell not in wanted.panes or not wanted.panes[cell].equals(found[cell]))


async def memory_store(kind: type[SqliteWindowStore] = SqliteWindowStore) -> SqliteWindowStore:
    """A store that is gone with its last reference."""
    return await kind.open(None)
