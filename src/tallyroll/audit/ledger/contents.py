"""How an entry's fields are laid into a record, and read back from it.

The env holds what is in clear, under the names of ``AuditEntry`` and without those that say nothing; each part is a JSON
object of personal fields, and an entry is all of them together. Pure: no clock, no randomness, no I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from tallyroll.audit.entry import SEALED_FIELDS, AuditEventCategory, AuditSeverity, ComplianceFramework, has_value
from tallyroll.audit.ledger.layout import PartType, Record, leaf_hash, unpack_core, write_json
from tallyroll.audit.ledger.stored import record_in
from tallyroll.events.moments import EPOCH, moment_at
from tallyroll.events.position import Position
from tallyroll.ports import LedgerRow

SALT: Final = 16
"""Bytes before the text of a plain part."""

_DAY_US: Final = 86_400_000_000


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One entry of the trail, as its reader may see it.

    Fields that were erased, expired, or are not this reader's are None. ``erased`` names those that may have had a value which
    nobody can read any more; ``key_lost`` those that may have one whose key is not in the key ring though nothing in the ledger
    says that it went: the ring is an older copy, or was tampered with, and who puts the newest one back can read them.
    ``restricted``: an erasure was asked for, and something stands against it; ``held``: a hold keeps it.
    ``current_hash``, ``previous_hash`` and ``mac`` are hex. ``retention_date`` is the end of the last day that the entry is kept.
    ``state`` is ``recorded`` (durable here, not yet in the ledger), ``sealed``, ``witnessed``, or ``broken`` where a part does
    not open under its key, which is a reason to verify the ledger; ``chain`` is ``writer/epoch/partition/seq``; ``index`` its place
    in the ledger's partition, None while it is only recorded. An entry that was derived from an event names its ``event_time``,
    the SHA-256 of its bytes as ``digest``, that of the same without the link and the trace that its publisher gave it as
    ``content_digest`` (see ``docs/explanation/sealing.md``), and how it fits into its publisher's chain.
    """

    audit_id: str
    timestamp: datetime
    event_type: str
    category: AuditEventCategory
    severity: AuditSeverity
    action: str
    outcome: str
    description: str | None = None
    user_id: str | None = None
    session_id: str | None = None
    agent_id: str | None = None
    task_id: str | None = None
    workflow_id: str | None = None
    resource: str | None = None
    source_ip: str | None = None
    user_agent: str | None = None
    correlation_id: str | None = None
    payload: dict[str, Any] | None = None
    compliance_frameworks: tuple[ComplianceFramework, ...] = ()
    reason: str | None = None
    actor_type: str | None = None
    on_behalf_of: tuple[str, ...] | None = None
    overseer: str | None = None
    agent: dict[str, Any] | None = None
    model: dict[str, Any] | None = None
    tool: str | None = None
    source: str | None = None
    tenant: str | None = None
    purpose: str | None = None
    legal_basis: str | None = None
    before_hash: str | None = None
    after_hash: str | None = None
    rule_ids: tuple[str, ...] = ()
    rule_set: str | None = None
    violations: tuple[dict[str, Any], ...] = ()
    origin: str = "explicit"
    event_id: str | None = None
    event_time: str | None = None
    digest: str | None = None
    content_digest: str | None = None
    publisher_chain: str | None = None
    subjects: tuple[str, ...] = ()
    encrypted: bool = False
    retention_date: datetime
    previous_hash: str
    current_hash: str
    mac: str
    chain: str
    partition: int
    index: int | None = None
    position: str | None = None
    state: str = "recorded"
    erased: tuple[str, ...] = ()
    key_lost: tuple[str, ...] = ()
    restricted: bool = False
    held: bool = False

    @property
    def digital_signature(self) -> str:
        """The MAC, by the name that earlier readers know. It proves nothing to outsiders: who can check it can make it."""
        return self.mac

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, the signature under its older name as well."""
        shown: dict[str, Any] = msgspec.to_builtins(self)
        return {name: [*value] if isinstance(value, tuple) else value for name, value in shown.items()} | {"digital_signature": self.mac}


CLEAR_FIELDS: Final = frozenset(
    {
        "audit_id", "event_type", "category", "severity", "action", "outcome", "agent_id", "task_id", "workflow_id", "correlation_id",
        "compliance_frameworks", "reason", "actor_type", "agent", "model", "tool", "source", "tenant", "purpose", "legal_basis",
        "before_hash", "after_hash", "rule_ids", "rule_set", "violations", "origin", "event_id",
        "event_time", "digest", "content_digest", "publisher_chain", "position",
    }
)  # fmt: skip
"""Fields of an entry that its env may hold."""

SEALABLE_FIELDS: Final = SEALED_FIELDS | {"action", "reason", "purpose", "legal_basis"}
"""Fields that a part may hold: the sealed ones, and free text that is in clear unless something personal was found in it."""


def env_of(fields: Mapping[str, object]) -> bytes:
    """The env of an entry. Raises ValueError for a field that may not be in clear."""
    if strange := sorted(set(fields) - CLEAR_FIELDS):
        raise ValueError(f"not a field in clear: {', '.join(strange)}")
    return write_json({name: value for name, value in fields.items() if has_value(value)})


def part_text(fields: Mapping[str, object]) -> bytes:
    """The text of a part. Raises ValueError for a field that belongs into the env."""
    if strange := sorted(set(fields) - SEALABLE_FIELDS):
        raise ValueError(f"not a field of a part: {', '.join(strange)}")
    return write_json({name: value for name, value in fields.items() if has_value(value)})


def altered_entry(row: LedgerRow, record: Record) -> AuditEntry:
    """What the core says of an entry whose env or parts were altered so that nobody can read them."""
    return entry_of(record._replace(env=None, parts=()), (), index=row.number, source=row.source, state="broken")


def in_clear(row: LedgerRow, lost: Collection[int] = ()) -> AuditEntry:
    """The entry with its clear fields alone; ``lost`` as for ``entry_of``. Raises LedgerTampered where nothing of it can be read."""
    return clear_entry(row, record_in(row)[0], lost)


def clear_entry(row: LedgerRow, record: Record, lost: Collection[int] = ()) -> AuditEntry:
    """The same of a record that was read from the row already. Raises nothing."""
    there = {number for number, body in enumerate(record.parts) if body is not None}
    try:
        return entry_of(record, [None] * len(record.parts), index=row.number, source=row.source, state="sealed", hidden=there, lost=lost)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return altered_entry(row, record)


def entry_of(  # noqa: PLR0913  # a record, and what its place and its reader make of it
    record: Record,
    texts: Sequence[bytes | None],
    *,
    index: int | None = None,
    source: Position | None = None,
    state: str = "recorded",
    hidden: Collection[int] = (),
    lost: Collection[int] = (),
) -> AuditEntry:
    """The entry that a record holds. ``texts`` are its parts, opened (a plain one without its salt); None where one cannot be read.

    ``hidden`` are the numbers of parts that are there and not for this reader, ``lost`` of those whose key is lost. Where the env
    is gone too, what the core says is left. Raises msgspec.ValidationError for an env of another shape.
    """
    core = unpack_core(record.core)
    env: dict[str, Any] = {} if record.env is None else msgspec.json.decode(record.env, type=dict[str, Any])
    personal: dict[str, Any] = {}
    for text in texts:
        if text is not None:
            personal.update(msgspec.json.decode(text, type=dict[str, Any]))
    erased = any(text is None and number not in hidden and number not in lost for number, text in enumerate(texts))
    chain = core.chain
    fields = {
        "audit_id": "", "event_type": "", "category": AuditEventCategory.AUDIT_SYSTEM, "severity": AuditSeverity.INFO,
        "action": "", "outcome": "", **env, **personal,
        "timestamp": moment_at(core.ts_us),
        "retention_date": EPOCH + timedelta(days=core.keep_until_day, microseconds=_DAY_US - 1),
        "subjects": tuple(mark.handle.hex() for mark in core.parts if mark.part_type != PartType.PLAIN),
        "encrypted": any(mark.part_type != PartType.PLAIN for mark in core.parts),
        "previous_hash": core.prev.hex(), "current_hash": leaf_hash(record.core).hex(), "mac": record.mac.hex(),
        "chain": f"{chain.writer.hex()}/{chain.epoch}/{chain.partition}/{core.seq}",
        "partition": chain.partition, "index": index, "position": env.get("position", source and str(source)), "state": state,
    }  # fmt: skip
    if why := [name for name, so in (("erased", erased), ("key_lost", bool(lost))) if so]:
        fields |= dict.fromkeys(why, tuple(sorted(SEALED_FIELDS - personal.keys())))
        fields.setdefault("payload", dict.fromkeys(why, True))
    return msgspec.convert(fields, AuditEntry)
