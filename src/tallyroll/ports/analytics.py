"""Where panes are kept, what scores values, and where alerts are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, NamedTuple, Protocol

from tallyroll.events.position import TopicPartition


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
    """A start that waits for its end: which pair, the id that joins them, and the event time of the start.

    ``since_us`` is the largest event time of the partition when the start came, from which its waiting is counted.
    """

    pair: str
    id: str
    start_us: int
    since_us: int


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
        """The open pairs of a partition, those first that have waited longest."""

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
        and lies wholly in that time, else as rows of ``width_s``. Rows written at that width come beside these: they hold
        what came when the narrow rows were gone, and what is measured at that width. All of one moment.
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

        Where rows of that width are rolled up, only those that are in a wider row as they are now, and not before all of that
        one is so old: what comes for a row that is kept finds all its neighbours.
        """

    async def version(self) -> int:
        """A number that changes with every commit, of whichever process: what a cache asks."""

    def at_one_moment(self) -> AbstractAsyncContextManager[WindowStore]:
        """The store as it is now, to be read whatever is committed meanwhile. For short: it may keep the store from tidying up.

        Who writes to it gets StoreUnavailable.
        """

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
