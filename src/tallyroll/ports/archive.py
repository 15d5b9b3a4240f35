"""The archive: what a replay reads of it, and where what is known of its files is kept."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol, Self

import msgspec

from tallyroll.events.batch import Batch
from tallyroll.events.position import TopicPartition
from tallyroll.events.rows import Columns, Rows
from tallyroll.ports.log import Span


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


class Odd(NamedTuple):
    """What was made of a record that is no first copy; as of ``Judged``."""

    verdict: Verdict
    reason: str
    aggregate: str | None


class TailColumns(NamedTuple):
    """Records of the tail as columns of equal length: of each what folds and checks ask for, as of ``Judged``.

    ``odd``: by index those that are no first copies, usually none.
    """

    offsets: Sequence[int]
    values: Sequence[bytes | None]
    times_us: Sequence[int | None]
    agents: Sequence[str | None]
    odd: Mapping[int, Odd]

    @classmethod
    def of(cls, records: Sequence[Judged]) -> Self:
        """The columns of whole records."""
        if not records:
            return cls((), (), (), (), {})
        offsets, _, _, values, _, times_us, agents, aggregates, verdicts, reasons = zip(*records, strict=True)
        told = enumerate(zip(verdicts, reasons, aggregates, strict=True))
        return cls(offsets, values, times_us, agents, {index: Odd._make(one) for index, one in told if one[0] != "first"})


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


class Scanned(NamedTuple):
    """As ``Found``, the records as columns; None where there are none."""

    segment: Segment | None
    tail: TailColumns | None
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

    def scan(self, start: int, end: int, limit: int) -> Scanned:
        """As ``find``, with less of the tail's records, and cheaper."""

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
