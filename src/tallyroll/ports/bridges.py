"""Where states and messages go for others, where messages come from, and what is still to be published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from tallyroll.events.position import TopicPartition
from tallyroll.ports.state import Progress


class Claim(NamedTuple):
    """The right to write one partition's parts into a target: ``next`` is the stored one (None: nothing), ``token`` the proof.

    Without a token it claims no right, only that the target stands at ``next`` under that fold.
    """

    partition: TopicPartition
    fold_id: str
    next: int | None
    token: str = ""


PartAt = tuple[TopicPartition, str]
"""Which part a target has: of which partition, and of which owner."""


class Merged(NamedTuple):
    """What the target has of one owner after a write: its parts per partition, and the counter of their changes."""

    change: int
    parts: Mapping[TopicPartition, bytes]


ViewWrite = tuple[str, int, bytes]
"""A view to be written: the owner, the counter of its changes that it was made at, and the JSON."""


class ViewsWritten(NamedTuple):
    """What became of views: ``written`` are new, ``foreign`` ones were left alone, for somebody else owns the key.

    Those that were the same already, or that another writer has fresher parts for, are in neither.
    """

    written: int
    foreign: int


class StateTarget(Protocol):
    """Where a bridge keeps states for others to read: parts, and the joined view of each owner, with the position they belong to.

    ``owner`` is ``view:id``. One writer per partition, fenced by its claim; several writers share an owner, each with parts of
    its own partitions. The order of a flush is ``write_parts``, ``write_views``, ``commit``: after a crash in between, the same
    records come again and everything comes out the same. Every method raises StoreUnavailable; what was written then is
    unknown, and doing all of it again is safe. PositionConflict: the claim does not hold (any more); ask for ``progress``.
    Not promised: that anything is kept. A target may be wiped or go back at any time; a writer finds out by ``check``.
    """

    async def progress(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, Progress]:
        """How far the views go, whatever fold made them; partitions of which nothing is there are left out."""

    async def acquire(self, claims: Sequence[Claim]) -> Sequence[Claim]:
        """The claims, each with a token of its own; every earlier token of these partitions is void from now on.

        Raises PositionConflict when the target is not at some ``claim.next``; then none was given. Parts of another fold
        count as nothing.
        """

    async def check(self, claims: Sequence[Claim]) -> None:
        """Raises PositionConflict when one of the claims does not hold."""

    async def parts(self, fold_id: str, wanted: Sequence[PartAt]) -> Mapping[PartAt, tuple[int, bytes]]:
        """The fold's parts, each with the offset it goes up to; those that there are not are left out."""

    async def write_parts(
        self, claims: Sequence[tuple[Claim, int]], parts: Mapping[str, Mapping[TopicPartition, bytes]]
    ) -> Mapping[str, Merged]:
        """Writes parts by owner and partition, except where the stored one goes as far; gives what there is of each owner then.

        Each claim comes with the offset up to which its parts go; there is one for every partition. Nothing is written
        unless all of them hold.
        """

    async def write_views(self, views: Sequence[ViewWrite], fold_id: str) -> ViewsWritten:
        """Writes views: each only if its parts have not changed since, and the key is ours.

        Whoever listens is told of each that is new.
        """

    async def commit(
        self, ended: Sequence[tuple[Claim, Progress]], views: Sequence[ViewWrite] = ()
    ) -> tuple[Sequence[Claim], ViewsWritten]:
        """Stores how far the views go, of all partitions or of none; gives the claims to go on with.

        ``views`` are written before that, as by ``write_views``, unless some claim does not hold: the last ones of a flush.
        """

    async def close(self) -> None:
        """Ends the connections. Safe to call twice."""


class Message(NamedTuple):
    """One message for others: where it goes, what it says, and the id by which whoever keeps it drops repeats."""

    id: str
    subject: str
    body: bytes
    headers: Mapping[str, str]


class MessageTarget(Protocol):
    """Where a bridge sends messages: subjects to which others listen.

    Not promised: that a message comes once. What was not acknowledged comes again with the same id; nor that anybody listens.
    """

    async def check(self, subject: str) -> None:
        """Raises SettingsError when messages to such a subject would not be kept as promised; StoreUnavailable."""

    async def send(self, messages: Sequence[Message]) -> Sequence[bool]:
        """Sends them, those of one subject in order and one at a time; says of each whether it was acknowledged.

        After the first failure no more are sent, and what is outstanding is waited for. Raises StoreUnavailable when nothing was
        sent; SettingsError for a message that will never be taken.
        """

    async def close(self) -> None:
        """Ends the connection. Safe to call twice."""


class Received(NamedTuple):
    """A message of others: where it lies in its source, its id (the place, if it brings none), what it says."""

    place: str
    id: str
    body: bytes
    headers: Mapping[str, str]


class MessageSource(Protocol):
    """Where messages are taken from. What is received and not settled comes again, perhaps to another process.

    Raises StoreUnavailable from every method; then what was received and not settled comes again.
    Not promised: that a message comes once, or order where one comes again.
    """

    async def receive(self, most: int, wait_s: float) -> Sequence[Received]:
        """What has arrived, at most so many; empty after the time. Settle them before the next call."""

    async def settle(self, taken: Sequence[Received], dropped: Sequence[Received]) -> None:
        """These need not come again: taken in, or never to be. Those in neither come again."""

    async def close(self) -> None:
        """Ends the connection. Safe to call twice."""


class OutboxRow(NamedTuple):
    """Something to be published: that it was asked for (``request``), and, once it is known, the ``event``; both opaque.

    ``since_us`` is when it was written, ``until_us`` up to when nobody but who wrote or leased it may act; µs since 1970.
    """

    id: str
    since_us: int
    until_us: int
    request: bytes
    event: bytes | None = None

    def __repr__(self) -> str:
        """Without the request and the event."""
        return f"OutboxRow({self.id}, {'intent' if self.event is None else 'ready'})"


class Outbox(Protocol):
    """Where it is written down what will have to be published, before it is done and until the log has it.

    Several processes share one; each change is atomic. Durable when a method returns, as far as the store keeps anything.
    Every method raises StoreUnavailable; then what became of the row is unknown.
    Not promised: that one process alone publishes a row; who was frozen past its time goes on when it wakes. Events
    therefore have ids that follow from what they tell.
    """

    async def put(self, row: OutboxRow) -> None:
        """Stores a new row."""

    async def ready(self, row_id: str, event: bytes, until_us: int) -> bool:
        """Adds the event to a row that has none, and moves its time; false if the row is gone, or somebody was quicker."""

    async def lease(self, row: OutboxRow, until_us: int) -> bool:
        """Moves the time of a row that is still as it was read; false if it is not."""

    async def rows(self, limit: int = 1_000) -> Sequence[OutboxRow]:
        """The rows, oldest first."""

    async def remove(self, row_id: str) -> None:
        """Forgets a row; one that is not there is no error."""

    async def close(self) -> None:
        """Ends the connections. Safe to call twice."""
