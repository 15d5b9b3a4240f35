"""One partition's way into the log: its chain, its sequences, and whether it goes direct or through the spool."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tallyroll.events.chain import Chain
from tallyroll.events.position import Position, TopicPartition

_MAX_SEQUENCES: Final = 16_384  # aggregates remembered per lane; past it every count begins a new run at 1


class Lane:
    """The state of one partition. A new event must not pass an old one, so the way changes only when nothing is under way."""

    __slots__ = (
        "_new_session",
        "_sequences",
        "chain",
        "drain",
        "in_flight",
        "last",
        "oldest_open",
        "oldest_since",
        "puts",
        "spooling",
        "target",
        "write_ahead",
    )

    def __init__(self, target: TopicPartition, *, write_ahead: bool, new_session: Callable[[], str]) -> None:
        self.target = target
        self.write_ahead = write_ahead
        self.spooling = write_ahead
        self.chain = Chain(new_session())
        self.in_flight = 0
        self.last: Position | None = None
        self.puts = 0
        self.drain: asyncio.Task[None] | None = None
        self.oldest_open: object | None = None
        self.oldest_since = 0.0
        self._new_session = new_session
        self._sequences: dict[bytes, int] = {}

    def link(self, key: bytes, body: bytes) -> bytes:
        """The final bytes of the next record of this lane."""
        sequences = self._sequences
        sequence = sequences.get(key, 0) + 1
        if sequence == 1 and len(sequences) >= _MAX_SEQUENCES:
            sequences.clear()
        sequences[key] = sequence
        return self.chain.link(body, sequence)

    def void(self, session: str, number: int) -> None:
        """A numbered record was refused: the chain goes on in a new session that names it."""
        self.chain.void(session, number, self._new_session())

    def stalled(self, oldest_open: object | None, now: float, stall_s: float) -> bool:
        """Whether the same record has been the oldest open one for so long: a partition reports in order, so nothing moved."""
        if oldest_open is None:
            self.oldest_open = None
            return False
        if oldest_open is not self.oldest_open:
            self.oldest_open = oldest_open
            self.oldest_since = now
            return False
        return now - self.oldest_since >= stall_s
