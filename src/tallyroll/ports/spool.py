"""Where accepted records wait while the log is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from tallyroll.events.position import TopicPartition
from tallyroll.ports.log import Encoded


class Spooled(NamedTuple):
    """One record in the spool: its number there (rising in the order of ``put``) and the record."""

    number: int
    record: Encoded


class Spool(Protocol):
    """Where accepted records wait on disk while the log is away. One process owns it; calls come from one event loop.

    Not promised: to survive the loss of the disk; to hold more than its bound.
    """

    @property
    def depth(self) -> int:
        """How many records wait, refused ones left out."""

    @property
    def refused(self) -> int:
        """How many records the log refused for good; they stay for an operator to look at."""

    def has_room(self, size_bytes: int) -> bool:
        """Whether records of that size would be taken now."""

    def lanes(self) -> Mapping[TopicPartition, int]:
        """Per partition how many records wait."""

    async def put(self, records: Sequence[Encoded]) -> Sequence[int]:
        """Their numbers; durable when it returns. Raises Backpressure: full, disk full or read-only; then none was written."""

    async def take(self, lane: TopicPartition, limit: int) -> Sequence[Spooled]:
        """The oldest records of one partition, in order. They stay until ``remove``."""

    async def remove(self, numbers: Sequence[int]) -> None:
        """They are in the log now."""

    async def refuse(self, refusals: Mapping[int, str]) -> None:
        """The log refused these for good, with the reason: they are set aside, never sent, never deleted."""

    def put_now(self, records: Sequence[Encoded], timeout_s: float) -> bool:
        """``put`` for the end of the process: blocks the calling thread; false if it could not be written in time."""

    async def close(self) -> None:
        """Closes the file; what is in it is found again by the next process."""


SpoolFactory = Callable[[], Spool]
"""Opens the spool of this process; called again in a forked child."""
