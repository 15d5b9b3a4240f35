"""A process's own writer epoch, and its hand in the registry: what the process has to say there is said in this epoch's chain."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from tallyroll.audit.ledger import records
from tallyroll.audit.ledger.chain import Draft, Drafts, Run, Sealed, Writer
from tallyroll.audit.ledger.epoch_clock import EPOCH_S, EpochClock
from tallyroll.audit.ledger.layout import REGISTRY, Kind, unpack_core
from tallyroll.audit.ledger.partition import Tip, pack_tip, unpack_tip
from tallyroll.audit.ledger.records import Head
from tallyroll.audit.ledger.tree import CompactRange
from tallyroll.audit.sealing.registry import Contradiction, Registry
from tallyroll.errors import PositionConflict
from tallyroll.ports import Cipher, Clock, KeyRing, LedgerAppend, LedgerCommit, LedgerFacts, LedgerRow, LedgerStore

_PAGE: Final = 2_000


class _Pending(NamedTuple):
    sealed: Sealed
    kind: int
    env: bytes


class Registrar:
    """One writer of a ledger, with the registry as it knows it.

    A record is sealed once. If somebody else appends to the registry in between, the same bytes go behind theirs: a chain does
    not say where in the tree it lies. Whatever is sealed and then given up, with ``forget``, ends the epoch for that partition:
    a number is never sealed twice.
    Used from one event loop. Not promised: that what is sealed is stored, before ``commit``.
    """

    def __init__(  # noqa: PLR0913  # what a writer writes with
        self,
        store: LedgerStore,
        ring: KeyRing,
        cipher: Cipher,
        log_id: bytes,
        *,
        clock: Clock,
        rule_set: str,
        classes: Mapping[int, int | None] | None = None,
        heartbeat_s: int = 5,
        epoch_s: int = EPOCH_S,
        compiled: bool = True,
    ) -> None:
        self.registry = Registry()
        self.log_id = log_id
        self._store = store
        self._ring = ring
        self._cipher = cipher
        self._clock = clock
        self._rule_set = rule_set
        self._classes = {0: None} if classes is None else dict(classes)
        self._heartbeat_s = heartbeat_s
        self._epoch_s = epoch_s
        self._compiled = compiled
        self._writer: Writer | None = None
        self._time = EpochClock(clock, epoch_s)
        self._pending: list[_Pending] = []
        self._known_as: tuple[bytes, int] | None = None
        self._burnt: set[int] = set()
        self._tree = CompactRange()
        self._turn = asyncio.Lock()

    @property
    def writer(self) -> tuple[bytes, int] | None:
        """Who writes now, in which epoch; None before the first record and after the last."""
        return None if self._writer is None else (self._writer.writer, self._writer.epoch)

    @property
    def mac_epoch(self) -> int:
        """The second of the epoch whose MAC key is in use."""
        return 0 if self._writer is None else self._writer.mac_epoch

    @property
    def is_over(self) -> bool:
        """Whether the epoch has lasted long enough, or the clock has been set back in it."""
        return self._writer is not None and self._time.is_over

    @property
    def has_pending(self) -> bool:
        """Whether something waits to be stored in the registry."""
        return bool(self._pending)

    def burnt(self, partition: int) -> bool:
        """Whether this epoch can no longer write into a partition, since something it sealed there was given up."""
        return partition in self._burnt

    async def refresh(self) -> Registry:
        """The registry as it is stored now. Raises StoreUnavailable; Contradiction for one that was written by no sealer."""
        registry = self.registry
        while rows := await self._store.rows(REGISTRY, registry.size, _PAGE):
            registry.read(rows)
        tail = (await self._store.tails()).get(REGISTRY)
        if tail is not None:
            registry.read(await self._store.rows(REGISTRY, registry.size, tail.size - registry.size))
            self._tree = CompactRange(tail.size, tail.peaks)
        return registry

    def now_us(self) -> int:
        """The moment for what this writer seals now: the wall clock, but where that was set back in the epoch."""
        return self._clock.now_us() if self._writer is None else self._time.now_us()

    def seal(self, partition: int, draft: Draft, ts_us: int) -> list[Sealed]:
        """A record of this writer, its chain's genesis before the first one of it. Enrols where there is no epoch yet."""
        return self._ready(partition).seal(partition, draft, ts_us)

    def seal_entries(self, partition: int, drafts: Drafts, ts_us: int) -> Run:
        """The same of entries, one or more: all of them or none."""
        return self._ready(partition).seal_entries(partition, drafts, ts_us)

    def record(self, kind: Kind, env: bytes) -> None:
        """Says something in the registry; stored with the next ``commit``."""
        if self._writer is None:
            self._begin()
        self._record(kind, env)

    def begin(self) -> None:
        """A new epoch of the same writer; its first records name the last ones of the epoch before that are stored. Commit first.

        Raises RuntimeError while something is pending for the registry. Blocks for a look-up per chain.
        """
        if self._pending:
            raise RuntimeError("a new epoch begins when everything is stored")
        self._begin(self._stored_heads())

    def heads(self) -> list[Head]:
        """The newest records of the epoch, but of chains that were given up."""
        return [] if self._writer is None else [head for head in self._writer.heads if head.partition not in self._burnt]

    def close(self, reason: str) -> None:
        """Ends the epoch: the last record names the ends of its other chains as they are stored. Stored with the next ``commit``."""
        if self._writer is not None and REGISTRY not in self._burnt:
            ends = [head for head in self._stored_heads() if head.partition != REGISTRY]
            self._record(Kind.CLOSE, records.close(reason, ends))
        self._writer = None

    def forget(self, partition: int) -> None:
        """What was sealed into a partition since the last commit is not going to be stored."""
        if self._writer is not None:
            self._burnt.add(partition)

    def abandon(self) -> None:
        """Nothing that is not stored is going to be: a new epoch is needed for everything, and the registry is to be read anew."""
        self._pending.clear()
        self.registry = Registry()  # it held what was pending: a writer admitted there would never be admitted again
        if self._writer is not None:
            self._burnt.update(head.partition for head in self._writer.heads)

    async def append(self, kind: Kind, env: bytes) -> int:
        """Says one thing in the registry, durably, in an epoch of its own; its index there. For who writes nothing else.

        Raises StoreUnavailable.
        """
        await self.refresh()
        self._writer = None
        self.record(kind, env)
        self.close("said")
        await self.commit(LedgerCommit())
        return self.registry.size - 2

    async def commit(self, change: LedgerCommit) -> None:
        """Stores a change together with what is pending for the registry, in one transaction.

        Raises PositionConflict where somebody else has written what this process thought was its own, or said something in the
        registry that contradicts; then everything pending is forgotten and ``abandon`` has been called. StoreUnavailable leaves
        everything pending.
        """
        async with self._turn:
            while True:
                pending = list(self._pending)
                appends = [*change.appends, *self._append(pending)]
                if not appends and not change.positions and not change.notes:
                    return
                try:
                    await self._store.commit(change._replace(appends=appends))
                except PositionConflict as error:
                    if error.where != f"ledger/{REGISTRY}" or not await self._still_true(pending):
                        self.abandon()
                        raise
                    continue
                self._settle(appends, pending)
                return

    def _begin(self, ends: Sequence[Head] = ()) -> Writer:
        before, time = self._known_as, EpochClock(self._clock, self._epoch_s)
        opened_us = time.opened_us
        enrolment = self._ring.enrol(opened_us) if before is None else self._ring.enrol(opened_us, writer=before[0], after=before[1])
        same = before is not None and enrolment.writer == before[0]
        previous = (before[1], ends) if before is not None and same and ends else None
        writer = self._writer = Writer(
            self.log_id, enrolment, self._cipher, rule_set=self._rule_set, previous=previous, compiled=self._compiled
        )
        self._known_as, self._time = (writer.writer, writer.epoch), time
        self._burnt.clear()
        self._record(Kind.KEY, records.writer_key(writer.writer, writer.epoch, writer.commitment, writer.opened_us, self._heartbeat_s))
        if self._rule_set not in self.registry.rule_sets:
            self._record(Kind.KEY, records.rule_set(self._rule_set, self._classes))
        return writer

    def _ready(self, partition: int) -> Writer:
        """The writer, under the MAC key of now."""
        if partition in self._burnt:
            raise RuntimeError(f"the epoch is over for ledger partition {partition}; begin() comes first")
        writer = self._writer or self._begin()
        writer.advance(self._time.second)
        return writer

    def _stored_heads(self) -> list[Head]:
        """The newest records of this epoch that are stored, of each chain."""
        if self._writer is None:
            return []
        writer, found = self._writer, []
        for partition in [head.partition for head in writer.heads]:
            tip = self._store.tip(partition, writer.writer, writer.epoch)
            if tip is not None:
                stands = unpack_tip(tip)
                found.append(Head(partition, stands.seq, stands.leaf))
        return found

    def _record(self, kind: Kind, env: bytes) -> None:
        for sealed in self.seal(REGISTRY, Draft(kind, env), self.now_us()):
            core = unpack_core(sealed.core)
            self._pending.append(_Pending(sealed, core.kind, sealed.env))
            self.registry.learn(core.kind, sealed.env, (core.chain.writer, core.chain.epoch), core.seq)

    def _append(self, pending: Sequence[_Pending]) -> list[LedgerAppend]:
        if not pending:
            return []
        tree = CompactRange(self._tree.size, self._tree.peaks)
        size, now_us, tips = tree.size, self._clock.now_us(), {}
        rows, facts = [], []
        for number, (sealed, kind, _) in enumerate(pending, size):
            core = unpack_core(sealed.core)
            rows.append(LedgerRow(REGISTRY, number, sealed.packed(), sealed.leaf, now_us, None))
            facts.append(LedgerFacts(kind, core.ts_us, core.retention_class, core.keep_until_day))
            key = (sealed.chain.writer, sealed.chain.epoch)
            tips[key] = Tip(sealed.seq, sealed.leaf, core.mac_epoch, kind == Kind.CLOSE, (), core.ts_us)
        nodes = tree.extend([sealed.leaf for sealed, _, _ in pending])
        return [LedgerAppend(REGISTRY, size, rows, facts, nodes, tree.peaks, [pack_tip(*item) for item in tips.items()])]

    async def _still_true(self, pending: Sequence[_Pending]) -> bool:
        try:
            registry = await self.refresh()
            for sealed, kind, env in pending:
                registry.learn(kind, env, (sealed.chain.writer, sealed.chain.epoch), sealed.seq)
        except Contradiction:
            return False
        return True

    def _settle(self, appends: Sequence[LedgerAppend], pending: Sequence[_Pending]) -> None:
        del self._pending[: len(pending)]
        for append in appends:
            if append.partition == REGISTRY:
                self._tree = CompactRange(append.size + len(append.rows), append.peaks)
                self.registry.size = self._tree.size
