"""The seams: what the features need from the outside, and what they offer to the loop.

Read this file first. An adapter moves bytes and translates errors, nothing more; whatever decides lives in a feature.
Every port says what it does not promise.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Protocol, runtime_checkable

import msgspec

from tallyroll.errors import LogError
from tallyroll.events.batch import Batch
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import Position, TopicPartition
from tallyroll.events.rows import Columns, IntColumn, Rows, TextColumn
from tallyroll.events.topics import Topic, TopicState

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Structs the garbage collector need not look at: there are many of them at a time, and they form no cycles.


class Encoded(msgspec.Struct, frozen=True, gc=False):
    """One record on its way into the log: the partition is chosen, the bytes are final, also for every re-send."""

    event_id: str
    topic: str
    partition: int
    key: bytes
    value: bytes
    headers: Sequence[tuple[str, bytes]]
    timestamp_ms: int


class Delivered(msgspec.Struct, frozen=True, gc=False):
    """The record is in the log, at this position, as durably as the log's settings promise."""

    position: Position


class Rejected(NamedTuple):
    """The record is not in the log and will not be."""

    error: LogError


class Unknown(NamedTuple):
    """The record may be in the log, now or later. ``kept``: this process goes on sending it under the same id."""

    error: LogError
    kept: bool = False


Outcome = Delivered | Rejected | Unknown


class Pending(Protocol):
    """Records handed to the log and not all settled yet."""

    @property
    def outcomes(self) -> Sequence[Outcome | None]:
        """One per record in the order given; None while it is open. Filled from another thread."""

    async def settled(self) -> Sequence[Outcome]:
        """Waits until every record has its outcome. Waits for ever if the log never answers: deadlines are the caller's."""


class Span(NamedTuple):
    """A half-open run of offsets of one partition: ``start`` is read, ``end`` is not."""

    topic: str
    partition: int
    start: int
    end: int


class AssignmentListener(Protocol):
    """Told by a subscription when partitions come and go. Each call is awaited before the group moves on."""

    async def assigned(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """Where to start reading each partition that is now ours. One left out starts at its committed offset, else its start."""

    async def revoked(self, partitions: Sequence[TopicPartition]) -> None:
        """They are still ours until this returns: flush and commit now."""

    async def lost(self, partitions: Sequence[TopicPartition]) -> None:
        """They already belong to somebody else: forget what is not flushed, commit nothing."""


class Subscription(Protocol):
    """Membership in a group that shares the partitions of some topics.

    Not promised: that a partition is never held by two members for a moment. Followers fence by position.
    """

    async def poll(self, timeout_ms: int) -> Sequence[Batch]:
        """What has arrived: at most one batch per partition, contiguous in offset order with what came before it.

        Returns early when something is there, else empty after the time-out. Rebalances happen inside. Raises
        LogUnavailable (try again), SpanGone when the wanted offset no longer exists.
        """

    def pause(self, partition: TopicPartition) -> None:
        """Stops batches of one partition; its neighbours go on. Takes effect before the next poll returns."""

    def resume(self, partition: TopicPartition) -> None:
        """Lets a paused partition go on where it stopped."""

    async def seek(self, partition: TopicPartition, offset: int) -> None:
        """The next batch of the partition starts at ``offset``."""

    async def commit(self, positions: Mapping[TopicPartition, int]) -> None:
        """Stores the next offset to read per partition in the log. A hint: what a follower stores with its results wins."""

    async def close(self) -> None:
        """Leaves the group; ``revoked`` is called first for what is held."""


class EventLog(Protocol):
    """An append-only log of partitioned topics: Apache Kafka, or SQLite on one host.

    Not promised: order between partitions; that an appended record has been seen by anybody.
    """

    @property
    def durable_spool_needed(self) -> bool:
        """Whether the log can be away while this process lives, so that a spool before it makes sense."""

    def append(self, records: Sequence[Encoded]) -> Pending:
        """Hands records over in order, without blocking; within one partition they are appended in the order of the calls.

        Durability: a Delivered record survives what the log's settings say (see the adapter). Raises Backpressure when the
        client's buffer is full; then none of these records was taken. Call it from one thread.
        """

    def read(self, spans: Sequence[Span], *, max_records: int = 500) -> AsyncIterator[Batch]:
        """Every record of the spans: per partition in offset order, partitions in any order; joins no group, commits nothing.

        Ends when each span's end is reached, also where transaction markers or compaction left holes. Raises SpanGone if
        a start no longer exists, LogUnavailable.
        """

    async def subscribe(self, group: str, topics: Sequence[str], listener: AssignmentListener, *, max_records: int = 500) -> Subscription:
        """Joins the group and shares the topics' partitions with its other members, in this and other processes."""

    async def starts(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """The first offset that still exists, per partition."""

    async def ends(self, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """One past the last readable offset, per partition."""

    async def positions_at(self, topics: Sequence[str], timestamp_ms: int) -> Mapping[TopicPartition, int]:
        """Per partition the first offset whose record timestamp is at or after the moment; the end if there is none.

        A bound for reading, not a cut: record timestamps need not rise with offsets.
        """

    async def committed(self, group: str, topics: Sequence[str]) -> Mapping[TopicPartition, int]:
        """What the group has committed; partitions without a commit are left out."""

    def drain(self, timeout_s: float) -> int:
        """Blocks the calling thread until everything appended is settled, at most so long; returns how many are not.

        For the end of the process only; usable from any thread and from a signal handler's helper thread.
        """

    async def close(self) -> None:
        """Ends the client. What is not settled becomes Unknown."""


class TopicAdmin(Protocol):
    """Creates and alters topics. Needs the rights of the operations principal; services never use it.

    Not promised: that a change is visible to every client at once.
    """

    async def describe(self, names: Sequence[str]) -> Mapping[str, TopicState]:
        """The topics that exist, out of ``names``."""

    async def create(self, topic: Topic, *, replication: int, config: Mapping[str, str]) -> None:
        """Creates one topic; one that exists already is left as it is."""

    async def add_partitions(self, name: str, total: int) -> None:
        """Raises the partition count."""

    async def set_config(self, name: str, config: Mapping[str, str]) -> None:
        """Sets the given configuration entries and leaves the others."""

    async def broker_count(self) -> int:
        """How many brokers are alive, which bounds replication."""


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that a follower could not apply: where it lies in the batch, a fixed reason code, the error's class."""

    index: int
    reason: str
    error: str


class Follower(Protocol):
    """A fold that runs for ever: applies batches, and keeps its results together with the position they belong to.

    Effects happen once because results and positions are written in one transaction, and a batch that was applied
    before is dropped. Implemented by features, driven by the loop and by nobody else. While ``flush`` is under way, ``apply``
    and ``wants_flush`` are called, and nothing else is; otherwise there is one call at a time.
    Not promised: batches of other topics.
    """

    @property
    def name(self) -> str:
        """Names the follower in metrics, dead letters and the store."""

    @property
    def topics(self) -> Sequence[str]:
        """Base names of the topics it reads."""

    async def positions(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """The next offset to apply, as stored with the results; partitions never seen are left out."""

    def apply(self, batch: Batch) -> Sequence[DeadLetter]:
        """Folds a batch into memory, all of it; returns the records that could not be applied and had no effect.

        Batches of a partition come in order, without overlap. Raising means that nothing of the batch was applied:
        a retriable error is tried again, any other makes the loop offer the records one by one.
        """

    def wants_flush(self, *, interval_over: bool) -> bool:
        """Whether to flush now. Asked some 10 ms after a batch at the latest, and again and again until it is flushed.

        ``interval_over``: something is not flushed for as long as the settings say, or there is much of it. Who has no
        reason of its own returns that. When somebody waits, or a partition is given up, the loop flushes without asking.
        """

    async def flush(self) -> Mapping[TopicPartition, int]:
        """Writes results and positions in one transaction; durable when it returns. Gives the stored next offsets.

        What is written is what has been applied when it is called: it is taken before anything is awaited. What comes while
        it is being written belongs to the next flush.
        Raises StoreUnavailable (nothing was written, try again) or PositionConflict (another writer is at work).
        """

    def drop(self, partitions: Sequence[TopicPartition]) -> None:
        """Forgets what is not flushed, and everything cached, of these partitions."""

    async def close(self) -> None:
        """Closes what the follower opened. Does not flush."""


@runtime_checkable
class LooksFirst(Protocol):
    """A follower of which ``positions`` means that it is going to hold the partitions, and ``stored`` only asks.

    Who has no ``stored`` is asked with ``positions`` about partitions that another member of the group holds.
    Not promised: that the answer still holds a moment later, when that member has gone on.
    """

    async def stored(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        """As ``Follower.positions``; changes nothing."""


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

    async def close(self) -> None:
        """Waits for what is running, then closes the store."""


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

    async def write_views(self, views: Sequence[tuple[str, int, bytes]], fold_id: str) -> ViewsWritten:
        """Writes views, as ``(owner, change, JSON)``: each only if its parts have not changed since, and the key is ours.

        Whoever listens is told of each that is new.
        """

    async def commit(self, ended: Sequence[tuple[Claim, Progress]]) -> Sequence[Claim]:
        """Stores how far the views go, of all partitions or of none; gives the claims to go on with."""

    async def close(self) -> None:
        """Ends the connections. Safe to call twice."""


class TracedEvents:
    """Events as they are to be published, and where they came to lie: who publishes sets ``positions``, None for not delivered."""

    __slots__ = ("events", "positions")

    def __init__(self, events: Sequence[AgentEvent]) -> None:
        self.events = events
        self.positions: Sequence[Position | None] = ()


class Tracing(Protocol):
    """Where spans of publishing and following go: one per call and one per batch, not one per event.

    Both contexts end with what happened inside them; neither raises anything of its own, blocks, or keeps an event back.
    Not promised: that a span arrives anywhere.
    """

    def publishing(self, events: Sequence[AgentEvent]) -> AbstractContextManager[TracedEvents]:
        """A span around publishing these; gives the events with the trace in them by which followers find it."""

    def applying(self, follower: str, batch: Batch) -> AbstractContextManager[None]:
        """A span around what a follower does with a batch, in the traces that its events carry or linked to them."""

    async def close(self) -> None:
        """Sends what waits. Safe to call twice."""


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


class PaneAt(NamedTuple):
    """Which pane row: a dimension and key, and the stretch of ``width_s`` seconds from ``start`` (seconds since 1970)."""

    dimension: str
    key: str
    width_s: int
    start: int


class PaneRow(NamedTuple):
    """A pane row of one partition of the log: every metric of that key and stretch, as opaque bytes.

    ``revision`` is 0 until the pane closes, and grows with each change after that.
    """

    partition: TopicPartition
    at: PaneAt
    revision: int
    data: bytes


class OpenPair(NamedTuple):
    """A start that waits for its end: which pair, the id that joins them, and the event time of the start."""

    pair: str
    id: str
    start_us: int


class WindowProgress(NamedTuple):
    """How far the panes of one partition go: made by the metrics ``spec_id`` of the offsets ``first`` to ``next`` (exclusive).

    ``watermark_us`` is the largest event time seen, -1 before the first; ``repeats`` as in ``Progress``.
    """

    spec_id: str
    first: int
    next: int
    watermark_us: int
    repeats: bytes = b""


class WindowWrite(NamedTuple):
    """What one flush writes of one partition: changed pane rows whole, pairs opened and closed, and how far they go.

    ``expected`` is the ``next`` that the writer has built upon, None if there was no progress under its ``spec_id``.
    """

    partition: TopicPartition
    expected: int | None
    progress: WindowProgress
    rows: Sequence[tuple[PaneAt, int, bytes]]
    opened: Sequence[OpenPair] = ()
    closed: Sequence[tuple[str, str]] = ()


class DocumentWrite(NamedTuple):
    """A small named document of a kind: written whole, or removed where ``data`` is None.

    With ``guarded`` it is written only if what is stored now equals ``expected`` (None: nothing is stored).
    """

    kind: str
    id: str
    data: bytes | None
    guarded: bool = False
    expected: bytes | None = None


class WindowStore(Protocol):
    """Where analytics keeps panes and what follows from them, together with the positions they belong to.

    Several processes may share a store, each writing the partitions it holds; who writes without holding gets
    PositionConflict. Every method raises StoreUnavailable when the store cannot be reached; then nothing was written.
    Not promised: that results survive a crash of the machine right after ``commit``; panes and progress go back together
    then. Nor rows of panes longer than their retention.
    """

    async def load_progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, WindowProgress]:
        """How far the store is; partitions never written are left out. None asks for all of them."""

    async def load_pairs(self, partition: TopicPartition) -> Sequence[OpenPair]:
        """The open pairs of a partition, oldest first."""

    async def load_recent(self, partition: TopicPartition, since: int) -> Sequence[PaneRow]:
        """The rows of a partition whose stretch ends after ``since`` (seconds since 1970): what a writer goes on from."""

    def load_rows(self, partition: TopicPartition, wanted: Sequence[PaneAt]) -> Mapping[PaneAt, PaneRow]:
        """Single rows of a partition; those not stored are left out. Blocks the calling thread: for late values."""

    async def commit(self, writes: Sequence[WindowWrite], documents: Sequence[DocumentWrite] = ()) -> None:
        """Writes everything in one transaction, or nothing.

        The first write under another ``spec_id`` removes what the earlier one stored for that partition. Raises
        PositionConflict when a stored progress is not the expected one, DocumentConflict when a guarded document differs.
        """

    async def rows(  # noqa: PLR0913  # one question
        self, dimension: str, width_s: int, start: int, end: int, keys: Sequence[str] | None = None, *, rolled_s: int | None = None
    ) -> Sequence[PaneRow]:
        """Rows whose stretch begins in ``start`` to ``end`` (exclusive), of the given keys or all; by key, start, partition.

        With ``rolled_s`` each stretch comes once: as a row of that width where one was made by ``roll_up``, is up to date
        and lies wholly in that time, else as rows of ``width_s``. All of one moment.
        """

    async def keys(self, dimension: str, start: int, end: int, *, after: str = "", limit: int = 1_000) -> Sequence[str]:
        """Keys with a row of any width that begins in that time, ascending by code point, those behind ``after``."""

    async def documents(self, kind: str) -> Mapping[str, bytes]:
        """All documents of a kind, by id."""

    async def roll_up(self, *, width_s: int, into_s: int, settle_s: int, join: Callable[[Sequence[bytes]], bytes]) -> int:
        """Makes rows of ``into_s`` of written rows of ``width_s``, once their partition's watermark is ``settle_s`` behind their end.

        A row of ``into_s`` is ``join`` of all its narrower ones, in order; it is made again when one of them has changed.
        ``rows`` alone shows it, where it is asked for. Gives how many it wrote. Other commits go on between its steps.
        """

    async def prune(self, *, width_s: int, keep_s: int) -> int:
        """Removes rows of ``width_s`` that end ``keep_s`` or more before their partition's watermark; how many.

        Where rows of that width are rolled up, only those that are in a wider row as they are now.
        """

    async def version(self) -> int:
        """A number that changes with every commit, of whichever process: what a cache asks."""

    async def close(self) -> None:
        """Waits for what is running, then closes the store."""


class Notice(NamedTuple):
    """One thing to be told of an alert. ``body`` is a JSON document, final also for every further attempt.

    ``id`` is a UUIDv7, the same whenever the same is told again; ``dedup_key`` is shared by everything told of one
    incident, from ``firing`` to ``resolved``. ``since_us`` is the event time, in µs, at which the incident began.
    """

    id: str
    dedup_key: str
    state: Literal["firing", "resolved"]
    severity: str
    since_us: int
    body: bytes


class AlertSink(Protocol):
    """Where alerts are told: a log, a webhook, a channel.

    Called by one task at a time, one notice after the other; it may take its time, for there is a queue in front of it.
    Not promised: that a notice comes once. After a failure, a restart or a time-out it comes again, with the same ``id``;
    who receives drops repeats by it. Nor any order between the alerts of different incidents.
    """

    @property
    def name(self) -> str:
        """Names the sink in metrics: one of few words."""

    async def send(self, notice: Notice) -> None:
        """The receiver has the notice when this returns, as durably as the receiver promises.

        Raises SinkUnavailable (it may have been told or not, try again) or SinkRefused (it will never take this one).
        """

    async def close(self) -> None:
        """Ends the connection. Safe to call twice."""


class ArchiveMark(NamedTuple):
    """How far the archive of one partition goes: offsets ``first`` to ``next`` (exclusive), those below ``sealed`` in segments.

    ``repeats`` is what tells copies from first records, as of ``next``, in the form of ``Progress.repeats``. ``holes`` are
    spans inside that retention took before they were archived and whose loss an operator has accepted. Below ``kept`` the
    archive itself was pruned; for the reducer ids in ``kept_for`` a snapshot of every owner stands for what was there.
    ``kept_us`` is the largest event time of what was pruned, ``kept_digest`` the digest that the first segment left follows.
    ``last_us`` is the largest event time in it, None if no record was readable.
    """

    first: int
    sealed: int
    next: int
    repeats: bytes
    holes: Sequence[Span] = ()
    kept: int = 0
    kept_for: Sequence[str] = ()
    last_us: int | None = None
    kept_us: int | None = None
    kept_digest: str = ""


Verdict = Literal["first", "repeat", "duplicate", "conflict", "poison"]
"""What an archived record is: a first copy, sent again by its publisher, published again under its id, outrun, or not readable.

Outrun: another event took the version that it was published for. Only first copies count.
"""


class Segment(msgspec.Struct, frozen=True):
    """One sealed file of a partition, as the manifest has it: its records have offsets ``base`` to ``next`` (exclusive).

    ``first_us`` and ``last_us`` are the smallest and largest event time of its readable records (None if there are none),
    ``raw_bytes`` the size of keys and values. ``digest`` is SHA-256 in hex over ``previous`` and every record in offset
    order. ``projection`` names the rules by which payloads became columns; empty when they could not become columns.
    ``reducers`` are the ids of the reducers for which snapshots were taken when it was sealed.
    """

    name: str
    base: int
    next: int
    records: int
    first_us: int | None
    last_us: int | None
    raw_bytes: int
    file_bytes: int
    previous: str
    digest: str
    projection: str
    reducers: Sequence[str] = ()


class StoredPart(NamedTuple):
    """A part as it was at offset ``end`` of its partition: a snapshot. ``order_us`` is the largest event time in it.

    ``checksum`` is SHA-256 over everything that identifies it and the part; who reads it checks it.
    """

    view: str
    owner: str
    partition: TopicPartition
    reducer_id: str
    end: int
    order_us: int
    version: int
    part: bytes
    checksum: bytes


class ArchivedFinding(NamedTuple):
    """What was wrong with a record when it was archived; ``kind``, ``reason``, ``aggregate``, ``missing`` as in a replay's findings."""

    kind: str
    offset: int
    reason: str = ""
    aggregate: str = ""
    missing: int = 0


class Archive(Protocol):
    """The reading half of the archive. Every method blocks: call it from a worker thread, from several at once if you like.

    What is in the archive for good lies in segments; what came after the last seal lies in its tail. Both are read as one.
    ``key`` of an owner is ``@agent`` for whose deed an event is, or the aggregate's ``type:id``.
    Every method raises StoreUnavailable, SegmentDamaged when a file is missing or is not what was sealed, and SpanGone for
    what was pruned. Not promised: that the log still has what the archive has, or the other way round.
    """

    def marks(self, partitions: Sequence[TopicPartition]) -> Mapping[TopicPartition, ArchiveMark]:
        """How far each partition goes; those that were never archived are left out."""

    def segments(self, partition: TopicPartition) -> Sequence[Segment]:
        """The sealed files, in offset order, without holes but those in the mark."""

    def rows(  # noqa: PLR0913  # what is wanted, and how far it can be pushed down
        self,
        partition: TopicPartition,
        start: int,
        end: int,
        *,
        types: Collection[str] | None = None,
        until_us: int | None = None,
        whole: bool = False,
        by_agent: bool = False,
        agents: Callable[[str | None], bool] | None = None,
    ) -> Iterator[Rows]:
        """Every first copy of the span, in offset order, a segment or less at a time.

        ``types``, ``until_us`` (inclusive) and ``agents`` are pushed down. ``whole`` asks for ids and values as well.
        ``by_agent``: only the rows of each agent are in offset order; a segment then comes as it lies in its file, agent by
        agent, which is quicker, also for whoever keeps something per agent.
        """

    def owner_rows(  # noqa: PLR0913  # as above
        self, partition: TopicPartition, key: str, start: int, end: int, *, until_us: int | None = None, whole: bool = False
    ) -> Rows | None:
        """One owner's first copies of the span, in offset order, found by the locator; None if there are none."""

    def columns(self, partition: TopicPartition, segment: Segment, values: Collection[str], *, aggregates: bool = True) -> Columns:
        """The first copies of a segment as columns, with these values. Only for a segment that has a projection.

        ``aggregates`` false: nobody asks for them, so that they are not read; none are told then.
        """

    def records(self, partition: TopicPartition, start: int, end: int) -> Iterator[Batch]:
        """Every record of the span as it was in the log, byte for byte, copies and garbage among them, in offset order."""

    def parts(  # noqa: PLR0913  # as above
        self, partition: TopicPartition, view: str, reducer_id: str, *, end: int, order_us: int | None = None, owner: str | None = None
    ) -> Iterator[StoredPart]:
        """Snapshots at or below ``end`` that hold no event after ``order_us``.

        Of one owner all, the newest first; else the newest of each owner, by owner.
        """

    def findings(self, partition: TopicPartition, start: int, end: int, *, settled: bool = False) -> Sequence[ArchivedFinding]:
        """What was wrong with records of the span, in offset order; notes of ``replay.unfolded`` among it.

        ``settled``: only what was certain at the last seal, which is looked up; else the tail is checked as well, and gaps
        that a late record could still close are among them.
        """


class Workers(Protocol):
    """Processes that each do one job of a parallel replay, with a log and an archive of their own.

    Not promised: that they are of this host's Python alone; jobs and messages are bytes for that reason.
    """

    def run(self, jobs: Sequence[bytes]) -> AsyncGenerator[tuple[int, bytes], None]:
        """The messages of each job, with its number, as they come. Leaving the iteration early ends every process.

        Raises WorkerFailed for a process that ended without its last message.
        """


class Judged(NamedTuple):
    """One record as it was in the log, and what was made of it when it was archived.

    ``headers`` are packed, None for the usual ones. ``time_us`` is None where the event time cannot be read, ``agent`` is
    whose deed it is, ``aggregate`` the key ``type:id``; both None where nobody is named. ``reason`` says why it is poison.
    """

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: bytes | None
    time_us: int | None
    agent: str | None
    aggregate: str | None
    verdict: Verdict
    reason: str


class Run(NamedTuple):
    """One owner's neighbouring rows in a segment: ``rows`` of them from ``row`` on.

    Offsets and event times (None if no row has one) bound them; both ends are inclusive.
    """

    key: str
    row: int
    rows: int
    first_offset: int
    last_offset: int
    first_us: int | None
    last_us: int | None


class Tail(NamedTuple):
    """What is archived and not sealed: how many records, their bytes, and when the oldest came, in µs (None without any)."""

    records: int
    raw_bytes: int
    since_us: int | None


class Append(NamedTuple):
    """What one flush adds to a partition's tail. ``expected`` is the ``next`` it builds upon, None before the first one.

    ``first`` counts only then. ``now_us`` is when, for the age of the tail.
    """

    expected: int | None
    first: int
    next: int
    repeats: bytes
    records: Sequence[Judged]
    now_us: int


class Sealed(NamedTuple):
    """Everything that one more segment brings to the index; ``checks`` is what the checkers know behind it.

    ``kept`` is up to where the partition was pruned when the snapshots were made, since they rest on what was left.
    ``since_us`` is when the records were read; what is in the tail afterwards came later.
    """

    segment: Segment
    runs: Sequence[Run]
    parts: Sequence[StoredPart]
    findings: Sequence[ArchivedFinding]
    checks: bytes
    kept: int = 0
    since_us: int = 0


class Pruned(NamedTuple):
    """What stands for the offsets below ``kept``, which begin at ``first``, once their records are gone; ``name`` is its file.

    ``parts`` are the snapshots of every owner there, for ``reducers``. ``holes``, ``repeats`` and ``checks`` are as of
    ``kept``; ``last_us`` and ``digest`` are ``kept_us`` and ``kept_digest`` of the mark.
    """

    name: str
    first: int
    kept: int
    last_us: int | None
    digest: str
    holes: Sequence[Span]
    repeats: bytes
    checks: bytes
    reducers: Sequence[str]
    parts: Sequence[StoredPart]


class Found(NamedTuple):
    """What lies at and behind an offset: the segment that holds the next record, or else records of the tail.

    ``kept``: up to where the partition is pruned at that moment.
    """

    segment: Segment | None
    records: Sequence[Judged]
    kept: int = 0


class Owned(NamedTuple):
    """One owner's first copies: runs by segment, in offset order, and records of the tail; ``kept`` as above; all of one moment."""

    runs: Sequence[tuple[Segment, Sequence[Run]]]
    records: Sequence[Judged]
    kept: int = 0


class ArchiveIndex(Protocol):
    """What is known of one partition's archive beside the segments: manifest, tail, locator, snapshots, findings.

    Every method blocks; several threads may call. Each is one transaction. Every method raises StoreUnavailable; then
    nothing was written. Not promised: to look at the segment files; it knows only what was sealed.
    """

    def mark(self) -> ArchiveMark | None:
        """How far the partition goes; None before the first append."""

    def checks(self) -> bytes:
        """What the checkers know of everything below ``sealed``; empty before the first seal."""

    def tail(self) -> Tail:
        """What waits to be sealed."""

    def append(self, write: Append) -> None:
        """Adds to the tail and moves ``next``. Raises PositionConflict when the stored ``next`` is not the expected one.

        Durable against the end of the process; a crash of the machine may take the newest appends back, each as a whole.
        """

    def seal(self, sealed: Sealed, is_whole: Callable[[], bool]) -> None:
        """Takes a segment into the manifest, with everything that belongs to it, and its records out of the tail.

        Survives a crash of the machine. ``is_whole`` is asked under the lock that ``sweep`` takes, whether the file is still
        there. Raises PositionConflict when the partition is not sealed up to the segment's base, was pruned meanwhile, or the
        file is gone.
        """

    def prune(self, pruned: Pruned, is_whole: Callable[[], bool]) -> None:
        """Forgets everything below ``pruned.kept`` but what stands for it; an index without a mark begins there.

        Survives a crash of the machine. ``is_whole`` as for ``seal``, of the file that ``pruned`` names. Raises PositionConflict
        when no segment ends there with that digest, or the file is gone.
        """

    def replace(self, old: Segment, new: Segment) -> None:
        """Another file for the same records. Raises PositionConflict if the manifest does not hold ``old``."""

    def sweep(self, remove: Callable[[frozenset[str]], None]) -> None:
        """Calls with the names of all files in the manifest, and of what stands for pruned ones, while nobody can seal."""

    def skip(self, hole: Span, repeats: bytes) -> None:
        """Moves ``sealed`` and ``next`` over a hole. Raises PositionConflict unless both stand at its start."""

    def segments(self) -> Sequence[Segment]:
        """The manifest, in offset order."""

    def find(self, start: int, end: int, limit: int) -> Found:
        """The segment with the first record at or above ``start``; where there is none, at most ``limit`` records of the tail."""

    def owned(self, key: str, start: int, end: int) -> Owned:
        """Where one owner's records of the span are."""

    def owners(self, keys: Collection[str], below: int) -> Collection[str]:
        """Those of the keys that some segment with a base below that offset has."""

    def parts(self, view: str, reducer_id: str, *, end: int, order_us: int | None, owners: Collection[str] | None) -> Sequence[StoredPart]:
        """The newest snapshot of each of the owners (None: of all), by owner; within the bounds of ``Archive.parts``."""

    def parts_of(  # noqa: PLR0913  # what identifies an owner's snapshots, and which of them
        self, view: str, reducer_id: str, owner: str, *, end: int, order_us: int | None, limit: int | None = None
    ) -> Sequence[StoredPart]:
        """All snapshots of one owner, or so many, the newest first; within the same bounds."""

    def findings(self, start: int, end: int) -> Sequence[ArchivedFinding]:
        """What the seals have found, in offset order."""

    def close(self) -> None:
        """Closes the files. Safe to call twice."""


class ArchiveIndexes(Protocol):
    """Where the indexes of all partitions are. Not promised: that two processes may not both write one; they are fenced."""

    def open(self, partition: TopicPartition, *, create: bool) -> ArchiveIndex | None:
        """The index of a partition; None if it was never archived, unless it is to be made. Raises StoreUnavailable."""

    def set_aside(self, partition: TopicPartition) -> None:
        """Moves an index out of the way, however damaged it is, and keeps it. Nobody may have it open."""


class SegmentFiles(Protocol):
    """The files of one partition's segments: a folder, or a place in an object store. Written once, never changed.

    Every method blocks; several threads may call. Raises OSError. Not promised: any order of names.
    """

    def put(self, name: str, content: bytes) -> None:
        """Stores a file, whole or not at all; durable when it returns. Replaces one of that name."""

    def open(self, name: str) -> memoryview:
        """The content, without reading all of it now where that can be avoided. Raises FileNotFoundError."""

    def size(self, name: str) -> int | None:
        """How many bytes it has; None if it is not there."""

    def names(self) -> Sequence[str]:
        """Everything that lies there, half-written files among it."""

    def remove(self, name: str) -> None:
        """Removes a file; one that is not there is no error. Who has it open may go on reading."""


class SegmentColumn(NamedTuple):
    """One column of a segment; every one may have holes.

    ``int``; ``word``, text with few values; ``text``; ``bytes``; ``json``, written as text and read as bytes.
    """

    name: str
    kind: Literal["int", "word", "text", "bytes", "json"]


class Cells(Protocol):
    """The cells of one column, made into objects when they are asked for. Not promised: the same objects each time."""

    def __len__(self) -> int:
        """How many cells there are."""

    def take(self, rows: NDArray[np.intp]) -> list[Any]:
        """The cells of these rows: bytes for bytes and JSON, text for text, None where there is nothing."""


class OpenSegment(Protocol):
    """A segment under reading. Several threads may call. What it raises is an OSError: the file is damaged.

    Not promised: to notice a change of bytes that nobody reads.
    """

    @property
    def footer(self) -> Mapping[str, str]:
        """The texts that were written beside the columns."""

    @property
    def rows(self) -> int:
        """How many rows there are."""

    @property
    def names(self) -> Collection[str]:
        """Which columns there are."""

    def read(self, names: Sequence[str], start: int = 0, stop: int | None = None) -> Sequence[IntColumn | TextColumn | Cells]:
        """The rows ``start`` to ``stop`` (exclusive) of these columns: words as TextColumn, text and bytes as Cells."""

    def read_folded(self, names: Sequence[str]) -> Sequence[IntColumn | TextColumn | Cells]:
        """These of the columns that the writer was given as ``folded``, in their own order; OSError where there are none."""

    @property
    def has_pieces(self) -> bool:
        """Whether ``look_up`` finds anything: a file may be older than that."""

    def look_up(self, names: Sequence[str], start: int, stop: int) -> Sequence[Sequence[Any]]:
        """The same rows and cells as ``read``, of columns that the writer was given as ``looked_up``, as objects; quick for a few.

        JSON comes as bytes. OSError where the columns are not there.
        """


class SegmentWriter(Protocol):
    """A segment in the making. Not promised: to take anything after ``finish``."""

    def add(self, cells: Sequence[Iterable[object]]) -> None:
        """The next rows: one run of cells per column, equally long; ``json`` ones as bytes, valid UTF-8.

        Raises OverflowError for an integer beyond 64 bits; then none of the rows was taken.
        """

    def finish(  # noqa: PLR0913  # a file is written at once
        self,
        names: Sequence[str],
        order: NDArray[np.intp],
        footer: Mapping[str, str],
        *,
        group_rows: int,
        folded: Sequence[str] = (),
        folded_order: NDArray[np.intp] | None = None,
        looked_up: Sequence[str] = (),
        piece_rows: int = 1,
    ) -> bytes:
        """The content of a file: the named columns, with the rows in that order, so many to a group that is read at once.

        ``folded`` ones are kept a second time, of the rows in ``folded_order``, each in one piece, for who wants all of a
        column. ``looked_up`` ones are kept so too, in pieces of ``piece_rows``, of which a group holds a whole number, for who
        wants a few rows.
        """


class SegmentCodec(Protocol):
    """Columns as bytes of a file and back. Not promised: the same bytes for the same columns in another version of a library."""

    def writer(self, columns: Sequence[SegmentColumn]) -> SegmentWriter:
        """Begins a segment."""

    def open(self, content: memoryview) -> OpenSegment:
        """What a writer has made. Raises OSError for anything else."""


class Clock(Protocol):
    """Time, as an argument. Not promised: that ``now_us`` never goes back; ``monotonic`` does not."""

    def now_us(self) -> int:
        """Wall clock, microseconds since 1970, UTC."""

    def monotonic(self) -> float:
        """Seconds on a clock that only goes forward."""

    async def sleep(self, seconds: float) -> None:
        """Waits that long on this clock."""


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


class Score(NamedTuple):
    """What a detector says of one value: from 0 (usual) to 1, the level it expected, and, if it knows, the middle of the last values."""

    score: float
    expected: float
    lately: float | None = None


class Detector(Protocol):
    """Scores the values of one series, in order: what is unusual among those before.

    Not promised: a score for the first values of a series, they are 0. That the scores of two detectors mean the same.
    """

    @property
    def threshold(self) -> float:
        """The score from which on a value is an alarm, where nobody says otherwise."""

    def score(self, value: float) -> Score:
        """The score of a value against those before it; then the value is learned. NaN and infinities are refused by the caller."""


class Sealer(Protocol):
    """Authenticated encryption, the primitive: AES-256-GCM. Whoever calls it chooses keys and nonces, and answers for them.

    Not promised: to notice that a nonce is used twice under one key, which gives both texts away. No repr, log or error
    of an implementation holds a key or a text.
    """

    def seal(self, key: bytes, nonce: bytes, plain: bytes, aad: bytes) -> bytes:
        """The ciphertext with its 16-byte tag. ``key`` is 32 bytes, ``nonce`` 12, used once under the key."""

    def open(self, key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes:
        """The text. Raises SealBroken for another key, place or ciphertext than was sealed."""


class Signer(Protocol):
    """Signs checkpoints with Ed25519. Not promised: that the key can be had; it may never leave its device."""

    @property
    def name(self) -> str:
        """The key's name in signature lines, the origin of the ledger it signs for."""

    @property
    def public(self) -> bytes:
        """The public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """64 bytes."""


class Enrolment(NamedTuple):
    """What a writer is given for one epoch: who it is, its first MAC key, and the token that admits it to the registry.

    ``opened_us`` is when the epoch began; MAC epochs count seconds from there.
    """

    writer: bytes
    epoch: int
    k0: bytes
    token: str
    opened_us: int

    def __repr__(self) -> str:
        """Without the key and the token."""
        return f"Enrolment(writer={self.writer.hex()}, epoch={self.epoch})"


class DataKey(NamedTuple):
    """The key under which one subject's parts are sealed, 32 random bytes, and the handle that stands for it, 16 random bytes."""

    handle: bytes
    key: bytes

    def __repr__(self) -> str:
        """Without the key."""
        return f"DataKey({self.handle.hex()})"


class KeyRing(Protocol):
    """Keeps the keys of one ledger: first MAC keys of writer epochs, and the data keys of subjects.

    Durable: what a call gives or destroys is on disk before it returns, and several processes see one and the same ring.
    Every method raises KeyRingUnavailable where the ring cannot be read or written; no repr, log or error holds a key or a
    subject's name.
    Not promised: that bytes of a destroyed key are overwritten on the medium, or in the memory of who asked for it; that a
    backup made elsewhere forgets it before the next ``rotate``.
    """

    def enrol(self, opened_us: int, *, writer: bytes | None = None, after: int = 0) -> Enrolment:
        """A writer epoch that was never given before, also not before a crash or a restore of a backup.

        A new writer, or the next epoch of ``writer`` where the ring knows it; above ``after``, the newest one the caller knows.
        """

    def admits(self, writer: bytes, epoch: int, token: str) -> bool:
        """Whether the token is the one that this epoch was enrolled with."""

    def k0(self, writer: bytes, epoch: int) -> bytes:
        """The first MAC key of an epoch, for who verifies. Raises KeyGone for one that was not enrolled."""

    def subjects(self, names: Sequence[str]) -> Sequence[DataKey]:
        """The data keys of these subjects, in their order; drawn at random where there is none. Many at once cost as one."""

    def draw(self, count: int) -> Sequence[DataKey]:
        """New data keys of nobody known, for parts that can be shredded singly. Many at once cost as one."""

    def group(self, members: Collection[bytes]) -> bytes:
        """The handle of what concerns several subjects: the same for the same handles. Raises KeyGone for an unknown one."""

    def members(self, group: bytes) -> Sequence[bytes]:
        """The handles of a group. Raises KeyGone as soon as one of them is destroyed."""

    def groups_with(self, handle: bytes) -> Sequence[bytes]:
        """The handles of the groups that this one is a member of, sorted."""

    def key(self, handle: bytes) -> bytes:
        """The data key behind a handle. Raises KeyGone where it was destroyed, or never was."""

    def handle_of(self, name: str) -> bytes | None:
        """The handle of a subject, if it has a key. Draws none."""

    def destroy(self, handles: Collection[bytes]) -> Sequence[bytes]:
        """Destroys these data keys for good; returns every handle that died, those of their groups included, sorted.

        A handle that is gone already, or was never here, stays gone: an erasure can be done again after a restore.
        """

    def rotate(self) -> int:
        """Seals the ring under a new key and destroys the old one: copies of it made before cannot be read any more.

        What the ring still holds stays as it is, so old entries stay readable. Returns the number of the new key.
        """

    def close(self) -> None:
        """Forgets what is in memory. Idempotent."""


LEDGER_META: Final = 65_534
"""No partition of the ledger: where one number has to name the tree over all partitions."""

TakeOut = Callable[[bytes, Collection[int | None]], tuple[bytes, int, bool, Sequence[int]]]
"""(record, its parts to be removed, None: the whole body) -> the record without, how many there were, whether the env and which
parts are left: ``audit.layout.take_out``, for a store that does not know how a record is laid out."""


class LedgerFacts(msgspec.Struct, frozen=True, gc=False):
    """What a record of the ledger can be found by. Nothing personal: every field is in clear in the record itself.

    ``audit_id`` and the fields after it are empty in records that are no entries. ``handles`` are those of its parts, in their
    order; a plain part's is of zeros.
    """

    kind: int
    ts_us: int
    retention_class: int
    keep_until_day: int
    handles: tuple[bytes, ...] = ()
    audit_id: str = ""
    event_type: str = ""
    category: str = ""
    severity: str = ""
    outcome: str = ""
    agent_id: str = ""
    task_id: str = ""
    workflow_id: str = ""
    frameworks: tuple[str, ...] = ()


class LedgerRow(msgspec.Struct, frozen=True, gc=False):
    """A record where it lies in the ledger: ``number`` is its index in the tree of its partition.

    ``raw`` is as ``audit.layout.pack_record`` makes it; removed bodies are absent in it.
    ``source`` is the position in the log of the event that it came with; None in the registry.
    """

    partition: int
    number: int
    raw: bytes
    leaf: bytes
    sealed_at_us: int
    source: Position | None


class LedgerTip(NamedTuple):
    """Where one chain of a partition stands, as its owner packs it; ``open``: more of it may come."""

    writer: bytes
    epoch: int
    packed: bytes
    open: bool


class LedgerTail(NamedTuple):
    """Where a partition of the ledger ends: size and peaks of its tree, and the tips of its open chains.

    ``start`` is how many records were pruned from its beginning.
    """

    size: int
    peaks: tuple[bytes, ...]
    tips: Sequence[LedgerTip] = ()
    start: int = 0


class LedgerAppend(NamedTuple):
    """Records to be appended to one partition at ``size``, what they are found by, the nodes they complete, and what changed.

    ``nodes`` are as ``audit.tree.CompactRange.extend`` returns them, ``peaks`` those behind the records, ``tips`` those of the
    chains that moved. To the tree over all partitions (``audit.layout.META``) the partitions' notes of the same commit are
    appended; it has no rows.
    """

    partition: int
    size: int
    rows: Sequence[LedgerRow]
    facts: Sequence[LedgerFacts]
    nodes: Sequence[tuple[int, int, Sequence[bytes]]]
    peaks: Sequence[bytes]
    tips: Sequence[LedgerTip] = ()


class LedgerNote(NamedTuple):
    """A checkpoint that was made: of a partition its text, unsigned; over all partitions (``audit.layout.META``) the signed note.

    A signed note of the size of an earlier one takes its place: it has more signatures.
    """

    partition: int
    size: int
    text: bytes


class LedgerCommit(NamedTuple):
    """One transaction. ``positions`` says per partition of the log from where to where its records are now in the ledger.

    From where: the position that is stored, None if there is none.
    """

    appends: Sequence[LedgerAppend] = ()
    positions: Mapping[TopicPartition, tuple[int | None, int]] = {}
    notes: Sequence[LedgerNote] = ()


class LedgerWanted(NamedTuple):
    """What is looked for: each field that is not None has to be so. Times are those of the entries, both ends included.

    ``handles``: a part is under one of them; the handle of zeros stands for parts that are plain.
    """

    start_us: int | None = None
    end_us: int | None = None
    agent_id: str | None = None
    task_id: str | None = None
    workflow_id: str | None = None
    event_type: str | None = None
    category: str | None = None
    severity: str | None = None
    outcome: str | None = None
    framework: str | None = None
    handles: Collection[bytes] | None = None
    kind: int | None = 0


class LedgerRemoval(NamedTuple):
    """A body to be removed for good: one part, or where ``part`` is None the env and every part."""

    partition: int
    number: int
    part: int | None = None


class LedgerStore(Protocol):
    """Keeps the ledger: records, nodes of the trees, checkpoints, and how far the log has been taken in; one transaction each time.

    Durable when a call returns, also through a crash of the machine. Several processes may use it; who appends behind another's
    back gets PositionConflict and nothing is changed. Removed bodies are overwritten in the file, not only unlinked. Every
    method raises StoreUnavailable.
    Not promised: that what is stored is what was written; whoever can write the file can change it, and the proofs are there
    to show it.
    """

    async def progress(self, partitions: Sequence[TopicPartition] | None = None) -> Mapping[TopicPartition, int]:
        """Per partition of the log the first offset that is not in the ledger; those that never were are left out."""

    async def tails(self) -> Mapping[int, LedgerTail]:
        """Per partition of the ledger where it ends, the tree over all partitions among them."""

    def tip(self, partition: int, writer: bytes, epoch: int) -> LedgerTip | None:
        """Where a chain stands, also one that was closed. Blocks the calling thread for a look-up."""

    def known(self, audit_ids: Sequence[str]) -> Mapping[str, LedgerRow]:
        """Those entries that are here. Blocks the calling thread for a look-up: a follower needs it while it applies."""

    async def commit(self, change: LedgerCommit) -> None:
        """All of it or nothing. Raises PositionConflict where a size or a position is not the one that was expected."""

    async def sizes(self) -> Mapping[int, int]:
        """Per partition how many records there are, at one moment."""

    async def rows(self, partition: int, start: int, limit: int) -> Sequence[LedgerRow]:
        """Records from ``start`` on, by index; pruned ones are not there."""

    async def indexed(self, partition: int, start: int, limit: int) -> Sequence[tuple[LedgerRow, LedgerFacts]]:
        """As ``rows``, each beside what it is found by; facts stay when a body is removed."""

    async def find(
        self, wanted: LedgerWanted, *, limit: int, offset: int = 0, as_of: Mapping[int, int] | None = None
    ) -> tuple[int, Sequence[LedgerRow]]:
        """How many match, and a page of them, newest first. ``as_of`` are sizes: records behind them do not count."""

    async def entry(self, audit_id: str) -> LedgerRow | None:
        """The entry with this id."""

    async def about(self, handles: Collection[bytes]) -> Sequence[tuple[int, int, int]]:
        """Where parts under these handles still are: partition, number of the record, number of the part."""

    async def due(self, today: int, limit: int, *, after: tuple[int, int] = (-1, -1)) -> Sequence[tuple[LedgerRow, LedgerFacts]]:
        """Entries that still have a body and were to be kept to a day before ``today`` (days since 1970).

        By partition and number, and behind ``after``.
        """

    async def overdue(
        self, before_us: Mapping[int, int], limit: int, *, after: tuple[int, int] = (-1, -1)
    ) -> Sequence[tuple[LedgerRow, LedgerFacts]]:
        """Entries that still have a part, of a retention class and from before the moment named for it. Order as ``due``."""

    async def remove(self, removals: Sequence[LedgerRemoval]) -> int:
        """Removes bodies; how many there still were. When it returns no file of the store holds them."""

    async def prune(self, partition: int, size: int) -> None:
        """Removes the first ``size`` records whole, in one transaction; the nodes of the tree stay, so everything else can be proven.

        When it returns no file of the store holds them.
        """

    async def nodes(self, partition: int, wanted: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        """Nodes by (height, number). Raises LookupError for one that is not complete."""

    async def notes(self, partition: int, after: int = 0, limit: int = 1_000) -> Sequence[LedgerNote]:
        """Checkpoints of sizes above ``after``, by size."""

    async def leaves(self, start: int = 0) -> Sequence[str]:
        """The leaves of the tree over all partitions from ``start`` on: note texts, in the order in which they were appended."""

    async def close(self) -> None:
        """Idempotent."""


class Witness(Protocol):
    """Remembers the newest checkpoint of a ledger that it has cosigned, and cosigns only what continues it.

    Durable: it has remembered a checkpoint before it answers. Meant for another machine, or another organisation.
    Not promised: that it is there when it is asked; nor that two witnesses belong to two people.
    """

    @property
    def name(self) -> str:
        """What it is called in messages."""

    async def add(self, old_size: int, note: bytes, proof: Sequence[bytes]) -> bytes:
        """Its signature line under the signed note, newline included. ``proof``: the note continues the one of ``old_size``.

        Raises WitnessRefused, with the size that it remembers where ``old_size`` is another one; WitnessUnavailable.
        """

    async def close(self) -> None:
        """Idempotent."""


class WitnessMemory(Protocol):
    """What a witness remembers, in one place that several processes may share.

    Not promised: that nobody takes it back to an older content; keep it where the ledger's keeper cannot write.
    """

    def changing(self, change: Callable[[bytes], bytes]) -> None:
        """Replaces what is there by what ``change`` makes of it; one caller at a time, durable when it returns. Blocks.

        Nothing is changed where ``change`` raises, or gives the same. Raises WitnessUnavailable.
        """


class ErasureTarget(Protocol):
    """A store that may know a person, and can forget one. Not promised: backups of it that were made elsewhere."""

    @property
    def name(self) -> str:
        """What it is called in receipts."""

    async def forget(self, subject: str, handles: Collection[bytes]) -> int:
        """Removes what it holds of the person, durably; how many pieces that were. May be called again for the same person."""


class PiiCandidate(NamedTuple):
    """Where a pattern occurs in a text, in characters. It has the form; whether it is what it looks like is not said."""

    kind: str
    start: int
    end: int


class PiiFinder(Protocol):
    """Finds where patterns of personal data occur; it was made from patterns by kind, each with its value as group 1.

    The time rises with the length of the text and no faster, whatever the text.
    Not promised: that a candidate is personal data, checks come after; nor an order. Nor names of people in free text: they
    have no pattern.
    """

    def candidates(self, text: str) -> Sequence[PiiCandidate]:
        """Every occurrence of every kind; those of one kind do not overlap. Texts that are no valid Unicode are searched too."""
