"""Entries of the trail as events of the Open Cybersecurity Schema Framework, for the tools that security people have.

API Activity (6003) of OCSF 1.9 with the profiles AI Operation and Record Integrity. Pure. Fields that the reader could not see
are not there, so what is exported is never more than what its reader was given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from tallyroll.audit.entry import AuditSeverity
from tallyroll.audit.ledger.contents import AuditEntry

VERSION: Final = "1.9.0"
CATEGORY: Final = 6
CLASS: Final = 6003
OTHER: Final = 99

_SEVERITIES: Final = {
    AuditSeverity.INFO: (1, "Informational"), AuditSeverity.LOW: (2, "Low"), AuditSeverity.MEDIUM: (3, "Medium"),
    AuditSeverity.HIGH: (4, "High"), AuditSeverity.CRITICAL: (5, "Critical"),
}  # fmt: skip
_ACTIVITIES: Final = {
    "create": 1, "created": 1, "add": 1, "grant": 1, "read": 2, "view": 2, "get": 2, "query": 2, "export": 2, "access": 2,
    "update": 3, "updated": 3, "write": 3, "modify": 3, "change": 3, "delete": 4, "deleted": 4, "remove": 4, "erase": 4,
}  # fmt: skip
_NAMES: Final = {1: "Create", 2: "Read", 3: "Update", 4: "Delete"}
_STATUS: Final = {"success": (1, "Success"), "failure": (2, "Failure"), "denied": (2, "Failure"), "failed": (2, "Failure")}
_MAPPED: Final = frozenset({
    "audit_id", "timestamp", "event_type", "severity", "action", "outcome", "description", "user_id", "session_id", "agent_id",
    "resource", "source_ip", "user_agent", "correlation_id", "model", "tool", "agent", "previous_hash", "current_hash", "mac",
    "digital_signature", "chain", "source", "tenant",
})  # fmt: skip


def ocsf_event(entry: AuditEntry, *, ledger: str = "") -> dict[str, Any]:
    """The entry as an OCSF event; ``ledger`` is the ledger's name, who attests. What has no place in the schema is in ``unmapped``."""
    activity = _ACTIVITIES.get(entry.action.lower(), OTHER)
    severity_id, severity = _SEVERITIES[entry.severity]
    status_id, status = _STATUS.get(entry.outcome, (OTHER, entry.outcome or "Unknown"))
    writer = entry.chain.partition("/")[0]
    event = {
        "activity_id": activity, "activity_name": _NAMES.get(activity, entry.action), "category_uid": CATEGORY,
        "category_name": "Application Activity", "class_uid": CLASS, "class_name": "API Activity", "type_uid": CLASS * 100 + activity,
        "severity_id": severity_id, "severity": severity, "status_id": status_id, "status": status,
        "time": int(entry.timestamp.timestamp() * 1_000), "message": entry.description or f"{entry.event_type} {entry.action}".strip(),
        "metadata": _metadata(entry),
        "actor": _there({
            "app_uid": entry.agent_id or entry.source or writer,
            "user": _there({"uid": entry.user_id}), "session": _there({"uid": entry.session_id}),
        }),
        "api": _there({"operation": entry.action or entry.event_type or "expired", "service": _there({"name": entry.tool})}),
        "src_endpoint": _there({"uid": writer, "ip": entry.source_ip, "svc_name": entry.source}),
        "http_request": _there({"user_agent": entry.user_agent}),
        "resources": [{"name": entry.resource}] if entry.resource else None,
        "ai_agent": _agent(entry),
        "ai_model": None if entry.agent_id else _model(entry.model),
        "attestation_list": [_attestation(entry, ledger)],
        "unmapped": _there({name: value for name, value in entry.to_dict().items() if name not in _MAPPED}),
    }  # fmt: skip
    return _there(event)


def _metadata(entry: AuditEntry) -> dict[str, Any]:
    return _there({
        "version": VERSION, "product": {"name": "tallyroll", "vendor_name": "tallyroll"}, "profiles": ["ai_operation", "record_integrity"],
        "uid": entry.audit_id, "event_code": entry.event_type, "correlation_uid": entry.correlation_id, "log_name": "audit ledger",
        "original_time": entry.timestamp.isoformat(), "tenant_uid": entry.tenant,
    })  # fmt: skip


def _agent(entry: AuditEntry) -> dict[str, Any] | None:
    if not entry.agent_id:
        return None
    about = entry.agent or {}
    shown = {"uid": entry.agent_id, "instance_uid": about.get("instance"), "version": about.get("version"), "ai_model": _model(entry.model)}
    return _there(shown)


def _model(model: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if not model or not model.get("name"):
        return None
    return _there({"name": model["name"], "ai_provider": model.get("provider") or "Unknown", "version": model.get("version")})


def _attestation(entry: AuditEntry, ledger: str) -> dict[str, Any]:
    """The leaf of the ledger is a fingerprint of its own serialization, not of this JSON; what is signed is the tree above it."""
    chain, _, seq = entry.chain.rpartition("/")
    before = int(seq) - 1
    return _there({
        "uid": entry.chain, "chain_uid": chain, "authority_uid": ledger, "fingerprint": _fingerprint(entry.current_hash),
        "prev_event": {"uid": f"{chain}/{before}", "fingerprint": _fingerprint(entry.previous_hash)} if before >= 0 else None,
    })  # fmt: skip


def _fingerprint(value: str) -> dict[str, Any]:
    return {
        "algorithm": "SHA-256", "algorithm_id": 3, "value": value, "encoding": "Hex", "encoding_id": 1,
        "serialization": "tallyroll ledger core, version 1", "serialization_id": OTHER,
    }  # fmt: skip


def _there(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, "", [], {}, ())}
