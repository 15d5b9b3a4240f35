"""The demo's counter-check: a copy of the log in which one digit of one record differs."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.errors import Undecodable
from tallyroll.events.batch import Batch
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.types import TASK_TOPIC
from tallyroll.ports import Delivered, Encoded, Span
from tallyroll.roll import Roll

_FACT: Final = re.compile(rb'"duration_ms":\d*(\d)')


class Forgery(NamedTuple):
    """Which record was changed, and what it said before and says now."""

    position: Position
    before: str
    after: str


async def forge_copy(source: Roll, target: Roll) -> Forgery:
    """Copies every record of the user topics into the empty log of ``target``, one of them altered; says which.

    Altered is a record in the middle of the fullest partition of tasks: the newest one of a session has no successor that could
    tell. Raises CommandError if no record says how long something took.
    """
    topics = [topic.name for topic in source.catalogue.topics if topic.user]
    ends = await source.log.ends(topics)
    telling = source.catalogue[TASK_TOPIC].name  # by night another topic may be the fullest, with heartbeats only
    fullest = max((partition for partition in ends if partition.topic == telling), key=lambda partition: ends[partition])
    forgery: Forgery | None = None
    async for batch in source.log.read([Span(*partition, 0, end) for partition, end in ends.items()]):
        records = _records(batch)
        if forgery is None and batch.topic_partition == fullest:
            forgery = _alter(batch, records, ends[fullest])
        outcomes = await target.log.append(records).settled()
        if not all(isinstance(outcome, Delivered) for outcome in outcomes):
            raise CommandError(ExitCode.UNAVAILABLE, "the log could not be copied", "check the free space of the temporary folder")
    if forgery is None:
        raise CommandError(ExitCode.FINDINGS, "no record to alter was found", "let the fleet work longer with --seconds")
    return forgery


def _records(batch: Batch) -> list[Encoded]:
    return [
        Encoded(
            "" if isinstance(head, Undecodable) else head.id,
            batch.topic,
            batch.partition,
            batch.keys[index] or b"",
            batch.values[index] or b"",
            [(name, value or b"") for name, value in batch.headers(index)],
            batch.timestamps_ms[index],
        )
        for index, head in enumerate(batch.heads())
    ]


def _alter(batch: Batch, records: list[Encoded], end: int) -> Forgery | None:
    """Changes one digit of one record behind the partition's middle; None if there is none in this batch."""
    for index, record in enumerate(records):
        found = _FACT.search(record.value)
        if found is None or not end // 2 <= batch.offsets[index] < end - 1:
            continue
        place = found.start(1)
        digit = b"%d" % ((int(found[1]) + 1) % 10)
        value = record.value[:place] + digit + record.value[place + 1 :]
        records[index] = Encoded(record.event_id, record.topic, record.partition, record.key, value, record.headers, record.timestamp_ms)
        forged = _FACT.search(value)
        assert forged is not None  # noqa: S101  # a digit took the place of a digit
        return Forgery(Position(*TopicPartition(batch.topic, batch.partition), batch.offsets[index]), found[0].decode(), forged[0].decode())
    return None
