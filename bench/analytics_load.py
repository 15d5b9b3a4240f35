"""Records for the analytics benchmark: those of a simulated fleet, again and again, with ids, sessions and times of their own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from bench.workload import Wire, wire
from tallyroll.events.batch import Batch
from tallyroll.events.event import iso
from tallyroll.events.ids import new_id
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.simulate import Fleet

DISTINCT: Final = 50_000
BATCH: Final = 500
START: Final = datetime(2026, 1, 5, 0, tzinfo=UTC)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ENCODE: Final = msgspec.json.Encoder().encode
_DECODE: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Load:
    """Rounds over the same events of one fleet; each round is later by its length, or by ``round_s`` seconds.

    ``agents``: of the fleet. ``distinct``: events of a round. Equal for equal arguments, but for the ids.
    """

    def __init__(self, catalogue: Catalogue, agents: int, *, distinct: int = DISTINCT, round_s: float | None = None) -> None:
        made = list(Fleet(seed=7, agents=agents, start=START).run(events=distinct))
        self._wires = wire(catalogue, made)
        self._members = [_DECODE(one.value) for one in self._wires]
        length_s = (made[-1].timestamp - START).total_seconds() + 1
        scale = 1.0 if round_s is None else round_s / length_s
        self._after_us = [round((event.timestamp - START).total_seconds() * scale * 1e6) for event in made]
        self.round_us = round(length_s * scale * 1e6)

    def records(self, count: int, *, late_every: int = 0, start: datetime = START, session: int = 0) -> Iterator[Wire]:
        """So many records. With ``late_every``, each so many-th is a minute and a half late. ``session``: the number of its first one."""
        number = turn = 0
        while number < count:
            for at, members in enumerate(self._members[: count - number]):
                number += 1
                moment = start + timedelta(microseconds=turn * self.round_us + self._after_us[at])
                if late_every and number % late_every == 0:
                    moment -= timedelta(seconds=90)
                yield self._wires[at]._replace(value=self._value(members, new_id(), session + turn, moment))
            turn += 1

    def live(self, number: int, now: datetime, run: str) -> Wire:
        """A record that happens now: the so many-th of a run, whose ``run`` names its sessions."""
        turn, place = divmod(number, len(self._members))
        fresh = {"id": _raw(new_id()), "time": _raw(iso(now)), "chainsession": _raw(f"{run}{turn:06x}")}
        return self._wires[place]._replace(value=_ENCODE({**self._members[place], **fresh}))

    def _value(self, members: dict[str, msgspec.Raw], event_id: str, turn: int, moment: datetime) -> bytes:
        fresh = {"id": _raw(event_id), "time": _raw(iso(moment)), "chainsession": _raw(f"{turn:032x}")}
        return _ENCODE({**members, **fresh})


def batches(records: Iterator[Wire], heads: dict[TopicPartition, int] | None = None) -> Iterator[Batch]:
    """Records as a log hands them over: five hundred of one partition at a time. ``heads``: how far the partitions go, and went."""
    waiting: dict[TopicPartition, list[Wire]] = {}
    heads = {} if heads is None else heads
    for record in records:
        place = TopicPartition(record.topic, record.partition)
        some = waiting.setdefault(place, [])
        some.append(record)
        if len(some) == BATCH:
            yield _batch(place, waiting.pop(place), heads)
    for place, some in waiting.items():
        yield _batch(place, some, heads)


def _batch(place: TopicPartition, some: Sequence[Wire], heads: dict[TopicPartition, int]) -> Batch:
    start = heads.get(place, 0)
    heads[place] = start + len(some)
    return Batch(
        *place, offsets=range(start, start + len(some)), keys=[one.key for one in some], values=[one.value for one in some],
        timestamps_ms=[-1] * len(some),
    )  # fmt: skip


def agent_of(value: bytes) -> str | None:
    """The agent of a record, for those who need it as the key."""
    event: dict[str, Any] = msgspec.json.decode(value)
    agent: str | None = event["aggregateid"] if event["aggregatetype"] == "agent" else event["data"].get("agent_id")
    return agent


def _raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(_ENCODE(text))
