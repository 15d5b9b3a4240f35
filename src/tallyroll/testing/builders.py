"""Events and records for tests: made up, plausible, and the same for the same seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from random import Random
from typing import Any, Final

from tallyroll.events.chain import Chain
from tallyroll.events.codec import HEADERS, encode
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.ids import id_at
from tallyroll.events.partition import partition_for
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.events.types import TASK_TOPIC, EventType
from tallyroll.ports import Encoded
from tallyroll.testing.clock import T0

_FAILURES: Final = 0.15  # share of tasks that fail
_TASK_TYPES: Final = ("analysis", "summary", "review", "deploy")
_TOOLS: Final = ("search", "browser", "shell", "calculator")

Deed = tuple[EventType, str, str, dict[str, Any]]


class EventBuilder:
    """Events of some agents that work on tasks, with tools, and report how it went.

    Ids, times and content follow from the seed and the order of calls. Event time starts at ``start`` and rises by 1 to
    500 ms from one event to the next. Not promised: the same events in another release.
    """

    def __init__(self, seed: int = 0, *, agents: int = 5, start: datetime = T0) -> None:
        self._random = Random(seed)  # noqa: S311  # the same numbers again are the point
        self._now = start
        self._agents = [f"agent-{number}" for number in range(1, agents + 1)]
        self._stories = [self._story(agent) for agent in self._agents]

    def event(
        self,
        event_type: str = EventType.TASK_COMPLETED,
        aggregate_id: str = "task-1",
        aggregate_type: str = "task",
        payload: Mapping[str, Any] | None = None,
        **metadata: Any,  # noqa: ANN401  # the fields of EventMetadata
    ) -> AgentEvent:
        """The next event, as asked for; ``metadata`` takes the fields of EventMetadata."""
        self._now += timedelta(milliseconds=self._random.randint(1, 500))
        event_id = id_at(int(self._now.timestamp() * 1_000_000), self._random.randbytes(10))
        return AgentEvent(
            event_type,
            aggregate_id,
            aggregate_type,
            dict(payload) if payload is not None else {"agent_id": self._agents[0], "duration_ms": 5_200, "result": "ok"},
            EventMetadata(**{"correlation_id": event_id, "created_at": self._now, **metadata}),
            event_id,
            self._now,
        )

    def events(self, count: int) -> list[AgentEvent]:
        """The next events of the agents' lives, interleaved."""
        return [self.event(*next(self._random.choice(self._stories))) for _ in range(count)]

    def _story(self, agent: str) -> Iterator[Deed]:
        yield EventType.AGENT_CREATED, agent, "agent", {"capabilities": list(_TOOLS)}
        yield EventType.AGENT_STARTED, agent, "agent", {"status": "active"}
        number = 0
        while True:
            number += 1
            yield from self._task(agent, f"task-{agent}-{number}")
            yield EventType.AGENT_HEARTBEAT, agent, "agent", {"status": "active"}

    def _task(self, agent: str, task: str) -> Iterator[Deed]:
        who = {"agent_id": agent, "task_id": task}
        yield EventType.TASK_CREATED, task, "task", {**who, "task_type": self._random.choice(_TASK_TYPES)}
        yield EventType.TASK_STARTED, task, "task", who
        duration_ms = 0
        for _ in range(self._random.randint(0, 3)):
            tool, took_ms = self._random.choice(_TOOLS), self._random.randint(10, 3_000)
            duration_ms += took_ms
            yield EventType.TOOL_INVOKED, task, "task", {**who, "tool": tool}
            yield EventType.TOOL_COMPLETED, task, "task", {**who, "tool": tool, "duration_ms": took_ms, "status": "success"}
        if self._random.random() < _FAILURES:
            yield EventType.TASK_FAILED, task, "task", {**who, "duration_ms": duration_ms, "error": "timeout"}
        else:
            tokens = self._random.randint(100, 20_000)
            yield EventType.TASK_COMPLETED, task, "task", {**who, "duration_ms": duration_ms, "result": "ok", "tokens": tokens}


class RecordBuilder:
    """Events as records, encoded, numbered and chained as one publisher does it."""

    def __init__(self, catalogue: Catalogue, seed: int = 0) -> None:
        self._catalogue = catalogue
        self._random = Random(seed)  # noqa: S311  # the same numbers again are the point
        self._chains: dict[TopicPartition, Chain] = {}
        self._sequences: Counter[tuple[str, str]] = Counter()

    def encode(self, events: Iterable[AgentEvent]) -> list[Encoded]:
        """One record per event, in order."""
        return [self._encode(event) for event in events]

    def _encode(self, event: AgentEvent) -> Encoded:
        key = event.key.encode()
        place = self._catalogue.place(event.event_type, key)
        chain = self._chains.get(place)
        if chain is None:
            chain = self._chains[place] = Chain(self._random.randbytes(16).hex())
        self._sequences[place.topic, event.key] += 1
        value = chain.link(encode(event), self._sequences[place.topic, event.key])
        timestamp_ms = int(event.timestamp.timestamp() * 1_000)
        return Encoded(event.event_id, place.topic, place.partition, key, value, HEADERS, timestamp_ms)


def records(catalogue: Catalogue, count: int, *, seed: int = 0, agents: int = 5) -> list[Encoded]:
    """That many records of made-up agents, as a publisher would append them."""
    return RecordBuilder(catalogue, seed).encode(EventBuilder(seed, agents=agents).events(count))


def numbered(  # noqa: PLR0913  # what a test of a log varies
    catalogue: Catalogue,
    count: int,
    *,
    base: str = TASK_TOPIC,
    first: int = 0,
    partition: int | None = None,
    timestamp_ms: int | None = None,
) -> list[Encoded]:
    """Small records whose value is their number in decimal, spread by key over the partitions or all in one.

    For tests of logs: loss, repetition and order show at a glance. Timestamps rise by 1 ms from ``timestamp_ms`` (T0).
    """
    topic = catalogue[base]
    start_ms = int(T0.timestamp() * 1_000) if timestamp_ms is None else timestamp_ms
    result = []
    for number in range(first, first + count):
        key = f"task:{number}".encode()
        where = partition_for(key, topic.partitions) if partition is None else partition
        result.append(Encoded(f"n-{number}", topic.name, where, key, str(number).encode(), HEADERS, start_ms + number - first))
    return result
