"""A ledger in memory behind the port of ledger stores: for tests of what reads and removes, without a database."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path

from tests.unit.ledgers import new_ledger, report_on, signer, trust_of

from tallyroll.adapters.crypto import AesGcm, FileKeyRing
from tallyroll.audit.ledger.chain import Part, Writer
from tallyroll.audit.ledger.contents import SALT, env_of, part_text
from tallyroll.audit.ledger.layout import REGISTRY, Kind, PartType, pack_record, unpack_core
from tallyroll.audit.ledger.partition import pack_tip, tips_after
from tallyroll.audit.ledger.subjects import part_about
from tallyroll.audit.removal.erasure import Eraser
from tallyroll.audit.removal.retention import Retention
from tallyroll.ports import LedgerFacts, LedgerRemoval, LedgerRow, LedgerTail, LedgerTip
from tallyroll.testing.ledger import DAY_US, MemoryLedger

SECRET = sha256(b"secret of the tests").digest()


class Killed(BaseException):
    """Where a test ends the process."""


class StoredLedger:
    """The parts of ``LedgerStore`` that removal and reading need; ``cut`` ends the process after so many changes."""

    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger
        self.cut: int | None = None

    def step(self) -> None:
        if self.cut is not None:
            self.cut -= 1
            if self.cut < 0:
                raise Killed

    async def sizes(self) -> Mapping[int, int]:
        return {number: len(part.records) for number, part in self.ledger.partitions.items()}

    async def tails(self, *, ended: bool = False) -> Mapping[int, LedgerTail]:
        return {
            number: LedgerTail(part.tree.size, tuple(part.tree.peaks(part.tree.size)), self.tips(number, ended=ended), part.start)
            for number, part in self.ledger.partitions.items()
        }

    def tips(self, number: int, *, ended: bool) -> list[LedgerTip]:
        """Of everything that was ever written, also of what was pruned since; none where no sealer would have written it so."""
        try:
            stands = tips_after({}, [record.core for record in self.ledger.partitions[number].records])
        except LookupError:
            return []
        return [pack_tip(*one) for one in stands.items() if ended or one[1].open]

    async def rows(self, partition: int, start: int, limit: int) -> Sequence[LedgerRow]:
        part = self.ledger.partitions[partition]
        numbers = range(max(start, part.start), min(len(part.records), start + limit))
        return [LedgerRow(partition, n, pack_record(part.records[n]), part.tree.node(0, n), 0, None) for n in numbers]

    async def _entries(self, after: tuple[int, int]) -> list[tuple[LedgerRow, LedgerFacts]]:
        found = []
        for partition in sorted(self.ledger.partitions):
            for row in await self.rows(partition, 0, 1 << 30):
                core = unpack_core(self.ledger.partitions[partition].records[row.number].core)
                if core.kind == Kind.ENTRY and (partition, row.number) > after:
                    handles = tuple(mark.handle for mark in core.parts)
                    found.append((row, LedgerFacts(core.kind, core.ts_us, core.retention_class, core.keep_until_day, handles)))
        return found

    def _record(self, row: LedgerRow):
        return self.ledger.partitions[row.partition].records[row.number]

    async def about(self, handles: Collection[bytes]) -> Sequence[tuple[int, int, int]]:
        return [
            (row.partition, row.number, part)
            for row, facts in await self._entries((-1, -1))
            for part, handle in enumerate(facts.handles)
            if handle in handles and self._record(row).parts[part] is not None
        ]

    async def due(self, today: int, limit: int, *, after: tuple[int, int] = (-1, -1)):
        return [
            (row, facts) for row, facts in await self._entries(after) if self._record(row).env is not None and facts.keep_until_day < today
        ][:limit]

    async def overdue(self, before_us: Mapping[int, int], limit: int, *, after: tuple[int, int] = (-1, -1)):
        return [
            (row, facts)
            for row, facts in await self._entries(after)
            if any(body is not None for body in self._record(row).parts) and facts.ts_us < before_us.get(facts.retention_class, 0)
        ][:limit]

    async def remove(self, removals: Sequence[LedgerRemoval]) -> int:
        removed = 0
        for partition, number, part in removals:
            self.step()
            record = self.ledger.partitions[partition].records[number]
            if part is None:
                removed += record.env is not None
                self.ledger.drop_body(partition, number)
            else:
                removed += record.parts[part] is not None
                self.ledger.drop_part(partition, number, part)
        return removed

    async def prune(self, partition: int, size: int) -> None:
        self.step()
        self.ledger.partitions[partition].start = size

    async def nodes(self, partition: int, wanted: Sequence[tuple[int, int]]) -> Sequence[bytes]:
        return [self.ledger.partitions[partition].tree.node(*place) for place in wanted]

    async def register(self, kind: Kind, env: bytes) -> int:
        self.step()
        return self.ledger.registry(kind, env)


class LedgerClock:
    def __init__(self, ledger: MemoryLedger) -> None:
        self.ledger = ledger

    def now_us(self) -> int:
        return self.ledger.now_us


class House:
    """A ledger with people in it, its key ring, and who forgets."""

    def __init__(self, folder: Path, *, binding: Collection[str] = (), targets: Sequence[object] = ()) -> None:
        self.path = folder / "keys"
        self.aes = AesGcm()
        self.ledger = new_ledger()
        self.store = StoredLedger(self.ledger)
        self.writer = self.ledger.enrol(b"writer-a")
        self._binding, self._targets = binding, targets
        self.begin()

    def begin(self) -> None:
        """As in a process that begins: the keys are those of the file as it is now."""
        self.ring = FileKeyRing(self.path, SECRET)
        clock, register = LedgerClock(self.ledger), self.store.register
        self.eraser = Eraser(self.store, self.ring, self.aes, signer(), register, clock=clock, binding=self._binding, targets=self._targets)
        self.retention = Retention(self.store, self.ring, register, self.eraser, clock=clock, rule_set="1")

    def write(self, *subjects: str, text: str = "read a file", clear: str = "agent-1", partition: int = 0, **options: object) -> int:
        """An entry with one part about these people; without any, about nobody known."""
        part = part_about(self.ring, part_text({"description": text}), subjects)
        return self.seal([part], partition=partition, agent_id=clear, **options)

    def write_plain(self, text: str, **options: object) -> int:
        return self.seal([Part(PartType.PLAIN, bytes(16), b"", bytes(SALT) + part_text({"description": text}))], **options)

    def seal(
        self, parts: Sequence[Part], *, partition: int = 0, agent_id: str = "agent-1", rule_ids: Sequence[str] = (), **options: object
    ) -> int:
        env = env_of({"audit_id": str(self.ledger.now_us), "agent_id": agent_id, "rule_ids": list(rule_ids)})
        return self.ledger.write(self.writer, partition, env, *parts, **options)

    def wait_days(self, days: int) -> None:
        """As far as writers are concerned each day is a new epoch."""
        last = self.writer
        self.ledger.beat(last, 0)
        self.ledger.close(last)
        self.ledger.wait(days * DAY_US / 1_000_000)
        self.writer: Writer = self.ledger.enrol(b"writer-a", last.epoch + 1, (last.epoch, last.heads))

    def records(self, partition: int = 0):
        return self.ledger.partitions[partition].records

    def findings(self) -> dict[str, int]:
        """What the offline verifier finds in an export of now."""
        self.ledger.checkpoint()
        return dict(report_on(self.ledger.export(), trust_of(self.ledger, macs=True)).counts)


__all__ = ["REGISTRY", "House", "Killed", "StoredLedger"]
