"""Names of the audit trail import from where users know them, and do what they did, or what is written that they do now."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import tallyroll
from tallyroll._default import close_default, configure, reset_defaults
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.reading.links import AuditChain
from tallyroll.audit.trail import AuditTrail
from tallyroll.compat import audit_trail, kafka_events
from tallyroll.errors import SettingsError
from tallyroll.settings import Settings


@pytest.fixture
async def defaults(tmp_path: Path) -> AsyncIterator[Path]:
    configure(f"sqlite:///{tmp_path}")
    yield tmp_path
    await close_default()
    reset_defaults()


def test_compat_names_are_the_objects_of_their_homes() -> None:
    assert audit_trail.AuditTrailManager is AuditTrail
    assert audit_trail.AuditEntry is AuditEntry is tallyroll.AuditEntry
    assert audit_trail.create_audit_log is tallyroll.create_audit_log
    assert audit_trail.query_audit_trail is tallyroll.query_audit_trail
    assert kafka_events.PrivacyCompliantEvent is tallyroll.PrivacyCompliantEvent
    assert audit_trail.CRYPTO_AVAILABLE is True


def test_positional_order_is_kept() -> None:
    assert [*inspect.signature(audit_trail.create_audit_log).parameters][:4] == ["event_type", "category", "action", "description"]
    known = [
        "start_time", "end_time", "user_id", "agent_id", "task_id", "category", "severity", "outcome", "compliance_framework",
        "limit", "offset",
    ]  # fmt: skip
    assert [*inspect.signature(audit_trail.query_audit_trail).parameters][:11] == known
    assert [*inspect.signature(AuditTrail.query_audit_trail).parameters][1:12] == known


def test_categories_severities_and_frameworks_have_their_known_members() -> None:
    assert {
        "AUTHENTICATION", "AUTHORIZATION", "DATA_ACCESS", "DATA_MODIFICATION", "DATA_DELETION", "SYSTEM_ACCESS", "CONFIGURATION_CHANGE",
        "PRIVILEGE_ESCALATION", "SECURITY_INCIDENT", "COMPLIANCE_VIOLATION", "AGENT_LIFECYCLE", "TASK_EXECUTION", "WORKFLOW_EXECUTION",
        "RESOURCE_USAGE", "ERROR_CONDITION",
    } <= set(audit_trail.AuditEventCategory.__members__)  # fmt: skip
    assert set(audit_trail.AuditSeverity.__members__) == {"CRITICAL", "HIGH", "MEDIUM", "LOW", "INFO"}
    assert {"SOX", "GDPR", "HIPAA", "PCI_DSS", "SOC2", "ISO27001", "NIST", "CUSTOM"} <= set(audit_trail.ComplianceFramework.__members__)
    assert list(tallyroll.settings.AUDIT_FRAMEWORK_NAMES) == [one.value for one in audit_trail.ComplianceFramework]


@pytest.mark.usefixtures("defaults")
async def test_the_default_trail_records() -> None:
    told: list[str] = []
    audit_trail.audit_manager.add_violation_handler(lambda entry, _: told.append(entry.audit_id))
    made = await audit_trail.create_audit_log(
        "payroll.read", audit_trail.AuditEventCategory.DATA_ACCESS, "read", "looked at pay", user_id="anna", compliance_frameworks={"sox"}
    )
    assert made.state == "recorded"
    assert await audit_trail.get_audit_manager() is (await tallyroll.current_roll()).audit
    again = await audit_trail.audit_manager.create_audit_entry("x.done", "task_execution", "do", "did it")
    chain = AuditChain()
    assert [chain.add_entry(one) for one in (made, again)] == [made.current_hash, again.current_hash]
    await close_default()  # waits until handlers were told
    assert told == [made.audit_id]
    with pytest.raises(AttributeError):
        _ = audit_trail.audit_manager.no_such_thing


@pytest.mark.usefixtures("defaults")
async def test_a_handler_stays_when_the_default_roll_is_opened_anew() -> None:
    told: list[str] = []
    audit_trail.audit_manager.add_violation_handler(lambda entry, _: told.append(entry.audit_id))
    for _ in range(2):
        await audit_trail.create_audit_log("payroll.read", "data_access", "read", "pay", compliance_frameworks={"sox"})
        await close_default()
    assert len(told) == 2


async def test_a_privacy_compliant_event_takes_the_default_keys(defaults: Path) -> None:
    data = {"event_type": "task.started", "aggregate_id": "t", "aggregate_type": "task", "payload": {"email": "anna@mail.example"}}
    event = kafka_events.PrivacyCompliantEvent(data)
    assert event.contains_pii(data["payload"])
    assert event.event.privacy_protected
    assert event.decrypt_pii_fields(event.event.payload) == data["payload"]
    configure(Settings(url="kafka://127.0.0.1:1", data_dir=defaults))
    with pytest.raises(SettingsError, match="AUDIT_SECRET_KEY"):
        kafka_events.PrivacyCompliantEvent(data)


@pytest.mark.usefixtures("defaults")
async def test_links_between_entries_are_checked() -> None:
    made = [await audit_trail.create_audit_log("x.done", "task_execution", "do", "did it", agent_id="a") for _ in range(4)]
    check = AuditChain().verify_chain
    assert check(reversed(made)) == {
        "valid": True, "total_entries": 4, "verified_entries": 3, "broken_links": [], "integrity_failures": [],
    }  # fmt: skip
    altered = tallyroll.AuditEntry(**{name: getattr(made[1], name) for name in made[1].__struct_fields__} | {"current_hash": "0" * 64})
    assert check([made[0], altered, *made[2:]])["broken_links"] == [made[2].audit_id]
    assert check([*made, altered])["integrity_failures"] == [altered.audit_id]
    assert check([made[0], *made[2:]])["valid"], "what is missing is not seen here"


@pytest.mark.slow
@pytest.mark.parametrize("url", ["sqlite://:memory:", "sqlite:///{}"])
async def test_the_compliance_acceptance(tmp_path: Path, url: str) -> None:
    """An entry under GDPR is sealed and kept for six years; its subject is forgotten, and the ledger verifies before and after."""
    configure(url.format(tmp_path))
    try:
        made = await audit_trail.create_audit_log(
            "customer.read", audit_trail.AuditEventCategory.DATA_ACCESS, "read", "",
            payload={"customer_id": "cust-123", "fields": ["name"]}, compliance_frameworks={audit_trail.ComplianceFramework.GDPR},
        )  # fmt: skip
        assert made.encrypted
        assert abs((made.retention_date - made.timestamp).days - 2190) <= 1
        page = await audit_trail.query_audit_trail()
        assert page.keys() == audit_trail.AuditPage.__annotations__.keys()
        assert [entry["payload"]["customer_id"] for entry in page["entries"] if entry["audit_id"] == made.audit_id] == ["cust-123"]
        assert (await audit_trail.audit_manager.verify_audit_integrity(None, None))["valid"]
        receipt = await audit_trail.audit_manager.anonymize_subject_data("cust-123")
        assert receipt.state == "done"
        left = await audit_trail.audit_manager.get_audit_entry(made.audit_id)
        assert left is not None
        assert "cust-123" not in str(left.to_dict())
        assert (await audit_trail.audit_manager.verify_audit_integrity(None, None))["valid"]
        again = await audit_trail.create_audit_log("customer.read", "data_access", "read", "", subjects=["cust-123"])
        assert again.subjects != made.subjects, "the key is another one"
    finally:
        await close_default()
        reset_defaults()
    left_behind = b"".join(path.read_bytes() for path in files_in(tmp_path))
    assert b"cust-123" not in left_behind


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]
