"""What a record is found by, taken from its own bytes: a sealer stores it, and a verifier holds the store's index against it. Pure."""

from __future__ import annotations

from typing import Final

import msgspec

from tallyroll.audit.ledger.layout import Core, Kind, Record
from tallyroll.ports import LedgerFacts


class _Named(msgspec.Struct, gc=False):
    """What of an entry's env it is found by."""

    audit_id: str = ""
    event_type: str = ""
    category: str = ""
    severity: str = ""
    outcome: str = ""
    agent_id: str = ""
    task_id: str = ""
    workflow_id: str = ""
    compliance_frameworks: tuple[str, ...] = ()


def facts_of(record: Record, core: Core) -> LedgerFacts:
    """What the record is found by. An env of another shape is found by its core alone."""
    handles = tuple([mark.handle for mark in core.parts]) if core.parts else ()
    try:
        named = _NOTHING if core.kind != _ENTRY or record.env is None else _decode_named(record.env)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        named = _NOTHING
    return LedgerFacts(
        core.kind, core.ts_us, core.retention_class, core.keep_until_day, handles, named.audit_id, named.event_type, named.category,
        named.severity, named.outcome, named.agent_id, named.task_id, named.workflow_id, named.compliance_frameworks,
    )  # fmt: skip


_ENTRY: Final = Kind.ENTRY
_NOTHING: Final = _Named()
_decode_named: Final = msgspec.json.Decoder(_Named).decode
