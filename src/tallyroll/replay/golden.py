"""Golden histories: recorded events, and the states that they must come to for ever.

A file of JSON lines. The first says per view its version, how many owners there are and the hash of their states; every
other line is one raw record: ``topic`` (base name), ``partition``, and ``value`` (text) or ``base64``. A changed hash
without a new version of the view is a change of the past.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from tallyroll.errors import InvalidEvent
from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue, TopicOverride
from tallyroll.ports import Clock, Span
from tallyroll.replay.fold import Fold, states_hash
from tallyroll.replay.plan import AsOfOffsets, ReplayMode
from tallyroll.replay.policy import Policy
from tallyroll.replay.replayer import Ask, Replayer
from tallyroll.replay.views import FOLD

Log = Mapping[TopicPartition, Sequence[bytes | None]]


class Expected(TypedDict):
    """What the events of a golden history come to in one view."""

    version: int
    owners: int
    hash: str


@dataclass(frozen=True, slots=True)
class Golden:
    """One golden history."""

    expected: Mapping[str, Expected]
    log: Log


def load(path: Path) -> Golden:
    """The history in a file. Raises InvalidEvent naming the line that cannot be read; OSError."""
    log: dict[TopicPartition, list[bytes | None]] = {}
    expected: dict[str, Expected] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            read: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
            if number == 1:
                expected = msgspec.convert(read, dict[str, Expected])
                continue
            value = read["value"].encode() if "value" in read else base64.b64decode(read["base64"], validate=True)
            log.setdefault(TopicPartition(read["topic"], read["partition"]), []).append(value)
        except (msgspec.MsgspecError, KeyError, ValueError, AttributeError, TypeError):
            raise InvalidEvent(f"{path.name}:{number}", "no line of a golden history") from None
    return Golden(expected, log)


def dump(golden: Golden) -> bytes:
    """The history as a file."""
    lines = [msgspec.json.encode(golden.expected)]
    for (topic, partition), values in golden.log.items():
        lines += [msgspec.json.encode({"topic": topic, "partition": partition, **_content(value or b"")}) for value in values]
    return b"\n".join(lines) + b"\n"


async def outcome(log: Log, *, clock: Clock, fold: Fold = FOLD) -> dict[str, Expected]:
    """What the events come to in each view, folded in full and up to the offsets read. Both must agree, else ValueError."""
    recorded, result = RecordedLog(log), {}
    replayer = Replayer(recorded, _catalogue(log), clock=clock, fold=fold)  # type: ignore[arg-type]  # the reading half is all a replay uses
    lenient = Policy(dict.fromkeys(Policy().actions, "accept"))
    for view in fold.views:
        full = await replayer.replay(Ask(view, policy=lenient))
        again = await replayer.replay(
            Ask(view, mode=ReplayMode.POINT_IN_TIME, target=AsOfOffsets(full.as_of), validate="chain", policy=lenient)
        )
        if states_hash(full.states) != states_hash(again.states):
            raise ValueError(f"{view.name}: two ways to replay the same events disagree")
        result[view.name] = Expected(version=view.version, owners=len(full.states), hash=states_hash(full.states))
    return result


async def differences(golden: Golden, *, clock: Clock, fold: Fold = FOLD) -> list[str]:
    """What no longer comes out as recorded, a line per view; empty if all is well. Views the file does not name are not judged."""
    found = await outcome(golden.log, clock=clock, fold=fold)
    wrong = []
    for name, expected in golden.expected.items():
        got = found.get(name)
        if got is None:
            wrong.append(f"{name}: there is no such view any more")
        elif got != expected:
            raised = " under the same version of the view" if got["version"] == expected["version"] else ""
            wrong.append(
                f"{name}: {expected['owners']} owners as {expected['hash'][:12]} became {got['owners']} as {got['hash'][:12]}{raised}"
            )
    return wrong


class RecordedLog:
    """The reading half of ``ports.EventLog`` over records in memory, each partition from offset 0."""

    def __init__(self, log: Log) -> None:
        self._log = log

    async def ends(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """How many records each partition has."""
        return {partition: len(values) for partition, values in self._log.items() if partition.topic in topics}

    async def starts(self, topics: Sequence[str]) -> dict[TopicPartition, int]:
        """0 everywhere."""
        return {partition: 0 for partition in self._log if partition.topic in topics}

    async def read(self, spans: Sequence[Span], *, max_records: int = 500) -> AsyncIterator[Batch]:
        """The records of the spans."""
        for span in spans:
            values = self._log[TopicPartition(span.topic, span.partition)]
            for start in range(span.start, span.end, max_records):
                some = values[start : min(start + max_records, span.end)]
                offsets = range(start, start + len(some))
                nothing: list[bytes | None] = [None] * len(some)
                yield Batch(span.topic, span.partition, offsets=offsets, keys=nothing, values=some, timestamps_ms=[-1] * len(some))


def _catalogue(log: Log) -> Catalogue:
    counts: dict[str, int] = {}
    for topic, partition in log:
        counts[topic] = max(counts.get(topic, 1), partition + 1)
    return Catalogue(overrides={topic: TopicOverride(partitions=count) for topic, count in counts.items()})


def _content(value: bytes) -> dict[str, str]:
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
