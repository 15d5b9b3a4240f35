"""What happened in a test, entry by entry: what senders tried, what the log answered, what readers saw.

A history is kept as JSON lines, so that one written by several processes, or in another run, can be checked later.
The order of entries is the order in which they were observed; entries of one process are in its own order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from tallyroll.ports import Delivered, Outcome, Rejected


class Invoke(msgspec.Struct, frozen=True, tag="invoke", tag_field="type", omit_defaults=True):
    """A sender hands an event over. ``transaction`` names the one it belongs to."""

    process: str
    id: str
    key: str
    transaction: str | None = None


class Ok(msgspec.Struct, frozen=True, tag="ok", tag_field="type"):
    """The log acknowledged the event at this place."""

    id: str
    partition: str
    offset: int


class Fail(msgspec.Struct, frozen=True, tag="fail", tag_field="type"):
    """The event is not in the log and never will be."""

    id: str


class Info(msgspec.Struct, frozen=True, tag="info", tag_field="type"):
    """Nobody knows: the event may be in the log, now or later."""

    id: str


class Read(NamedTuple):
    """One record as a reader saw it."""

    partition: str
    offset: int
    id: str


class Poll(msgspec.Struct, frozen=True, tag="poll", tag_field="type"):
    """What one poll of a reader gave, in order."""

    process: str
    records: list[Read]


class Assign(msgspec.Struct, frozen=True, tag="assign", tag_field="type"):
    """The reader was given these partitions, or moved in them: what it reads of them next may start anywhere."""

    process: str
    partitions: list[str]


class End(msgspec.Struct, frozen=True, tag="end", tag_field="type"):
    """A transaction ended."""

    transaction: str
    committed: bool


Entry = Invoke | Ok | Fail | Info | Poll | Assign | End

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Entry).decode


def outcome_entry(event_id: str, outcome: Outcome) -> Entry:
    """The entry for an outcome of ``publish_batch`` or ``append``."""
    if isinstance(outcome, Delivered):
        return Ok(event_id, str(outcome.position.topic_partition), outcome.position.offset)
    return Fail(event_id) if isinstance(outcome, Rejected) else Info(event_id)


def dump(entries: Iterable[Entry]) -> bytes:
    """The entries as JSON lines."""
    return b"".join(_encode(entry) + b"\n" for entry in entries)


def load(lines: bytes) -> list[Entry]:
    """The entries that ``dump`` wrote; a last line that was cut off by the death of its process is left out.

    Raises ValueError for any other line that is no entry.
    """
    return list(_entries(lines.split(b"\n")))


def _entries(lines: Sequence[bytes]) -> Iterator[Entry]:
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                yield _decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError):
                if number < len(lines):  # the last one has no line end: its writer died
                    raise ValueError(f"line {number} is no entry of a history") from None
