"""Records that travel together: a load on its way in, a flight once it was handed to the log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import msgspec

from tallyroll.events.topics import Topic
from tallyroll.ports import Encoded, Pending, Unknown
from tallyroll.publish.lane import Lane
from tallyroll.publish.receipt import Ticket

TAKEN: Final = -1  # a record that is being copied to the spool and has no number yet


class Body(msgspec.Struct, frozen=True, gc=False):
    """A document for one partition, without the publisher's link. ``value`` is a JSON object."""

    event_id: str
    topic: Topic
    partition: int
    key: bytes
    value: bytes


class Load:
    """Records that go the same way together, their lanes, and whose they are (ticket, first slot, count: run by run)."""

    __slots__ = ("lanes", "owners", "records", "size")

    def __init__(self) -> None:
        self.records: list[Encoded] = []
        self.lanes: list[Lane] = []
        self.owners: list[tuple[Ticket, int, int]] = []
        self.size = 0

    def each(self) -> Iterator[tuple[Encoded, Lane, Ticket, int]]:
        """Record by record."""
        index = 0
        for ticket, slot, count in self.owners:
            for offset in range(count):
                yield self.records[index], self.lanes[index], ticket, slot + offset
                index += 1

    def add(self, record: Encoded, lane: Lane, ticket: Ticket, slot: int) -> None:
        """One more record, after the others."""
        self.records.append(record)
        self.lanes.append(lane)
        self.size += len(record.value)
        owners = self.owners
        if owners and owners[-1][0] is ticket and owners[-1][1] + owners[-1][2] == slot:
            owners[-1] = (ticket, owners[-1][1], owners[-1][2] + 1)
        else:
            owners.append((ticket, slot, 1))

    def split(self) -> tuple[Load, Load]:
        """Those that go direct now, and those whose lane goes through the spool."""
        parts = Load(), Load()
        for record, lane, ticket, slot in self.each():
            parts[lane.spooling].add(record, lane, ticket, slot)
        return parts


class Flight:
    """A load on its way to the log. ``spooled`` maps an index to its number in the spool, once it was copied there."""

    __slots__ = ("load", "pending", "since", "spills", "spooled")

    def __init__(self, load: Load, pending: Pending, since: float) -> None:
        self.load = load
        self.pending = pending
        self.since = since
        self.spooled: dict[int, int] = {}
        self.spills: list[asyncio.Task[None]] = []

    def open(self, *, or_taken: bool = False) -> Iterator[int]:
        """Indexes whose outcome is not definite and that are not in the spool; ``or_taken``: nor known to be there."""
        for index, outcome in enumerate(self.pending.outcomes):
            if outcome is None or type(outcome) is Unknown:
                number = self.spooled.get(index)
                if number is None or (or_taken and number == TAKEN):
                    yield index
