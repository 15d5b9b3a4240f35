"""Where the state follower keeps its parts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from tallyroll.events.position import TopicPartition


class Progress(NamedTuple):
    """How far the stored parts of one partition go: made by ``fold_id`` of the offsets ``first`` to ``next`` (exclusive).

    ``repeats`` is what tells the partition's records from their repeats, as of ``next``; empty where it was not asked for.
    """

    fold_id: str
    first: int
    next: int
    repeats: bytes = b""


class PartitionWrite(NamedTuple):
    """What one flush writes of one partition: changed parts as ``(view, owner, part)``, and how far they go.

    ``expected`` is the ``next`` that the writer has built upon, None if there was no progress under its ``fold_id``.
    """

    partition: TopicPartition
    expected: int | None
    progress: Progress
    parts: Sequence[tuple[str, str, bytes]]


class OwnerParts(NamedTuple):
    """One owner's parts per partition, and how far every partition of the store goes; both of the same moment."""

    progress: Mapping[TopicPartition, Progress]
    parts: Mapping[TopicPartition, bytes]


class StateStore(Protocol):
    """Where the state follower keeps its parts, together with the position they belong to.

    Parts are opaque bytes; their key is (view, owner, partition). Several processes may share a store, each writing the
    partitions it holds; who writes without holding gets PositionConflict. Every method raises StoreUnavailable when the
    store cannot be reached; then nothing was written, and trying again is safe.
    Not promised: that results survive a crash of the machine right after ``commit``. Parts and progress go back together
    then, and the follower reads the difference from the log again.
    """

    async def load_progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, Progress]:
        """How far the store is, with ``repeats``; partitions never written are left out. None asks for all of them."""

    def load_parts(self, partition: TopicPartition, view: str, owners: Sequence[str]) -> Mapping[str, bytes]:
        """Parts of many owners in one partition, whatever fold made them; owners without one are left out.

        Blocks the calling thread: a follower needs it while it applies. The one method that is not awaited.
        """

    async def parts_of(self, fold_id: str, view: str, owner: str) -> OwnerParts:
        """Everything the fold has stored of one owner; partitions built by another fold are left out."""

    async def owners(self, fold_id: str, view: str, *, after: str = "", limit: int = 100) -> Sequence[str]:
        """Owners in ascending order of their text (by code point), those behind ``after``, at most ``limit``."""

    async def commit(self, writes: Sequence[PartitionWrite]) -> None:
        """Writes parts and progress of all partitions in one transaction, or nothing.

        The first write of another fold removes what the earlier one stored for that partition. Raises PositionConflict
        when a partition's stored progress is not the expected one.
        """

    def at_one_moment(self) -> AbstractAsyncContextManager[StateStore]:
        """The store as it is now, to be read whatever is committed meanwhile. For short: it may keep the store from tidying up.

        Who writes to it gets StoreUnavailable.
        """

    async def close(self) -> None:
        """Waits for what is running, then closes the store."""
