"""Entries for other tools: OCSF events with what the schema requires, and CSV that no spreadsheet executes."""

from __future__ import annotations

import asyncio
import csv
import io
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.test_audit_query import CLERK, Office

from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.reading.ocsf import ocsf_event
from tallyroll.audit.reading.query import KEY_HOLDER, Reader, Wanted
from tallyroll.audit.reading.sheet import COLUMNS, csv_lines

# As github.com/ocsf/ocsf-schema has them: events/base_event.json with its classification, events/application/api_activity.json,
# and under objects/ metadata, product, actor, api, network_endpoint, ai_agent, ai_model, attestation, fingerprint, related_event.
REQUIRED = {
    "": {"activity_id", "category_uid", "class_uid", "type_uid", "severity_id", "time", "metadata", "actor", "api", "src_endpoint"},
    "metadata": {"product", "version"},
    "metadata.product": {"name"},
    "api": {"operation"},
    "ai_agent": {"uid"},
    "ai_agent.ai_model": {"name", "ai_provider"},
    "ai_model": {"name", "ai_provider"},
    "attestation_list.0.fingerprint": {"algorithm_id", "value"},
    "attestation_list.0.prev_event": {"uid"},
    "attestation_list.0.prev_event.fingerprint": {"algorithm_id", "value"},
}
AT_LEAST_ONE = {
    "actor": {"process", "user", "session", "app_name", "app_uid"},
    "src_endpoint": {"ip", "uid", "name", "hostname", "svc_name", "instance_uid", "interface_uid", "interface_name"},
    "attestation_list.0": {"fingerprint", "signatures"},
}
ENUMS = {
    "class_uid": {6003}, "category_uid": {6}, "activity_id": {0, 1, 2, 3, 4, 99}, "severity_id": {0, 1, 2, 3, 4, 5, 6, 99},
    "status_id": {0, 1, 2, 99}, "attestation_list.0.fingerprint.algorithm_id": {0, 1, 2, 3, 4, 5, 6, 7, 99},
}  # fmt: skip
KINDS: dict[str, dict[str, Any]] = {
    "explicit": {},
    "derived": {
        "origin": "derived", "event_type": "task.failed", "category": "task_execution", "action": "failed", "outcome": "failure",
        "user_id": None, "session_id": None, "resource": None, "payload": None, "description": None, "publisher_chain": "linked",
    },
    "finding": {
        "origin": "derived", "event_type": "audit.finding.recorded", "category": "audit_system", "severity": "critical",
        "action": "one_person_decides", "outcome": "failure", "user_id": None, "agent_id": None, "source": None, "description": None,
    },
    "read": {"event_type": "audit.read", "category": "audit_system", "action": "read", "purpose": "a case"},
    "erased": {"user_id": None, "payload": {"erased": True}, "erased": ("user_id", "payload"), "state": "witnessed"},
    "recorded": {"state": "recorded", "index": None, "position": None, "source_ip": None},
}  # fmt: skip
_MOMENT = datetime(2027, 1, 1, tzinfo=UTC)
FORMULAS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "=cmd|' /C calc'!A0"]


def at(event: Any, path: str) -> Any:
    for step in filter(None, path.split(".")):
        event = event[int(step)] if isinstance(event, list) else event.get(step)
        if event is None:
            return None
    return event


def conforms(event: dict[str, Any]) -> None:
    for path, names in REQUIRED.items():
        found = at(event, path)
        assert found is None or names <= set(found), path
    for path, names in AT_LEAST_ONE.items():
        assert names & set(at(event, path)), path
    assert REQUIRED[""] <= set(event)
    assert {path: at(event, path) for path, known in ENUMS.items() if at(event, path) not in known} == {}
    assert event["type_uid"] == event["class_uid"] * 100 + event["activity_id"]
    assert isinstance(event["time"], int)
    assert json.loads(json.dumps(event)) == event


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


def only(office: Office, reader: Reader = KEY_HOLDER) -> AuditEntry:
    return asyncio.run(office.reader.query(Wanted(), reader=reader)).entries[0]


def test_an_entry_is_an_ocsf_event(office: Office) -> None:
    office.house.entry(
        "anna", subject="cust-123", model={"name": "model-1", "provider": "lab"}, agent={"instance": "run-7", "version": "2"},
        severity="critical", outcome="denied", tool="browser", task_id="task-1", tenant="north",
    )  # fmt: skip
    entry = only(office)
    event = ocsf_event(entry, ledger="example.com/audit")
    conforms(event)
    assert (event["class_uid"], event["activity_name"], event["severity_id"], event["status_id"]) == (6003, "Read", 5, 2)
    assert event["ai_agent"] == {
        "uid": "agent-1", "instance_uid": "run-7", "version": "2", "ai_model": {"name": "model-1", "ai_provider": "lab"},
    }  # fmt: skip
    assert event["actor"]["user"] == {"uid": "anna"}
    assert event["src_endpoint"]["ip"] == "203.0.113.9"
    (attestation,) = event["attestation_list"]
    assert attestation["fingerprint"]["value"] == entry.current_hash
    assert attestation["prev_event"]["fingerprint"]["value"] == entry.previous_hash
    assert attestation["uid"] == f"{attestation['chain_uid']}/1"
    assert event["metadata"]["uid"] == entry.audit_id
    assert event["unmapped"]["task_id"] == "task-1"


def test_an_entry_without_agent_or_with_nothing_but_its_core_is_one_too(office: Office) -> None:
    office.house.entry(None, agent_id=None, action="approve", model={"name": "model-1"})
    event = ocsf_event(only(office))
    conforms(event)
    assert (event["activity_id"], event["activity_name"]) == (99, "approve")
    assert "ai_agent" not in event
    assert event["ai_model"]["ai_provider"] == "Unknown"
    office.house.ledger.drop_body(0, 1)
    conforms(ocsf_event(only(office)))


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_of_every_kind_is_one(office: Office, kind: str) -> None:
    office.house.entry("anna", subject="cust-123")
    shown = {**msgspec.structs.asdict(only(office)), **KINDS[kind]}
    event = ocsf_event(msgspec.convert(shown, AuditEntry))
    conforms(event)
    for path in ("api", "src_endpoint", "metadata.product", "class_uid"):  # and the check would notice
        *above, name = path.split(".")
        broken = json.loads(json.dumps(event))
        del at(broken, ".".join(above))[name]
        with pytest.raises((AssertionError, TypeError, KeyError)):
            conforms(broken)
    with pytest.raises(AssertionError):
        conforms({**event, "severity_id": 17})


def test_no_export_holds_more_than_its_reader_may_see(office: Office) -> None:
    office.house.entry("anna-canary", subject="cust-canary")
    office.house.entry("anna-canary", subject="cust-canary", plain=True)
    entries = asyncio.run(office.reader.query(Wanted(), reader=CLERK)).entries
    shown = json.dumps([ocsf_event(one) for one in entries]) + "".join(csv_lines(entries))
    assert "canary" not in shown
    assert "203.0.113.9" not in shown
    opened = asyncio.run(office.reader.query(Wanted())).entries
    assert "canary" in json.dumps([ocsf_event(one) for one in opened]), "the search would find it"


@pytest.mark.parametrize("text", FORMULAS)
def test_no_cell_is_a_formula(office: Office, text: str) -> None:
    office.house.entry("anna", action=text, reason=text, agent_id=text, task_id='t,"1"\n2')
    head, row = csv.reader(io.StringIO("".join(csv_lines([only(office)])), newline=""))
    cells = dict(zip(head, row, strict=True))
    assert head == [*COLUMNS]
    assert cells["action"] == cells["agent_id"] == f"'{text}"
    assert cells["task_id"] == 't,"1"\n2'
    assert json.loads(cells["payload"])["customer"] == "nobody"
    assert not any(cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)


@given(text=st.text(max_size=20))
def test_any_text_survives_as_one_cell(text: str) -> None:
    entry = AuditEntry(
        audit_id="1", timestamp=_MOMENT, event_type="x", category="privacy", severity="info", action=text, outcome="",
        retention_date=_MOMENT, previous_hash="", current_hash="", mac="", chain="w/1/0/1", partition=0,
    )  # fmt: skip
    _, row = csv.reader(io.StringIO("".join(csv_lines([entry])), newline=""))
    cell = row[COLUMNS.index("action")]
    assert cell.removeprefix("'") == text.removeprefix("'")
    assert not cell.lstrip(" ").startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
