"""Random histories of a log, as raw records, and a log in memory that only reads them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from tallyroll.errors import SpanGone
from tallyroll.events.batch import Batch
from tallyroll.events.chain import Chain
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Rows, Subject
from tallyroll.events.topics import Catalogue, TopicOverride
from tallyroll.ports import Span
from tallyroll.replay.fold import Fold, View
from tallyroll.replay.judge import Judge
from tallyroll.replay.plan import SKEW, AsOfEventTime, AsOfOffsets
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayed import Replayed
from tallyroll.replay.replayer import Ask, Replayer
from tallyroll.replay.views import FOLD
from tallyroll.testing.clock import FakeClock

CATALOGUE = Catalogue(
    overrides={
        "agent-events": TopicOverride(partitions=2),
        "task-events": TopicOverride(partitions=3),
        "workflow-events": TopicOverride(partitions=2),
        "system-events": TopicOverride(partitions=2),
        "performance-events": TopicOverride(partitions=2),
    }
)
TOPICS = ("agent-events", "task-events", "workflow-events", "system-events", "performance-events")
T0 = datetime(2026, 1, 1, tzinfo=UTC)

Log = dict[TopicPartition, list[bytes]]
"""Per partition the values in offset order, from offset 0."""


def batch_of(partition: TopicPartition, values: Sequence[bytes | None], start: int = 0) -> Batch:
    count = len(values)
    return Batch(*partition, offsets=range(start, start + count), keys=[None] * count, values=values, timestamps_ms=[-1] * count)


class ReadOnlyLog:
    """Reads a ``Log``; ``starts`` says what retention has removed."""

    def __init__(self, log: Log, *, removed: Mapping[TopicPartition, int] | None = None) -> None:
        self.log = log
        self.removed = dict(removed or {})
        self.reads: list[Span] = []

    async def ends(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        return {partition: len(values) for partition, values in self.log.items() if partition.topic in topics}

    async def starts(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        return {partition: self.removed.get(partition, 0) for partition in self.log if partition.topic in topics}

    async def read(self, spans: Sequence[Span], *, max_records: int = 500) -> AsyncIterator[Batch]:
        for span in spans:
            self.reads.append(span)
            partition = TopicPartition(span.topic, span.partition)
            if span.start < self.removed.get(partition, 0):
                raise SpanGone({str(partition): self.removed[partition]})
            for start in range(span.start, span.end, max_records):
                yield batch_of(partition, self.log[partition][start : min(start + max_records, span.end)], start)


async def replay(  # noqa: PLR0913  # what a test may vary
    log: Any,
    catalogue: Catalogue,
    view: View,
    owner: str | None = None,
    until: datetime | None = None,
    *,
    as_of_offsets: Mapping[TopicPartition, int] | None = None,
    allow_truncated: bool = False,
    skew: timedelta = SKEW,
    fold: Fold = FOLD,
) -> Replayed:
    """A replay from the log alone; newer events are findings, not the end of it."""
    if until is not None and as_of_offsets is not None:
        raise ValueError("either until or as_of_offsets")
    target = None if until is None else AsOfEventTime(until, skew)
    if as_of_offsets is not None:
        target = AsOfOffsets(as_of_offsets)
    ask = Ask(view, owner, target=target, policy=Policy().but(unknown_schema="warn"), allow_truncated=allow_truncated)
    return await Replayer(log, catalogue, clock=FakeClock(), fold=fold).replay(ask)


class Publisher:
    """One publisher session: its chain per partition, its sequence per topic and aggregate."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.chains: dict[TopicPartition, Chain] = {}
        self.sequences: dict[tuple[str, str], int] = {}

    def record(self, event: AgentEvent, *, skip: int = 0, again: bool = False) -> tuple[TopicPartition, bytes]:
        """The next record; ``skip`` leaves out numbers, ``again`` uses the last sequence number a second time."""
        place = CATALOGUE.place(event.event_type, event.key.encode())
        chain = self.chains.setdefault(place, Chain(f"{self.name}{place.topic[:4]}{place.partition}".ljust(32, "0")))
        key = (place.topic, event.key)
        self.sequences[key] = self.sequences.get(key, 0) + skip + (0 if again else 1)
        for _ in range(skip):
            chain.link(b"{}", 0)
        return place, chain.link(encode(event), max(self.sequences[key], 1))


def empty_log() -> Log:
    return {partition: [] for partition in CATALOGUE.partitions(TOPICS)}


def log_of(events: Sequence[AgentEvent]) -> Log:
    publisher, log = Publisher("p"), empty_log()
    for event in events:
        place, value = publisher.record(event)
        log[place].append(value)
    return log


def event(  # noqa: PLR0913  # what an event has
    kind: str,
    aggregate: str,
    payload: Mapping[str, Any] | None = None,
    *,
    at_s: float = 0,
    event_id: str | None = None,
    version: str = "1.0.0",
) -> AgentEvent:
    """``aggregate`` is ``type:id``, ``at_s`` seconds after T0."""
    aggregate_type, _, aggregate_id = aggregate.partition(":")
    at = T0 + timedelta(seconds=at_s)
    return AgentEvent(
        kind,
        aggregate_id,
        aggregate_type,
        dict(payload or {}),
        EventMetadata(correlation_id="c", created_at=at),
        event_id or f"{kind}/{aggregate}/{at_s}/{len(payload or ())}",
        at,
        version,
    )


_AGENTS = ("agent-1", "agent-12", 'agent "q" ü\\1')
_TASK_KINDS = ("created", "assigned", "started", "progressed", "completed", "failed", "cancelled", "retry")

_METRICS = ("performance.metric",) * 3
_RESOURCES = ("resource.allocated", "resource.released", "resource.exhausted")
_ACCESS = ("auth.success", "auth.failure", "authz.granted", "authz.denied", "data.accessed")
_SYSTEM = ("state.changed", "state.persisted", "state.restored", "configuration.changed", "anomaly.detected")
_OPERATIONS = (*_METRICS, *_RESOURCES, *_ACCESS, *_SYSTEM)


def random_event(rng: Random, number: int, clock_s: float) -> AgentEvent:
    agent = rng.choice(_AGENTS)
    task = f"task-{rng.randrange(6)}"
    at_s = clock_s + (rng.choice((-400.0, 0.25, 3_600.0)) if rng.random() < 0.25 else 0.0)
    payload: dict[str, Any] = {"agent_id": agent, "task_id": task, "tool_name": rng.choice(("grep", "shell", ""))}
    if rng.random() < 0.6:
        payload |= {"cost": rng.choice((0.1, 0.2, "0.3", 1e15 / 3, 3)), "tokens": rng.randrange(100), "duration_ms": rng.random() * 1e4}
    if rng.random() < 0.06:
        payload[rng.choice(("cost", "progress_percent", "error_type", "step"))] = rng.choice(("no number", [1], {"a": 1}))
    family = rng.random()
    if family < 0.25:
        kind, aggregate = "agent." + rng.choice(("created", "started", "stopped", "failed", "heartbeat")), f"agent:{agent}"
        payload |= {"configuration": {"n": number, "a": 0.5}, "capabilities": ["x"], "error": {"code": number}}
    elif family < 0.76:
        kind = "task." + rng.choice(_TASK_KINDS) if rng.random() < 0.8 else "tool." + rng.choice(("invoked", "completed", "failed"))
        aggregate = f"task:{task}" if rng.random() < 0.8 else f"agent:{agent}"
        payload |= {"progress_percent": rng.random() * 100}
    elif family < 0.86:
        kind = rng.choice(("workflow.started", "workflow.step.completed", "workflow.completed", "message.sent", "message.received"))
        aggregate = rng.choice(("workflow:w-1", "workflow:w-2", f"agent:{agent}"))
    else:
        kind, aggregate = rng.choice(_OPERATIONS), rng.choice((f"agent:{agent}", "service:s-1", "workflow:w-1"))
        payload |= {
            "metric_name": rng.choice(("a", "b:1", "")),
            "value": rng.choice((1.5, -2, "0.25", 1e12, 9e12, "nan")),
            "resource_type": rng.choice(("gpu", "", None)),
            "setting": f"s{number % 3}",
            "new_value": rng.choice((None, 1, {"b": 1, "a": []}, "long " * 500)),
            "new_state": rng.choice((None, "up", {"n": number})),
            "severity": rng.choice(("low", "high")),
            "resource": "r",
        }
    version = "99.0.0" if rng.random() < 0.03 else "1.0.0"
    event_id = str(number) if rng.random() < 0.9 else f"{'long ' * 20}{number}"
    return event(kind, aggregate, payload, at_s=at_s, event_id=event_id, version=version)


def random_log(rng: Random, count: int) -> Log:
    """Records of two publishers with skewed clocks, late and repeated records, duplicates, gaps, forks and garbage."""
    publishers = [Publisher("a"), Publisher("b")]
    log = empty_log()
    late: list[tuple[TopicPartition, bytes]] = []
    events: list[AgentEvent] = []
    for number in range(count):
        dice = rng.random()
        publisher = rng.choice(publishers)
        if dice < 0.04:
            log[rng.choice(list(log))].append(rng.choice((b"", b"{", b"[]", b'{"id":"x"}', b'{"specversion":"1.0"}\xff')))
            continue
        if dice < 0.08 and any(log.values()):
            place = rng.choice([one for one, values in log.items() if values])
            log[place].append(rng.choice(log[place]))
            continue
        if dice < 0.12 and events:
            late.append(publisher.record(rng.choice(events[-5:])))
        else:
            events.append(random_event(rng, number, number * 2.0))
            late.append(publisher.record(events[-1], skip=int(rng.random() < 0.03) * 2, again=rng.random() < 0.03))
        if rng.random() < 0.85:
            rng.shuffle(late)
            while late:
                place, value = late.pop()
                log[place].append(value)
    for place, value in late:
        log[place].append(value)
    return log


def cuts(rng: Random, log: Log) -> list[Batch]:
    """The log as batches of random sizes, partitions interleaved at random, each partition in offset order."""
    left = {partition: 0 for partition, values in log.items() if values}
    batches = []
    while left:
        partition = rng.choice(list(left))
        start = left[partition]
        stop = min(len(log[partition]), start + rng.randint(1, 7))
        batches.append(batch_of(partition, log[partition][start:stop], start))
        left[partition] = stop
        if stop == len(log[partition]):
            del left[partition]
    return batches


Row = tuple[int, int, str, str, Subject, bytes, str | None]
"""Offset, event time in µs, type, schema version, whose it is, payload, agent."""


def first_copies(partition: TopicPartition, values: Sequence[bytes]) -> list[Row]:
    """What an archive keeps of a partition for folds."""
    rows = Judge().rows(batch_of(partition, values)) if values else None
    if rows is None:
        return []
    return list(zip(rows.offsets, rows.times_us, rows.types, rows.versions, rows.subjects, rows.data, rows.agents, strict=True))


def rows_of(partition: TopicPartition, kept: Sequence[Row]) -> Rows:
    return Rows(*partition, *zip(*kept, strict=True))
