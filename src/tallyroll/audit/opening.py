"""Audit joined from its ports: the keys, the ledger's store, the recorder of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from tallyroll.audit.compliance.pii import PiiScanner
from tallyroll.audit.compliance.rules import RuleSet, retention_classes
from tallyroll.audit.ledger import proving
from tallyroll.audit.ledger.layout import META, REGISTRY, Kind
from tallyroll.audit.ledger.note import ED25519, NoteKey
from tallyroll.audit.reading.facade import AuditReading
from tallyroll.audit.recording.recorder import Recorder
from tallyroll.audit.recording.violations import Violations
from tallyroll.audit.removal.erasure import Eraser
from tallyroll.audit.removal.retention import Retention
from tallyroll.audit.sealing.breaches import Breaches
from tallyroll.audit.sealing.checkpointing import Checkpoints
from tallyroll.audit.sealing.deriving import Deriver
from tallyroll.audit.sealing.finding import Finding
from tallyroll.audit.sealing.options import SealerOptions
from tallyroll.audit.sealing.registrar import Registrar
from tallyroll.audit.sealing.sealer import AuditSealer
from tallyroll.audit.sealing.separating import Separating
from tallyroll.audit.sealing.upkeep import Upkeep
from tallyroll.audit.verify.ed25519 import is_signed
from tallyroll.errors import LogUnavailable, TopicConflict
from tallyroll.events.position import TopicPartition
from tallyroll.events.topics import AUDIT_TOPIC, Catalogue
from tallyroll.ports import Cipher, Clock, EventLog, KeyRing, LedgerCommit, LedgerStore, PiiFinder, Signer, Witness
from tallyroll.publish.publisher import EventPublisher
from tallyroll.settings import Settings
from tallyroll.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class AuditKeys:
    """Everything secret of one ledger, opened. ``new_cipher``: one for each thread, since they keep prepared keys."""

    log_id: bytes
    ring: KeyRing
    signer: Signer
    new_cipher: Callable[[], Cipher]
    close: Callable[[], object]
    """Forgets the keys. Idempotent."""

    @property
    def origin(self) -> str:
        """What the ledger is called in checkpoints."""
        return self.signer.name


class OpenAudit:
    """The ledger of one log, as far as it is needed: the keys at once, the store when somebody reads or keeps it.

    Log, publisher, clock and store stay their opener's; the keys are closed with it.
    """

    def __init__(  # noqa: PLR0913  # the composition root hands over what was opened
        self,
        keys: AuditKeys,
        rules: RuleSet,
        store: Callable[[], Awaitable[LedgerStore]],
        publisher: EventPublisher,
        log: EventLog,
        catalogue: Catalogue,
        settings: Settings,
        *,
        clock: Clock,
        telemetry: Telemetry,
        finder: PiiFinder,
        violations: Violations,
        catch_up: Callable[[], Awaitable[None]],
        open_witnesses: Callable[[str], Sequence[Witness]],
    ) -> None:
        self.keys = keys
        self.rules = rules
        self.log = log
        self.catalogue = catalogue
        self.settings = settings
        self.clock = clock
        self.telemetry = telemetry
        self.finder = finder
        self.violations = violations
        self.store = store
        self._publisher = publisher
        self._catch_up = catch_up
        self._open_witnesses = open_witnesses
        self._registrar: Registrar | None = None
        self._reading: AuditReading | None = None

    @cached_property
    def recorder(self) -> Recorder:
        """What this process records with."""
        return Recorder(
            self.keys.log_id, self.keys.ring, self.keys.new_cipher(), self._publisher, self.catalogue, self.settings, self.rules,
            clock=self.clock, telemetry=self.telemetry, finder=self.finder, violations=self.violations,
        )  # fmt: skip

    async def registrar(self) -> Registrar:
        """What says single things in the registry; the follower has one of its own."""
        if self._registrar is None:
            self._registrar = Registrar(
                await self.store(), self.keys.ring, self.keys.new_cipher(), self.keys.log_id, clock=self.clock,
                rule_set=self.rules.version, classes=retention_classes(self.rules.rules), heartbeat_s=self.settings.audit_heartbeat_seconds,
            )  # fmt: skip
        return self._registrar

    async def eraser(self) -> Eraser:
        """What forgets people. A new one each time."""
        binding = [rule.rule_id for rule in self.rules.rules if rule.binding]
        return Eraser(
            await self.store(), self.keys.ring, self.keys.new_cipher(), self.keys.signer, self._register,
            clock=self.clock, binding=binding, targets=[self.recorder],
        )  # fmt: skip

    async def retention(self) -> Retention:
        """What removes things on their day, and keeps them under holds. A new one each time."""
        eraser = await self.eraser()
        return Retention(await self.store(), self.keys.ring, self._register, eraser, clock=self.clock, rule_set=self.rules.version)

    async def _register(self, kind: Kind, env: bytes) -> int:
        """Says one thing in the registry, under a checkpoint: before that it justifies nothing to who verifies.

        For an erasure, which somebody waits for, only the registry is looked at and signed; the rest is left to the follower: of all
        that was sealed since its last checkpoint every MAC would be checked, and behind a flood of entries that took over a second.
        What retention prunes has to be signed before.
        """
        store, only = await self.store(), {REGISTRY} if kind is Kind.ERASURE else None
        checkpoints = Checkpoints(store, self.keys.signer, self.keys.ring, telemetry=self.telemetry)
        await checkpoints.check_unnoted(only)  # what somebody has written into the registry says nothing
        index = await (await self.registrar()).append(kind, env)
        while (known := await proving.noted(store)) is None or known.sizes.get(REGISTRY, 0) <= index:
            await checkpoints.note(only=only)  # false where the follower was faster: look again whether it has seen this
        return index

    async def reading(self) -> AuditReading:
        """What reads the ledger. Raises StoreUnavailable."""
        if self._reading is None:
            self._reading = AuditReading(self, await self.store(), self._catch_up)
        return self._reading

    @property
    def topics(self) -> list[str]:
        """The names of the topics that are sealed."""
        return [topic.name for topic in self.catalogue.topics if topic.user or topic.base == AUDIT_TOPIC]

    async def committed(self) -> Mapping[TopicPartition, int]:
        """Up to where the log knows the ledger to have been stored; what is stored there now may be less. Raises LogUnavailable."""
        return await self.log.committed(self.settings.group("audit"), self.topics)

    async def log_spans(self) -> Mapping[TopicPartition, tuple[int, int]] | None:
        """Which offsets the log has of each partition that is sealed, from and to (exclusive); None while it cannot be asked."""
        try:
            ends, starts = await self.log.ends(self.topics), await self.log.starts(self.topics)
        except (LogUnavailable, TopicConflict):
            return None
        return {partition: (starts.get(partition, 0), end) for partition, end in ends.items()}

    async def begin_anew(self) -> list[TopicPartition]:
        """Accepts that the ledger is gone: a sealer that starts makes another one, of what the log still has. Which partitions.

        Of those that the ledger has something of nothing is changed. Raises LogUnavailable, StoreUnavailable.
        """
        store, committed = await self.store(), await self.committed()
        stored = await store.progress()
        gone = sorted(one for one, position in committed.items() if position > 0 and one not in stored)
        starts = await self.log.starts(sorted({one.topic for one in gone}))
        await store.commit(LedgerCommit(positions={one: (None, starts.get(one, 0)) for one in gone}))
        return gone

    def open_witnesses(self) -> Sequence[Witness]:
        """Who remembers and cosigns the checkpoints of this ledger, nobody asked yet; the caller closes them."""
        return self._open_witnesses(str(NoteKey(self.keys.origin, ED25519, self.keys.signer.public)))

    async def follower(self) -> AuditSealer:
        """What seals the log into the ledger, and makes its checkpoints where it holds the first partition of ``audit-events``.

        Raises StoreUnavailable.
        """
        witnesses = self.open_witnesses()
        store, settings, keys, cipher = await self.store(), self.settings, self.keys, self.keys.new_cipher()
        beat_s, first = settings.audit_heartbeat_seconds, TopicPartition(self.catalogue[AUDIT_TOPIC].name, 0)
        registrar = Registrar(
            store, keys.ring, cipher, keys.log_id, clock=self.clock,
            rule_set=self.rules.version, classes=retention_classes(self.rules.rules), heartbeat_s=beat_s,
        )  # fmt: skip
        derived = self.rules.derived
        deriver = Deriver(
            keys.log_id, subject_fields=settings.subject_fields_named, payload_types=derived.payload_types, categories=derived.category_of,
            scanner=PiiScanner(self.finder),
        )  # fmt: skip

        def refused(detail: str) -> None:
            follower.report(Finding("witness", f"ledger/{META}", detail))

        def forged(partition: int, number: int) -> None:
            follower.report(Finding("forged", f"ledger/{partition}/{number}", "behind the newest note"))

        checkpoints = Checkpoints(store, keys.signer, keys.ring, witnesses, telemetry=self.telemetry, refused=refused, forged=forged)

        async def check(numbers: Sequence[int]) -> None:
            for number in numbers:
                await checkpoints.check_partition(number)
            if first.partition in numbers:
                await checkpoints.check_partition(REGISTRY)
                await checkpoints.check_noted(is_signed)
                await checkpoints.check_unnoted()
            for number in numbers:
                await checkpoints.check_chains(number)

        follower = AuditSealer(
            store, keys.ring, cipher, registrar, deriver, self.catalogue,
            clock=self.clock, heartbeat_s=beat_s, options=SealerOptions(settings.audit_default_retention_days, derived.days_of),
            publish=self._publisher.publish, telemetry=self.telemetry, check=check, committed=self.committed, log_spans=self.log_spans,
            separating=Separating(self.rules.rules, store, keys.ring, cipher, clock=self.clock),
            breaches=Breaches(self.rules.rules, settings.audit_frameworks_named, store, self.violations.tell),
        )  # fmt: skip
        upkeep = Upkeep(
            follower, store, checkpoints, clock=self.clock, leading=lambda: first in follower.lanes, log_spans=self.log_spans,
            checkpoint_s=settings.audit_checkpoint_seconds, heartbeat_s=beat_s,
            rules=[rule for rule in self.rules.rules if rule.framework in settings.audit_frameworks_named],
        )  # fmt: skip
        follower.beside(upkeep.start, upkeep.stop, *(witness.close for witness in witnesses))
        return follower

    async def close(self) -> None:
        """Ends the chains of this process and forgets the keys."""
        if "recorder" in self.__dict__:
            await self.recorder.close()
        await asyncio.to_thread(self.keys.close)
