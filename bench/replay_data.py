"""The history that replays are measured on: a simulated fleet, in an archive on disk and in the topics of a test broker.

Ten minutes of the fleet are made once. Every later ten minutes are the same bytes under other ids, times and names of tasks,
numbered and chained anew, so that agents grow old, tasks come and go, and not two records are equal.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from bench.replay_access import CATALOGUE, FOLD_ID, follower_of, open_archive
from tallyroll.events.batch import Batch
from tallyroll.events.chain import Chain
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent, iso
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.simulate import Fleet
from tallyroll.simulate.fleet import DEFAULT_START

AGENTS: Final = 1_000
TASKS_PER_AGENT_HOUR: Final = 30.0
ROUND: Final = timedelta(minutes=10)
TAIL_PERCENT: Final = 1  # of the records that come after the last seal
VERSION: Final = 3  # of what is in the folder; another one is made anew
_ONCE: Final = ("agent.created", "agent.registered")  # an agent is created in the first round only
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_START_US: Final = (DEFAULT_START - _EPOCH) // timedelta(microseconds=1)
_ROUND_US: Final = ROUND // timedelta(microseconds=1)
_FIRST_PREFIX: Final = iso(DEFAULT_START)[:15]  # up to the tens of minutes, which all times of a round share
_ID: Final = b'id":"019'  # how the ids of events begin, those of causes among them
_ID_CHARS: Final = 33  # after that


class Wire(NamedTuple):
    """One record of the history, final."""

    key: bytes
    value: bytes
    time_us: int


class _Form(NamedTuple):
    """One event of the fleet with holes for what differs from round to round."""

    event_type: str
    key: bytes
    body: bytes
    time_us: int
    is_agents: bool


def forms(agents: int = AGENTS, limit: int | None = None) -> list[_Form]:
    """The events of one round, or the first of them."""
    made = list(Fleet(seed=7, agents=agents, tasks_per_agent_hour=TASKS_PER_AGENT_HOUR).run(duration=ROUND, events=limit))
    tag = next((event.aggregate_id.split("-")[1] for event in made if event.aggregate_type == "task"), "no task")
    return [_form(event, tag.encode()) for event in made]


def _form(event: AgentEvent, tag: bytes) -> _Form:
    # An id keeps the random part that makes it its own; its last four digits become the number of the round.
    pieces = encode(event).replace(b"%", b"%%").replace(_FIRST_PREFIX.encode(), b"%(time)b").split(_ID)
    for at, piece in enumerate(pieces[1:], 1):
        assert piece[_ID_CHARS : _ID_CHARS + 1] == b'"', "an id of another length"
        pieces[at] = piece[: _ID_CHARS - 4] + b"%(round)b" + piece[_ID_CHARS:]
    body, key = _ID.join(pieces).replace(tag, b"%(tag)b"), event.key.encode().replace(tag, b"%(tag)b")
    return _Form(str(event.event_type), key, body, (event.timestamp - _EPOCH) // timedelta(microseconds=1), event.aggregate_type == "agent")


class History:
    """The history, round by round, in offset order within each partition. Made anew it gives the same bytes."""

    def __init__(self, count: int, catalogue: Catalogue, agents: int = AGENTS) -> None:
        self._count = count
        self._catalogue = catalogue
        self._forms = forms(agents)
        self._chains: dict[TopicPartition, Chain] = {}
        self._agents: Counter[tuple[str, bytes]] = Counter()
        self.by_type: Counter[str] = Counter()

    def rounds(self) -> Iterator[dict[TopicPartition, list[Wire]]]:
        """Records by partition, some 150,000 at a time, until there are ``count``."""
        made, number = 0, 0
        while made < self._count:
            some = self._round(number, self._count - made)
            made += sum(map(len, some.values()))
            number += 1
            yield some

    def _round(self, number: int, most: int) -> dict[TopicPartition, list[Wire]]:
        tag = sha256(b"round %d" % number).hexdigest()[:6].encode()
        shift_us = number * _ROUND_US
        prefix = iso(DEFAULT_START + number * ROUND)[:15].encode()
        fill = {b"tag": tag, b"round": b"%04x" % number, b"time": prefix}
        place, chains, agents, tasks = self._catalogue.place, self._chains, self._agents, Counter[tuple[str, bytes]]()
        records: dict[TopicPartition, list[Wire]] = {}
        left = most
        for event_type, key_form, body, time_us, is_agents in self._forms:
            if number and event_type in _ONCE:
                continue
            if not left:
                break
            left -= 1
            self.by_type[event_type] += 1
            key = key_form % fill
            where = place(event_type, key)
            chain = chains.get(where)
            if chain is None:
                chain = chains[where] = Chain(sha256(str(where).encode()).hexdigest()[:32])
            numbers, name = agents if is_agents else tasks, (where.topic, key)
            numbers[name] += 1
            value = chain.link(body % fill, numbers[name])
            records.setdefault(where, []).append(Wire(key, value, time_us + shift_us))
        return records


def batch_of(partition: TopicPartition, some: Sequence[Wire], base: int) -> Batch:
    """Records as the log gives them."""
    return Batch(
        *partition,
        offsets=range(base, base + len(some)),
        keys=[one.key for one in some],
        values=[one.value for one in some],
        timestamps_ms=[one.time_us // 1_000 for one in some],
        headers=None,
    )


class Meta(msgspec.Struct):
    """What is in the folder, and how fast it was put there."""

    version: int
    fold_id: str
    count: int
    agents: int
    records: dict[str, int]
    tail: int
    first_us: int
    last_us: int
    write_s: float
    seal_s: float
    sealed: int


def prepared(folder: Path, count: int, agents: int) -> Meta:
    """Two archives, ``full`` and ``half``, below the folder; made when they are not there, or are of another version."""
    told = folder / "meta.json"
    try:
        meta = msgspec.json.decode(told.read_bytes(), type=Meta)
    except (FileNotFoundError, msgspec.MsgspecError):
        meta = None
    if meta is None or (meta.version, meta.fold_id, meta.count, meta.agents) != (VERSION, FOLD_ID, count, agents):
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        meta = asyncio.run(_write(folder, count, agents))
        told.write_bytes(msgspec.json.encode(meta))
    return meta


async def _write(folder: Path, count: int, agents: int) -> Meta:
    """Everything goes the way of a real archive: judged and flushed by its follower, sealed by its keeper."""
    history, written, sealed = History(count, CATALOGUE, agents), Counter[TopicPartition](), 0
    half, full = count // 2, count - count * TAIL_PERCENT // 100
    write_s = seal_s = 0.0
    done, first_us, last_us, was_halved = 0, _START_US, _START_US, False
    async with open_archive(folder / "full") as archive:
        follower = follower_of(archive)
        await follower.positions(CATALOGUE.partitions(_bases()))

        def seal() -> int:
            return sum(segment.records for segment in archive.keeper.seal_all(CATALOGUE.partitions(_bases())).values())

        for some in history.rounds():
            for stop in _cuts(done, some, (half, full)):
                begin = time.perf_counter()
                for partition, records in stop.items():
                    follower.apply(batch_of(partition, records, written[partition]))
                    written[partition] += len(records)
                    last_us = max(last_us, records[-1].time_us)
                await follower.flush()
                write_s += time.perf_counter() - begin
                done += sum(map(len, stop.values()))
                if done in (half, full):
                    begin = time.perf_counter()
                    sealed += seal()
                    seal_s += time.perf_counter() - begin
                if done >= half and not was_halved:
                    was_halved = True
                    _copied(folder / "full", folder / "half")
    per_partition = {str(partition): number for partition, number in sorted(written.items())}
    return Meta(VERSION, FOLD_ID, count, agents, per_partition, count - full, first_us, last_us, write_s, seal_s, sealed)


def _bases() -> list[str]:
    return [topic.base for topic in CATALOGUE.topics if topic.user]


def _cuts(done: int, some: Mapping[TopicPartition, list[Wire]], marks: Sequence[int]) -> Iterator[dict[TopicPartition, list[Wire]]]:
    """The round in pieces that end at the marks, each in the order of time."""
    total = sum(map(len, some.values()))
    inside = [mark - done for mark in marks if done < mark < done + total]
    if not inside:
        yield dict(some)
        return
    ordered = sorted((record.time_us, at, partition) for partition, records in some.items() for at, record in enumerate(records))
    taken: Counter[TopicPartition] = Counter()
    for start, stop in zip([0, *inside], [*inside, total], strict=True):
        sizes = Counter(partition for _, _, partition in ordered[start:stop])
        yield {partition: some[partition][taken[partition] : taken[partition] + size] for partition, size in sizes.items()}
        taken.update(sizes)


def _copied(source: Path, target: Path) -> None:
    """A copy that shares the segments, which never change."""

    def copy(one: str, other: str) -> str:
        if one.endswith(".parquet"):
            os.link(one, other)
            return other
        return str(shutil.copy2(one, other))

    shutil.copytree(source, target, copy_function=copy)
    for index in target.rglob("index.db"):  # what the other one still has in its write-ahead log comes along as such
        with contextlib.closing(sqlite3.connect(index)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def produce(bootstrap: str, catalogue: Catalogue, count: int, agents: int) -> dict[str, Any]:
    """The first records of the history, put into the topics of a broker by a raw client."""
    from confluent_kafka import Producer

    from tallyroll.events.codec import HEADERS

    history = History(count, catalogue, agents)
    producer = Producer(
        {"bootstrap.servers": bootstrap, "enable.idempotence": True, "linger.ms": 20, "compression.type": "lz4", "batch.size": 1_000_000}
    )
    headers: list[tuple[str, str | bytes | None]] = [*HEADERS]
    failed: list[object] = []
    written: Counter[str] = Counter()
    for some in history.rounds():
        for (topic, partition), records in some.items():
            for record in records:
                while True:
                    try:
                        producer.produce(
                            topic,
                            record.value,
                            record.key,
                            partition,
                            on_delivery=lambda error, _: failed.append(error) if error is not None else None,
                            timestamp=record.time_us // 1_000,
                            headers=headers,
                        )
                        break
                    except BufferError:
                        producer.poll(0.1)
            written[topic] += len(records)
        producer.poll(0)
    producer.flush()
    assert not failed, failed[:3]
    assert sum(written.values()) == count
    return dict(written)
