"""What the registry says to those who write the ledger: who may, which partition has which number, what is announced.

Pure; whoever reads the registry folds its records in order. What it says of bodies that are gone is ``standing``'s part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec

from tallyroll.audit.ledger.layout import Kind
from tallyroll.audit.ledger.stored import record_in, steering
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import LedgerRow

FIRST_NUMBER: Final = 1_024
"""From here on other topics' partitions are numbered; the numbers below are those of the partitions of ``audit-events``."""

_read: Final = msgspec.json.Decoder(dict[str, Any]).decode

ChainKey = tuple[bytes, int]
"""Writer and epoch."""


class Contradiction(Exception):
    """A record says something else than an earlier one: who wrote it did not know of that."""


class Admission(NamedTuple):
    """A writer epoch that may write: when it began, how often it says that it is there, and what its first MAC key hashes to."""

    commitment: bytes
    opened_us: int
    heartbeat_s: int


class Numbered(NamedTuple):
    """Partitions ``first`` on of a topic, so many of them, and the number of the first."""

    topic: str
    first: int
    partitions: int
    number: int


@dataclass
class Registry:
    """All of it. ``ended`` are writer epochs of which nothing more comes, with the last number of each of their chains."""

    size: int = 0
    admitted: dict[ChainKey, Admission] = field(default_factory=dict)
    numbers: dict[TopicPartition, int] = field(default_factory=dict)
    rule_sets: set[str] = field(default_factory=set)
    vkeys: set[str] = field(default_factory=set)
    ended: dict[ChainKey, dict[int, int]] = field(default_factory=dict)
    cut: set[tuple[int, bytes, int]] = field(default_factory=set)
    """Chains (partition, writer, epoch) of which a record says that their end is not known."""

    def read(self, rows: Iterable[LedgerRow]) -> None:
        """Takes in the next records. Raises Contradiction, LedgerTampered."""
        for row in rows:
            record, core = record_in(row)
            if record.env is not None:
                with steering(row):
                    self.learn(core.kind, record.env, (core.chain.writer, core.chain.epoch), core.seq)
            self.size = row.number + 1

    def learn(self, kind: int, env: bytes, chain: ChainKey, seq: int) -> None:
        """Takes in one record of a chain. Raises Contradiction."""
        if kind == Kind.KEY:
            self._key(_read(env))
        elif kind == Kind.GAP:
            gap = _read(env)["gap"]
            if gap["end"] is None:
                self.cut.add((gap["partition"], bytes.fromhex(gap["writer"]), gap["epoch"]))
        elif kind == Kind.CLOSE:
            self.ended[chain] = {partition: newest for partition, newest, _ in _read(env).get("heads", ())}
        elif kind == Kind.GENESIS and seq == 0 and (before := _read(env)["previous"]) is not None:
            self.ended[chain[0], before["epoch"]] = {partition: newest for partition, newest, _ in before["heads"]}

    def unnumbered(self, topics: Sequence[tuple[str, int]]) -> list[Numbered]:
        """The partitions of these topics that have no number yet, with one; the same for whoever asks."""
        following = max((number + 1 for number in self.numbers.values()), default=FIRST_NUMBER)
        found = []
        for topic, partitions in topics:
            first = sum(1 for known in self.numbers if known.topic == topic)
            if first < partitions:
                found.append(Numbered(topic, first, partitions - first, following))
                following += partitions - first
        return found

    def _key(self, said: dict[str, Any]) -> None:
        what = said["key"]
        if what == "writer":
            chain = bytes.fromhex(said["writer"]), said["epoch"]
            admission = Admission(bytes.fromhex(said["commitment"]), said["opened_us"], said["heartbeat_s"])
            if self.admitted.setdefault(chain, admission) != admission:
                raise Contradiction("a writer epoch is admitted twice")
        elif what == "topic":
            places = [TopicPartition(said["topic"], said["first"] + at) for at in range(said["partitions"])]
            numbers = {place: said["partition"] + at for at, place in enumerate(places)}
            taken = {number: place for place, number in self.numbers.items()}
            for place, number in numbers.items():
                if taken.get(number, place) != place or self.numbers.get(place, number) != number:
                    raise Contradiction("two partitions of topics got one number, or one got two")
            self.numbers.update(numbers)
        elif what == "rule_set":
            self.rule_sets.add(said["version"])
        elif what == "checkpoint":
            self.vkeys.add(said["vkey"])


def partition_counts(catalogue: Catalogue, partitions: Sequence[TopicPartition]) -> list[tuple[str, int]]:
    """How many partitions each topic has that is numbered by the registry; those that are there may be more than were planned."""
    counts = {topic.name: topic.partitions for topic in catalogue.topics if topic.user}
    for partition in partitions:
        if partition.topic in counts:
            counts[partition.topic] = max(counts[partition.topic], partition.partition + 1)
    return list(counts.items())
