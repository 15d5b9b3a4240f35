"""A recorder before a log with faults, and what a sealer would make of what is in the log: what the recorder's tests are written with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from tests.flows.publishing import Desk, publishing

from tallyroll.adapters.crypto import AesGcm, FileKeyRing
from tallyroll.adapters.re2 import Re2Finder
from tallyroll.audit.compliance.library import library
from tallyroll.audit.compliance.pii import PATTERNS
from tallyroll.audit.compliance.rules import ComplianceRule, RuleSet
from tallyroll.audit.ledger.contents import SALT, AuditEntry, entry_of
from tallyroll.audit.ledger.envelope import record_in
from tallyroll.audit.ledger.layout import Core, Kind, PartType, Record, unpack_core
from tallyroll.audit.ledger.partition import LedgerPartition, Verdict
from tallyroll.audit.ledger.subjects import text_of
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.audit.recording.recorder import Recorder
from tallyroll.audit.recording.violations import Violations
from tallyroll.events.topics import AUDIT_TOPIC
from tallyroll.ports import Cipher, EventLog, KeyRing, Span
from tallyroll.testing.faulty_log import FaultyLog
from tallyroll.testing.ledger import NonceWatch

LOG_ID = bytes(range(16))
SECRET = sha256(b"secret of the tests").digest()
HOUSE = (
    ComplianceRule(rule_id="HOUSE-002", framework="custom", title="block", category="data_deletion", on_failure="block", retention_days=30),
    ComplianceRule(rule_id="HOUSE-003", framework="custom", title="count", category="resource_usage", on_failure="count", retention_days=3),
)
"""Rules for what the library has none for."""


class Booth(NamedTuple):
    """What a test works with."""

    desk: Desk
    ring: FileKeyRing
    cipher: Cipher
    violations: Violations
    recorder: Recorder

    @property
    def log(self) -> FaultyLog:
        return self.desk.log

    async def record(self, **fields: Any) -> AuditEntry:
        """One entry, while time passes."""
        return await self.desk.passing(self.recorder.record(entry(**fields)))

    def another(self) -> Recorder:
        """What a restart of the process gives: another recorder, the same ring."""
        return new_recorder(self.desk, self.ring, self.cipher, self.violations)

    async def arrived(self) -> list[Arrived]:
        """What is in the log."""
        return await arrived_in(self.log)


class Arrived(NamedTuple):
    """A record in the log, and what the taking side of the ledger says of it."""

    event_id: str
    key: str
    verdict: Verdict
    core: Core
    record: Record

    @property
    def env(self) -> dict[str, Any]:
        return msgspec.json.decode(self.record.env or b"{}")


def entry(event_type: str = "file.read", category: str = "data_access", agent_id: str | None = "agent-1", **fields: Any) -> NewEntry:
    """An entry with little in it."""
    return NewEntry.of(event_type, category, "read", fields.pop("description", "read a file"), agent_id=agent_id, **fields)


def new_recorder(desk: Desk, ring: KeyRing, cipher: Cipher, violations: Violations, rules: Sequence[ComplianceRule] = HOUSE) -> Recorder:
    return Recorder(
        LOG_ID, ring, cipher, desk.publisher, desk.catalogue, desk.settings, RuleSet(version="test", rules=(*library().rules, *rules)),
        clock=desk.clock, telemetry=desk.telemetry, finder=Re2Finder(PATTERNS), violations=violations,
    )  # fmt: skip


@asynccontextmanager
async def recording(folder: Path, *, rules: Sequence[ComplianceRule] = HOUSE, **options: Any) -> AsyncIterator[Booth]:
    """A recorder whose keys are in ``folder``, and its spool if there is one; nonces are watched."""
    async with publishing(folder, **options) as desk:
        ring, cipher = FileKeyRing(folder / "keys", SECRET), NonceWatch(AesGcm())
        violations = Violations(desk.telemetry, desk.publisher.publish_batch)
        recorder = new_recorder(desk, ring, cipher, violations, rules)
        try:
            yield Booth(desk, ring, cipher, violations, recorder)
        finally:
            desk.log.heal()
            await desk.passing(recorder.close())


async def arrived_in(log: EventLog, topic: str = AUDIT_TOPIC) -> list[Arrived]:
    """Every record of the audit topic, judged as a sealer judges it; writers that have a genesis count as admitted."""
    starts, ends = await log.starts([topic]), await log.ends([topic])
    found = []
    async for batch in log.read([Span(*where, starts[where], end) for where, end in ends.items() if end > starts[where]]):
        for value, head in zip(batch.values, batch.keys, strict=True):
            event_id, record, _ = record_in(value)
            found.append((batch.partition, event_id, (head or b"").decode(), record))
    admitted = {(core.chain.writer, core.chain.epoch) for core in (unpack_core(record.core) for *_, record in found) if core.seq == 0}
    partitions: dict[int, LedgerPartition] = {}
    arrived = []
    for partition, event_id, key, record in found:
        ledger = partitions.setdefault(partition, LedgerPartition(unpack_core(record.core).chain.log_id, partition))
        offered = ledger.judge(record, admitted)
        assert offered.core is not None
        if offered.verdict in (Verdict.APPEND, Verdict.LATE, Verdict.GAP):
            ledger.append([offered])
        arrived.append(Arrived(event_id, key, offered.verdict, offered.core, record))
    return arrived


def entries_in(arrived: Sequence[Arrived], kinds: Collection[Kind] = (Kind.ENTRY,)) -> list[Arrived]:
    """First copies of entries, or of other records."""
    return [one for one in arrived if one.core.kind in kinds and one.verdict != Verdict.REPEAT]


def read_back(one: Arrived, ring: KeyRing, cipher: Cipher) -> AuditEntry:
    """The entry as its reader gets it."""
    texts = []
    for number, mark in enumerate(one.core.parts):
        text = text_of(ring, cipher, one.record, number)
        texts.append(text[SALT:] if mark.part_type == PartType.PLAIN else text)
    return entry_of(one.record, texts)


__all__ = ["Booth", "arrived_in", "entries_in", "entry", "new_recorder", "read_back", "recording"]
