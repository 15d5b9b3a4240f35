"""What becomes of an entry before it is sealed: every field in one place, none of the personal ones in clear, judged as the rules say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.adapters.re2 import Re2Finder
from tallyroll.audit.compliance.library import library
from tallyroll.audit.compliance.pii import PATTERNS, PiiScanner
from tallyroll.audit.compliance.rules import judge
from tallyroll.audit.entry import SEALED_FIELDS, AuditEventCategory, ComplianceFramework, has_value
from tallyroll.audit.recording.drafting import Drafter
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.errors import InvalidEvent

TEXTS = st.sampled_from(["", "  ", "anna-canary", "wrote to anna@mail.example", "4111 1111 1111 1111", "fine", "denied"])
NAMES = [
    "user_id", "session_id", "agent_id", "task_id", "resource", "source_ip", "user_agent", "reason", "purpose", "legal_basis", "overseer",
    "before_hash", "tool", "correlation_id",
]  # fmt: skip
FIELDS = st.fixed_dictionaries(
    {"category": st.sampled_from(AuditEventCategory), "outcome": st.sampled_from(["success", "denied", "failure"])},
    optional={
        **dict.fromkeys(NAMES, TEXTS),
        "compliance_frameworks": st.sets(st.sampled_from(ComplianceFramework), max_size=3),
        "payload": st.dictionaries(st.sampled_from(["customer_id", "n", "requested_by", "approved_by", "legal_effect"]), TEXTS, max_size=3),
        "subjects": st.lists(st.sampled_from(["bert", "carl"]), max_size=2),
    },
)
EVENT_TYPES = st.sampled_from(["file.read", "audit.read", "tool.invoked", "compliance.violation", "privacy.kept_too_long"])


def drafter(*, encrypt: bool = True, frameworks: tuple[ComplianceFramework, ...] = ()) -> Drafter:
    return Drafter(
        library(), PiiScanner(Re2Finder(PATTERNS)), frameworks=frameworks, subject_fields=("customer_id",), encrypt=encrypt,
        default_retention_days=365,
    )  # fmt: skip


DRAFTERS = {encrypt: drafter(encrypt=encrypt, frameworks=(ComplianceFramework.SOX,)) for encrypt in (True, False)}


@pytest.mark.slow
@settings(max_examples=80)
@given(EVENT_TYPES, FIELDS, st.booleans())
def test_every_field_is_in_one_place_and_nothing_personal_is_in_clear(event_type: str, fields: dict[str, Any], encrypt: bool) -> None:  # noqa: FBT001  # drawn
    entry = NewEntry(event_type=event_type, action="read", description="about it", **fields)
    plan = DRAFTERS[encrypt].plan(entry)
    parts = [msgspec.json.decode(part.text) for part in plan.parts]
    given_fields = {name: value for name, value in msgspec.to_builtins(entry).items() if name != "subjects" and has_value(value)}
    found: dict[str, Any] = {}
    for part in (*parts, msgspec.to_builtins(plan.clear)):
        assert not found.keys() & part.keys()
        found |= part
    assert {name: found[name] for name in given_fields if name != "compliance_frameworks"} == {
        name: value for name, value in given_fields.items() if name != "compliance_frameworks"
    }
    assert not SEALED_FIELDS & plan.clear.keys()
    assert all(mail not in str(plan.clear.get(name)) for name in ("reason", "purpose", "legal_basis") for mail in ("@mail", "4111"))
    if encrypt or plan.judgement.encryption_required:
        assert all(part.sealed for part in plan.parts)
    assert all(part.sealed for part in plan.parts if "@mail" in part.text.decode() or part.subjects[:1] == ("bert",))


@pytest.mark.slow
@settings(max_examples=80)
@given(EVENT_TYPES, FIELDS)
def test_what_is_kept_of_the_rules_judges_as_the_rules_do(event_type: str, fields: dict[str, Any]) -> None:
    entry = NewEntry(event_type=event_type, action="read", description="about it", **fields)
    plan = DRAFTERS[True].plan(entry)
    if event_type == "compliance.violation" or entry.category == "compliance_violation":
        assert (plan.judgement.rule_ids, plan.judgement.violations, plan.judgement.retention_days) == ((), (), 365)
        return
    sealed = SEALED_FIELDS | {name for part in plan.parts for name in msgspec.json.decode(part.text)}
    assert plan.judgement == judge(library().rules, msgspec.structs.asdict(entry), frameworks=[ComplianceFramework.SOX], sealed=sealed)


@pytest.mark.parametrize("people", [["anna"], ["anna", "bert"]])
def test_who_is_named_outright_is_the_subject_whatever_the_payload_says(people: list[str]) -> None:
    entry = NewEntry.of("file.read", "data_access", "read", "x", subjects=people, payload={"customer_id": "carl"})
    assert [part.subjects for part in drafter().plan(entry).parts] == [tuple(people)]


@pytest.mark.parametrize(("people", "missing"), [(["anna"], ()), ([], ("subjects",))])
def test_a_rule_that_asks_for_subjects_sees_those_that_are_named(people: list[str], missing: tuple[str, ...]) -> None:
    entry = NewEntry.of(
        "privacy.request", "privacy", "ask", "x", agent_id="a", subjects=people, payload={"due_at": "2030-01-01"},
        compliance_frameworks=["gdpr"],
    )  # fmt: skip
    found = [item.fields for item in drafter().plan(entry).judgement.violations if item.rule_id == "GDPR-003"]
    assert found == [missing] * bool(missing)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("description", 0), ("reason", b""), ("purpose", 7), ("action", " "), ("outcome", ""), ("tool", "\ud800"), ("source", "x" * 65_537),
        ("compliance_frameworks", "gdpr"), ("compliance_frameworks", [["gdpr"]]), ("compliance_frameworks", {"gdpr", "nobodys"}),
        ("compliance_frameworks", [1]), ("compliance_frameworks", 3), ("severity", "worst"), ("payload", [1]), ("subjects", "bert"),
    ],
)  # fmt: skip
def test_a_new_entry_names_the_field_that_is_at_fault(field: str, value: object) -> None:
    said = {"event_type": "file.read", "category": "data_access", "action": "read", "description": "x", "reason": "why"}
    with pytest.raises(InvalidEvent) as refused:
        NewEntry(**{**said, field: value})
    assert refused.value.field == field


@pytest.mark.parametrize("frameworks", [{"gdpr", "sox"}, ["sox", "gdpr", "sox"], (name for name in ("sox", ComplianceFramework.GDPR))])
def test_frameworks_are_a_sorted_tuple_of_members_whatever_they_came_in(frameworks: Iterable[str]) -> None:
    entry = NewEntry.of("file.read", "data_access", "read", "", compliance_frameworks=frameworks)
    assert [*map(type, entry.compliance_frameworks)] == [ComplianceFramework] * 2
    assert entry.compliance_frameworks == ("gdpr", "sox")
