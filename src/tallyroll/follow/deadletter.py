"""What a follower could not apply: kept with its original bytes and the reason, readable by any Kafka client.

A letter is a record of the topic ``dead-letters`` whose key and value are those of the original, byte for byte; all that
is known about it stands in one header, ``tallyroll-letter``, as JSON. Its id is a hash of where the original lies and of
the follower, so a crash between writing the letter and storing the position writes the same letter again.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Final

import msgspec

from tallyroll.errors import LogUnavailable
from tallyroll.events.batch import Batch, Headers
from tallyroll.events.moments import moment_at
from tallyroll.events.partition import partition_for
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.topics import DEAD_LETTER_TOPIC, Catalogue
from tallyroll.ports import Clock, DeadLetter, Delivered, Encoded, EventLog, Span
from tallyroll.telemetry import DEAD_LETTERS, Telemetry
from tallyroll.waiting import within

HEADER: Final = "tallyroll-letter"
_CONFIRMED_S: Final = 10.0  # the log may have it later: then there is one copy more of a letter with the same id


class LetterInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the header says. Times are microseconds since 1970; ``headers`` are the original ones, values in base64."""

    id: str
    follower: str
    reason: str
    error: str
    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    attempts: int
    first_us: int
    last_us: int
    version: str
    headers: list[tuple[str, str | None]] = []
    key_is_null: bool = False
    value_is_null: bool = False


class Letter(msgspec.Struct, frozen=True):
    """One dead letter as read back: what is known of it, and the original key, value and headers."""

    info: LetterInfo
    key: bytes | None
    value: bytes | None

    @property
    def position(self) -> Position:
        """Where the original lies."""
        return Position(self.info.topic, self.info.partition, self.info.offset)

    @property
    def last_at(self) -> datetime:
        """When it was last tried."""
        return moment_at(self.info.last_us)

    def batch(self) -> Batch:
        """The original record, as it was read, alone in a batch."""
        headers: Headers = [(name, None if value is None else base64.b64decode(value)) for name, value in self.info.headers]
        return Batch(
            self.info.topic,
            self.info.partition,
            offsets=[self.info.offset],
            keys=[self.key],
            values=[self.value],
            timestamps_ms=[self.info.timestamp_ms],
            headers=[headers],
        )


def letter_id(position: Position, follower: str) -> str:
    """The id of the letter for one record and one follower: always the same."""
    return sha256(f"{position}\n{follower}".encode()).hexdigest()[:32]


class DeadLetters:
    """Writes letters; one per process is enough.

    Durability: when ``write`` returns, all of them are in the log. Idempotent by id. Not promised: room for a record that
    is itself as large as the log allows; its letter then holds the reason and the position without the bytes.
    """

    def __init__(self, log: EventLog, catalogue: Catalogue, *, clock: Clock, telemetry: Telemetry, max_record_bytes: int) -> None:
        self._log = log
        self._topic = catalogue[DEAD_LETTER_TOPIC]
        self._clock = clock
        self._telemetry = telemetry
        self._max_record_bytes = max_record_bytes

    async def write(
        self, follower: str, batch: Batch, letters: Sequence[DeadLetter], *, attempts: int = 1, first_us: int | None = None
    ) -> None:
        """Appends one letter per record. Raises LogUnavailable (try again) when the log did not confirm all of them in time."""
        if not letters:
            return
        now_us = self._clock.now_us()
        records = [self._encode(follower, batch, letter, attempts, first_us or now_us, now_us) for letter in letters]
        try:
            outcomes = await within(self._clock, _CONFIRMED_S, self._log.append(records).settled())
        except TimeoutError:
            raise LogUnavailable("dead letters", f"not confirmed by the log in {_CONFIRMED_S:.0f} s") from None
        if not all(isinstance(outcome, Delivered) for outcome in outcomes):
            raise LogUnavailable("dead letters", "not confirmed by the log")
        for letter in letters:
            self._telemetry.count(DEAD_LETTERS, follower=follower, reason=letter.reason)

    def _encode(  # noqa: PLR0913  # one per thing a letter tells
        self, follower: str, batch: Batch, letter: DeadLetter, attempts: int, first_us: int, now_us: int
    ) -> Encoded:
        index = letter.index
        key, value = batch.keys[index], batch.values[index]
        position = batch.position(index)
        identity = letter_id(position, follower)
        headers = [(name, None if item is None else base64.b64encode(item).decode()) for name, item in batch.headers(index)]
        info = LetterInfo(
            identity, follower, letter.reason, letter.error, position.topic, position.partition, position.offset,
            batch.timestamps_ms[index], attempts, first_us, now_us, version("tallyroll"), headers,
            key_is_null=key is None, value_is_null=value is None,
        )  # fmt: skip
        header = msgspec.json.encode(info)
        if len(value or b"") + len(key or b"") + len(header) > self._max_record_bytes:
            value = b""
            header = msgspec.json.encode(msgspec.structs.replace(info, reason=f"{info.reason},bytes_left_in_source", headers=[]))
        partition = partition_for(key or identity.encode(), self._topic.partitions)
        return Encoded(identity, self._topic.name, partition, key or b"", value or b"", [(HEADER, header)], now_us // 1_000)


async def read_letters(log: EventLog, catalogue: Catalogue, *, follower: str | None = None) -> AsyncIterator[Letter]:
    """Every letter still kept, each id once (its newest copy is not preferred: they are alike), in order per partition."""
    topic = catalogue[DEAD_LETTER_TOPIC].name
    starts, ends = await log.starts([topic]), await log.ends([topic])
    spans = [Span(*partition, starts[partition], end) for partition, end in ends.items()]
    seen: set[str] = set()
    async for batch in log.read(spans):
        for index in range(len(batch)):
            letter = _decode(batch, index)
            if letter is not None and letter.info.id not in seen and follower in (None, letter.info.follower):
                seen.add(letter.info.id)
                yield letter


def _decode(batch: Batch, index: int) -> Letter | None:
    for name, header in batch.headers(index):
        if name == HEADER and header is not None:
            try:
                info = msgspec.json.decode(header, type=LetterInfo)
            except (msgspec.DecodeError, ValueError):
                return None  # not written by us
            key = None if info.key_is_null else batch.keys[index]
            value = None if info.value_is_null else batch.values[index]
            return Letter(info, key, value)
    return None


def count_by_reason(letters: Sequence[Letter]) -> Mapping[tuple[str, str], int]:
    """How many letters per follower and reason."""
    counts: dict[tuple[str, str], int] = {}
    for letter in letters:
        where = (letter.info.follower, letter.info.reason)
        counts[where] = counts.get(where, 0) + 1
    return counts


def partitions_of(letters: Sequence[Letter]) -> set[TopicPartition]:
    """The partitions that the letters came from."""
    return {letter.position.topic_partition for letter in letters}
