"""Where the audit ledger lies."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from tallyroll.events.position import Position, TopicPartition

LEDGER_META: Final = 65_534
"""No partition of the ledger: where one number has to name the tree over all partitions."""

TakeOut = Callable[[bytes, Collection[int | None]], tuple[bytes, int, bool, Sequence[int]]]
"""(record, its parts to be removed, None: the whole body) -> the record without, how many there were, whether the env and which
parts are left: ``audit.ledger.layout.take_out``, for a store that does not know how a record is laid out."""


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

    ``raw`` is as ``audit.ledger.layout.pack_record`` makes it; removed bodies are absent in it.
    ``source`` is the position in the log of the event that it came with; None in the registry.
    """

    partition: int
    number: int
    raw: bytes
    leaf: bytes
    sealed_at_us: int
    source: Position | None


class LedgerIndexed(NamedTuple):
    """A record beside everything that it can be found by, so that the one can be held against the other.

    ``about``: its parts that ``LedgerStore.about`` gives under their own handles. ``body``: whether ``due`` takes it for one that
    has a body; ``parts``: how many of its parts ``overdue`` takes to be there.
    """

    row: LedgerRow
    facts: LedgerFacts
    about: frozenset[int]
    body: bool
    parts: int


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

    ``nodes`` are as ``audit.ledger.tree.CompactRange.extend`` returns them, ``peaks`` those behind the records, ``tips`` those of the
    chains that moved. To the tree over all partitions (``audit.ledger.layout.META``) the partitions' notes of the same commit are
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
    """A checkpoint that was made: of a partition its text, unsigned; over all partitions (``audit.ledger.layout.META``) the signed note.

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

    async def tails(self, *, ended: bool = False) -> Mapping[int, LedgerTail]:
        """Per partition of the ledger where it ends, the tree over all partitions among them; all of one moment.

        With ``ended`` the tips are those of all chains, not of the open ones only.
        """

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

    async def indexed(self, partition: int, start: int, limit: int) -> Sequence[LedgerIndexed]:
        """As ``rows``, each beside what it is found by; facts stay when a body is removed."""

    async def strays(self, limit: int) -> Sequence[tuple[int, int]]:
        """Places (partition, number) at which something is found that no part of the ledger is: in order, at most so many.

        A record before the start or behind the end that its partition's tail says, or in none; or one that ``about`` gives under
        a handle that none of its facts is. There are some only where somebody else than the store has written.
        """

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
        """Removes bodies; how many there still were. When it returns no file of the store holds them.

        What a record is found by stays: ids of agent, task and workflow, category, outcome.
        """

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
