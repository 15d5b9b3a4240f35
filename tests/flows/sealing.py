"""A sealer with a real store and real keys over a log that is a few lists: for tests that say what arrives, and when it ends."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from tallyroll.adapters.crypto import AesGcm, Ed25519Signer, FileKeyRing, SecretRoot, is_signed
from tallyroll.adapters.sqlite.ledger_store import SqliteLedgerStore
from tallyroll.audit.compliance.rules import ComplianceRule, RuleViolation
from tallyroll.audit.ledger import proving
from tallyroll.audit.ledger.chain import Draft, Part, Sealed, Writer
from tallyroll.audit.ledger.contents import AuditEntry, env_of
from tallyroll.audit.ledger.envelope import document_of
from tallyroll.audit.ledger.layout import REGISTRY, Kind, take_out
from tallyroll.audit.ledger.note import ED25519, NoteKey
from tallyroll.audit.ledger.records import close
from tallyroll.audit.reading.index import index_findings
from tallyroll.audit.reading.ledger_files import Counted, ledger_files
from tallyroll.audit.removal.erasure import Eraser
from tallyroll.audit.removal.retention import Retention
from tallyroll.audit.sealing.breaches import Breaches
from tallyroll.audit.sealing.checkpointing import Checkpoints
from tallyroll.audit.sealing.deriving import Deriver
from tallyroll.audit.sealing.finding import Finding
from tallyroll.audit.sealing.registrar import Registrar
from tallyroll.audit.sealing.sealer import AuditSealer
from tallyroll.audit.sealing.separating import Separating
from tallyroll.audit.sealing.upkeep import Upkeep
from tallyroll.audit.verify import Report, Trust, verify_files
from tallyroll.errors import KeyRingUnavailable
from tallyroll.events.batch import Batch
from tallyroll.events.codec import encode
from tallyroll.events.event import AgentEvent
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import Catalogue
from tallyroll.ports import Enrolment, KeyRing, LedgerWanted, Witness
from tallyroll.telemetry import Counters
from tallyroll.testing.builders import EventBuilder
from tallyroll.testing.clock import FakeClock
from tallyroll.testing.ledger import DAY_US, NonceWatch

LOG_ID = bytes(range(16))
ORIGIN = f"tallyroll/{LOG_ID.hex()}"
AUDIT = TopicPartition("audit-events", 0)
AUDIT_1 = TopicPartition("audit-events", 1)
TASKS = TopicPartition("task-events", 0)
SYSTEM = TopicPartition("system-events", 0)
ALL = (AUDIT, AUDIT_1, TASKS, SYSTEM)
KEPT_DAYS = 365
CLASSES = {0: None, 30: 30}
"""Retention classes and the days after which their personal parts must be gone."""


class Away:
    """A key ring that gives no epochs while it is ``away``."""

    def __init__(self, inner: KeyRing) -> None:
        self._inner = inner
        self.away = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def enrol(self, *args: Any, **more: Any) -> Enrolment:
        if self.away:
            raise KeyRingUnavailable("keys", "away")
        return self._inner.enrol(*args, **more)


class Running:
    """One process that seals: what it holds in memory is gone when it is dropped without ``stop``."""

    def __init__(
        self,
        house: House,
        *,
        witnesses: Sequence[Witness] = (),
        epoch_s: int = 24 * 3_600,
        rules: Sequence[ComplianceRule] = (),
        deriver: Deriver | None = None,
    ) -> None:
        registrar = Registrar(
            house.store, house.ring, house.aes, LOG_ID, clock=house.clock, rule_set="1", classes=CLASSES, epoch_s=epoch_s,
            compiled=house.compiled,
        )  # fmt: skip
        deriver = deriver or Deriver(LOG_ID, subject_fields=["customer_id"], compiled=house.compiled)
        self.house = house
        self.counters = Counters()
        self.checkpoints = Checkpoints(house.store, house.signer, house.ring, witnesses, refused=house.refusals.append, forged=self._forged)
        self.sealer = AuditSealer(
            house.store, house.ring, AesGcm(), registrar, deriver, Catalogue(),
            clock=house.clock, publish=house.publish, check=self._check, committed=self._committed, log_spans=house.log_spans,
            telemetry=self.counters,
            separating=Separating(rules, house.store, house.ring, AesGcm(), clock=house.clock),
            breaches=Breaches(rules, ["iso27001"], house.store, self._told),
        )  # fmt: skip
        self.upkeep = Upkeep(
            self.sealer, house.store, self.checkpoints, clock=house.clock, leading=lambda: AUDIT in self.sealer.lanes, rules=rules,
            log_spans=house.log_spans,
        )  # fmt: skip

    async def hold(self, *partitions: TopicPartition) -> Running:
        await self.sealer.positions(partitions or ALL)
        return self

    def take(self) -> None:
        """Everything that is in the log and was not taken in."""
        for where, lane in self.sealer.lanes.items():
            values = self.house.log[where][lane.next :]
            if values:
                offsets = range(lane.next, lane.next + len(values))
                none = [None] * len(values)
                self.sealer.apply(Batch(*where, offsets=offsets, keys=none, values=values, timestamps_ms=[-1] * len(values)))

    async def seal(self) -> None:
        self.take()
        await self.sealer.flush()

    async def note(self) -> None:
        await self.upkeep.turn()
        await self.checkpoints.note()

    async def stop(self) -> None:
        self.sealer.drop(list(self.sealer.lanes))
        await self.upkeep.finish()
        await self.sealer.close()

    def _forged(self, partition: int, number: int) -> None:
        self.sealer.report(Finding("forged", f"ledger/{partition}/{number}"))

    def _told(self, entry: AuditEntry, violations: Sequence[RuleViolation], monitors: Sequence[str]) -> None:
        self.house.told += [(entry.audit_id, item.rule_id, tuple(monitors)) for item in violations]

    async def _committed(self) -> dict[TopicPartition, int]:
        return self.house.committed

    async def _check(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            await self.checkpoints.check_partition(number)
        if 0 in numbers:
            await self.checkpoints.check_partition(REGISTRY)
            await self.checkpoints.check_noted(is_signed)
            await self.checkpoints.check_unnoted()
        for number in numbers:
            await self.checkpoints.check_chains(number)


class House:
    """A ledger in a folder, its log, and whoever writes into it; with the compiled core, where it is installed, or without it."""

    def __init__(self, folder: Path, *, compiled: bool = True) -> None:
        self.folder = folder
        self.compiled = compiled
        self.path = folder / "ledger.sqlite"
        self.clock = FakeClock()
        self.ring: KeyRing = self.open_ring()
        self.aes = NonceWatch(AesGcm())  # of all processes together
        self.signer = Ed25519Signer(ORIGIN, sha256(b"log").digest())
        self.log: dict[TopicPartition, list[bytes | None]] = {where: [] for where in ALL}
        self.log_away = False
        self.published: list[AgentEvent] = []
        self.committed: dict[TopicPartition, int] = {}
        self.refusals: list[str] = []
        self.told: list[tuple[str, str, tuple[str, ...]]] = []
        self.written = 0
        self.events = EventBuilder()

    @classmethod
    async def open(cls, folder: Path, *, compiled: bool = True) -> House:
        house = cls(folder, compiled=compiled)
        house.store = await SqliteLedgerStore.open(house.path, take_out)
        return house

    def open_ring(self) -> FileKeyRing:
        """As another process has it."""
        return FileKeyRing(self.folder / "keys", SecretRoot(sha256(b"secret").digest()))

    async def register(self, kind: Kind, env: bytes) -> int:
        """Says one thing in the registry, noted, beside whoever seals."""
        checkpoints = Checkpoints(self.store, self.signer, self.ring)
        await checkpoints.check_unnoted()
        registrar = Registrar(self.store, self.ring, self.aes, LOG_ID, clock=self.clock, rule_set="1", classes=CLASSES)
        index = await registrar.append(kind, env)
        while (known := await proving.noted(self.store)) is None or known.sizes.get(REGISTRY, 0) <= index:
            await checkpoints.note()
        return index

    def eraser(self) -> Eraser:
        return Eraser(self.store, self.ring, AesGcm(), self.signer, self.register, clock=self.clock)

    def retention(self) -> Retention:
        return Retention(self.store, self.ring, self.register, self.eraser(), clock=self.clock, rule_set="1")

    async def log_spans(self) -> dict[TopicPartition, tuple[int, int]] | None:
        return None if self.log_away else {where: (0, len(values)) for where, values in self.log.items()}

    async def publish(self, event: AgentEvent) -> None:
        self.published.append(event)

    @property
    def key(self) -> str:
        return str(NoteKey(ORIGIN, ED25519, self.signer.public))

    def writer(self) -> Writer:
        return Writer(LOG_ID, self.ring.enrol(self.clock.now_us()), AesGcm(), rule_set="1")

    def write(  # what a record says
        self,
        writer: Writer,
        *parts: Part,
        where: TopicPartition = AUDIT,
        kind: Kind = Kind.ENTRY,
        retention_class: int = 0,
        **clear: object,
    ) -> list[Sealed]:
        """Seals a record and does not send it."""
        self.written += 1
        fields = {"audit_id": f"id-{self.written}-{self.clock.now_us()}", "event_type": "file.read", "action": "read", **clear}
        env = close("end") if kind == Kind.CLOSE else env_of(fields)
        writer.advance((self.clock.now_us() - writer.opened_us) // 1_000_000)
        day = self.clock.now_us() // DAY_US + KEPT_DAYS
        return writer.seal(where.partition, Draft(kind, env, parts, retention_class, day), self.clock.now_us())

    def send(self, *sealed: Sealed, where: TopicPartition = AUDIT) -> None:
        for item in sealed:
            self.log[where].append(document_of(item.packed(), "id", "audit:x", "test", b"2026-01-01T00:00:00Z"))

    def say(self, where: TopicPartition = TASKS, event: AgentEvent | None = None, **payload: object) -> AgentEvent:
        event = event or self.events.event(payload={"agent_id": "agent-1", **payload})
        self.log[where].append(encode(event))
        return event

    async def found(self, **wanted: object) -> list[str]:
        """The actions of the entries that are found."""
        _, rows = await self.store.find(LedgerWanted(**wanted), limit=1_000)
        return [row.raw.partition(b'"action":"')[2].partition(b'"')[0].decode() for row in rows]

    async def files(self, known: proving.Noted | None = None) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        known = known or await proving.noted(self.store)
        assert known is not None
        async for name, piece in ledger_files(self.store, known, Counted()):
            files[name] = files.get(name, b"") + piece
        return files

    async def report(self, known: proving.Noted | None = None, *, witnesses: Sequence[str] = ()) -> Report:
        """What the offline verifier makes of an export of now, or of what was ``known``, with every MAC key."""
        files = await self.files(known)
        plain = Trust(today=self.clock.now_us() // DAY_US, keys=(self.key,))
        admitted = {}
        running = Registrar(self.store, self.ring, AesGcm(), LOG_ID, clock=self.clock, rule_set="1")
        for writer, epoch in (await running.refresh()).admitted:
            admitted[writer, epoch] = self.ring.k0(writer, epoch)
        trust = Trust(plain.today, plain.keys, tuple(witnesses), len(witnesses), admitted)
        return verify_files(files, trust, check=is_signed)[0]

    async def findings(self) -> dict[str, int]:
        """What the verifier finds; where that is nothing, what the store holds beside the records and is not what they say."""
        return dict((await self.report()).counts) or dict((await index_findings(self.store, (), {})).counts)
