"""Contenders without an archive of ours: folds in memory, from the topics of a broker, by hand, and in another package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec

from bench.replay_access import CATALOGUE, ask, replays_of
from bench.replay_data import History, Wire, batch_of
from bench.replay_plain import ORDERED, ORDERLESS, consumed, differing, task_of
from bench.replay_plain import fold as fold_by_hand
from bench.replay_site import BATCH, Figures, Site, Step, Timed, owners
from tallyroll.adapters.system.clock import SystemClock
from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.event import AgentEvent, EventMetadata
from tallyroll.events.moments import moment_at
from tallyroll.events.position import TopicPartition
from tallyroll.events.types import EventType
from tallyroll.replay.fields import Place
from tallyroll.replay.fold import join, state_hash, states_hash
from tallyroll.replay.golden import RecordedLog
from tallyroll.replay.history import history
from tallyroll.replay.partition import PartitionFold
from tallyroll.replay.plan import ReplayMode
from tallyroll.replay.replayer import Replayer
from tallyroll.replay.views import AGENT, FOLD
from tallyroll.roll import Roll
from tallyroll.settings import Settings

MEMORY_EVENTS: Final = 200_000  # at most so many are held in memory at once, by the contenders without disk and broker
AGED: Final = 1_000  # events of the one aggregate that is replayed alone
COMPARED: Final = 30_000  # events for the eventsourcing package, about


async def one_aggregate(site: Site) -> Figures:
    """1,000 events of one agent and no others, in an embedded log of their own, replayed from the first one."""
    folder = site.folder / "aged"
    settings = Settings(url=f"sqlite:///{folder}")
    fresh = not folder.exists()
    async with Roll.open(settings) as roll:
        if fresh:
            await roll.publish_batch([_aged(number, site.meta.first_us) for number in range(AGED)])
        await roll.replay(AGENT, "nobody")  # what is imported and compiled at first use is not what is asked for
        with Timed() as timed:
            found = await roll.replay(AGENT, "aged-1")
    assert found.states["aged-1"]["version"] == AGED, found.states
    return timed.figures(AGED)


def _aged(number: int, first_us: int) -> AgentEvent:
    kind = (EventType.TASK_STARTED, EventType.TOOL_INVOKED, EventType.TOOL_COMPLETED, EventType.TASK_COMPLETED)[number % 4]
    payload = {"agent_id": "aged-1", "task_id": f"t-{number // 4}", "tool_name": "search", "invocation_id": f"i-{number}", "duration_ms": 5}
    return AgentEvent(kind, "aged-1", "agent", payload, EventMetadata("aged"), timestamp=moment_at(first_us + number))


# In memory: no disk, no broker


def _batches(site: Site) -> tuple[list[tuple[TopicPartition, list[Wire]]], int]:
    """The first records, by partition, of the topics that agents are made of."""
    count = min(site.meta.count, MEMORY_EVENTS)
    log: dict[TopicPartition, list[Wire]] = {}
    for some in History(count, CATALOGUE, site.meta.agents).rounds():
        for partition, records in some.items():
            if any(partition.topic == CATALOGUE[base].name for base in AGENT.topics):
                log.setdefault(partition, []).extend(records)
    return sorted(log.items()), sum(map(len, log.values()))


def _cut(partition: TopicPartition, records: Sequence[Wire]) -> Iterator[Batch]:
    for start in range(0, len(records), BATCH):
        yield batch_of(partition, records[start : start + BATCH], start)


async def decode_alone(site: Site) -> Figures:
    """Heads of batches decoded, nothing folded."""
    log, count = _batches(site)
    bad = 0
    with Timed() as timed:
        for partition, records in log:
            for batch in _cut(partition, records):
                bad += sum(isinstance(head, Undecodable) for head in batch.heads())
    assert not bad
    return timed.figures(count)


async def decode_and_fold(site: Site) -> Figures:
    """The same batches decoded and folded into agents."""
    log, count = _batches(site)
    number, changed = FOLD.index(AGENT.name), 0
    parts: dict[str, list[Any]] = {}
    with Timed() as timed:
        for partition, records in log:
            topic = CATALOGUE.named(partition.topic)
            assert topic is not None
            fold = PartitionFold(FOLD, partition.topic, topic.base, partition.partition, view=number)
            for batch in _cut(partition, records):
                changed += fold.apply(batch).changed
            for owner, part in fold.parts(number).items():
                parts.setdefault(owner, []).append((Place(*partition), part))
    states = {owner: state for owner, own in parts.items() if (state := join(AGENT, own)) is not None}
    assert sum(state["version"] for state in states.values()) == changed
    return timed.figures(count, hashes={"agents in memory": states_hash(states)})


def in_memory(validate: str) -> Step:
    """A replay of a log in memory, with sequence numbers checked or not."""

    async def run(site: Site) -> Figures:
        log, count = _batches(site)
        recorded = RecordedLog({partition: [one.value for one in records] for partition, records in log})
        replayer = Replayer(recorded, CATALOGUE, clock=SystemClock())  # type: ignore[arg-type]  # the reading half is all a replay uses
        with Timed() as timed:
            found = await replayer.replay(ask(source="log", validate=validate))
        assert not found.finding_counts, found.finding_counts
        assert found.records == count
        return timed.figures(count, hashes={"agents in memory": states_hash(found.states)})

    return run


# From the topics of a broker


def _settings(site: Site) -> Settings:
    return Settings(url=f"kafka://{site.bootstrap}", topic_prefix=site.prefix, data_dir=site.folder / "kafka")


async def _spans(roll: Roll) -> list[tuple[str, int, int]]:
    ends = await roll.log.ends([roll.catalogue[base].name for base in AGENT.topics])
    return [(topic, partition, end) for (topic, partition), end in sorted(ends.items())]


def from_kafka(workers: int, validate: str = "sequence") -> Step:
    """Every agent's state from the topics."""

    async def run(site: Site) -> Figures:
        async with Roll.open(_settings(site)) as roll:
            count = sum(end for _, _, end in await _spans(roll))
            engine = await roll.replay_engine()
            mode = ReplayMode.FULL if workers == 1 else ReplayMode.PARALLEL
            with Timed() as timed:
                found = await engine.replay(ask(source="log", mode=mode, workers=workers, validate=validate))
        assert not found.finding_counts, found.finding_counts
        assert found.records == count, (found.records, count)
        if workers == 1 and validate == "sequence":
            (site.folder / "kafka-states.json").write_bytes(msgspec.json.encode({owner: dict(one) for owner, one in found.states.items()}))
        return timed.figures(count, hashes={"agents in the topics": states_hash(found.states)})

    return run


async def bare(site: Site) -> Figures:
    """confluent-kafka consume(500) in a loop, values dropped: as fast as the client reads."""
    async with Roll.open(_settings(site)) as roll:
        spans = await _spans(roll)
    with Timed() as timed:
        count = consumed(site.bootstrap, spans, None)
    assert count == sum(end for _, _, end in spans)
    return timed.figures(count)


async def by_hand(site: Site) -> Figures:
    """The same loop with json.loads and a dict per agent, in the order in which records arrive."""
    async with Roll.open(_settings(site)) as roll:
        spans = await _spans(roll)
    states: dict[str, dict[str, Any]] = {}
    with Timed() as timed:
        count = consumed(site.bootstrap, spans, lambda value: fold_by_hand(states, value))
    assert count == sum(end for _, _, end in spans)
    ours = msgspec.json.decode((site.folder / "kafka-states.json").read_bytes())
    wrong = differing(ours, states, ORDERLESS)
    assert not wrong, [(owner, {n: (ours[owner][n], states[owner][n]) for n in ORDERLESS}) for owner in wrong[:2]]
    return timed.figures(count, agents=len(states), differ_by_order=len(differing(ours, states, ORDERED)))


# Another package


async def eventsourcing(site: Site) -> Figures:
    """Some agents with their whole history in the eventsourcing package, replayed one by one; ours beside it, one by one."""
    from bench.replay_eventsourcing import FIELDS, Agent, filled, opened

    async with replays_of(site.full) as replayer:
        chosen, events = list[str](), 0
        whole = await replayer.replay(ask(columnar=True))
        for owner in owners(site):
            if owner in whole.states and events < COMPARED:
                chosen.append(owner)
                events += whole.states[owner]["version"]
        file = site.folder / "eventsourcing.db"
        file.unlink(missing_ok=True)
        application = opened(file)
        histories = {owner: await _deeds(replayer, owner) for owner in chosen}
        with Timed() as written:
            stored = filled(application, histories)
        ids = [Agent.create_id(owner) for owner in chosen]
        application.repository.get(ids[0])
        with Timed() as timed:
            agents: list[Agent] = [application.repository.get(one) for one in ids]
        for owner, agent in zip(chosen, agents, strict=True):
            state = whole.states[owner]
            assert agent.version == state["version"] + 1, (owner, agent.version, state["version"])  # one more opens it
            unequal = {name: (state[name], getattr(agent, name)) for name in FIELDS if state[name] != getattr(agent, name)}
            assert not unequal, (owner, unequal)
        application.close()
        await replayer.replay(ask(owner=chosen[0]))
        with Timed() as ours:
            for owner in chosen:
                found = await replayer.replay(ask(owner=owner))
                assert state_hash(found.states[owner]) == state_hash(whole.states[owner])
    return timed.figures(
        stored, agents=len(chosen), write_s=written.wall_s, bytes=file.stat().st_size, ours_one_by_one_s=ours.wall_s, ours_events=events
    )


async def _deeds(replayer: Replayer, owner: str) -> list[Any]:
    """An agent's events in the order in which the replay takes them."""
    from bench.replay_eventsourcing import Deed

    found = await history(replayer, AGENT, owner)
    keyed = []
    for partition, rows in found.rows.items():
        order_us = 0
        for offset, time_us, kind, subject, data in zip(rows.offsets, rows.times_us, rows.types, rows.subjects, rows.data, strict=True):
            order_us = max(order_us, time_us)
            payload = msgspec.json.decode(data)
            task = task_of(subject.aggregatetype, subject.aggregateid, payload)
            keyed.append(((order_us, *partition, offset), Deed(str(kind), time_us, task, payload)))
    return [deed for _, deed in sorted(keyed, key=lambda one: one[0])]
