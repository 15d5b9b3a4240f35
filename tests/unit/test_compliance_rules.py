"""What compliance rules make of an entry: every rule of the library passes one and objects to one; several join to the strictest."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallyroll.audit.compliance.checksums import card_numbers, is_card_number
from tallyroll.audit.compliance.library import library
from tallyroll.audit.compliance.rules import (
    ComplianceRule,
    ComplianceRuleEngine,
    Found,
    RuleSet,
    judge,
    rule_set_from_toml,
    unchecked_citations,
)
from tallyroll.audit.entry import SEALED_FIELDS, AuditEventCategory, AuditSeverity, ComplianceFramework
from tallyroll.audit.sealing.finding import CODES
from tallyroll.errors import SettingsError
from tallyroll.telemetry import AUDIT_FINDINGS

RULES = library().rules
BY_ID = {rule.rule_id: rule for rule in RULES}
CARD = "4111 1111 1111 1111"


def put(entry: dict, path: str, value: object) -> None:
    *steps, last = path.split(".")
    for step in steps:
        entry = entry.setdefault(step, {})
    entry[last] = value


def entry_for(rule: ComplianceRule, without: tuple[str, ...] = ()) -> dict:
    """An entry that the rule applies to and has nothing against, unless whatever it applies to is a breach."""
    entry: dict = {
        "category": rule.category or AuditEventCategory.RESOURCE_USAGE,
        "timestamp": datetime(2026, 1, 1, tzinfo=UTC),
        "compliance_frameworks": {rule.framework},
    }
    for path, values in rule.match.items():
        put(entry, path, values[0] if values else "something")
    for wanted in rule.required_fields:
        if wanted not in without:
            put(entry, wanted.split("|")[0], "something")
    if "tool_outside_grant" in rule.violation:
        entry |= {"tool": "search", "payload": {"granted_tools": ["search"]}}
    return entry


def codes(entry: dict, rule: ComplianceRule, **options: object) -> list[str]:
    return [found.code for found in judge(RULES, entry, **options).violations if found.rule_id == rule.rule_id]


def forbidden(rule: ComplianceRule) -> list[dict]:
    return [item for item in rule.violation if isinstance(item, dict)]


def whatever_it_applies_to_is_a_breach(rule: ComplianceRule) -> bool:
    return any(item == rule.match for item in forbidden(rule))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule_id)
def test_every_rule_passes_a_good_entry(rule: ComplianceRule) -> None:
    entry = entry_for(rule)
    found = judge(RULES, entry)
    assert rule.rule_id in found.rule_ids
    assert codes(entry, rule) == (["forbidden"] if whatever_it_applies_to_is_a_breach(rule) else [])
    assert found.retention_days >= rule.retention_days
    assert found.encryption_required >= rule.encryption_required
    assert (rule.rule_id in found.monitors) == rule.real_time_monitoring
    if whatever_it_applies_to_is_a_breach(rule):
        assert codes(entry | {"event_type": "another"}, rule) == []


@pytest.mark.parametrize(("rule", "wanted"), [(rule, wanted) for rule in RULES for wanted in rule.required_fields], ids=str)
@pytest.mark.parametrize("blank", [None, "", " \t", [], {}], ids=repr)
def test_every_required_field_is_missed(rule: ComplianceRule, wanted: str, blank: object) -> None:
    entry = entry_for(rule, without=(wanted,))
    for path in wanted.split("|"):
        if path not in rule.match:
            put(entry, path, blank)
    if not set(wanted.split("|")) & set(rule.match):
        assert "missing_field" in codes(entry, rule)
        [missing] = [item for item in judge(RULES, entry).violations if (item.rule_id, item.code) == (rule.rule_id, "missing_field")]
        assert missing.fields == (wanted,)
    for path in wanted.split("|"):
        put(entry, path, 0)
        assert "missing_field" not in codes(entry, rule)
        put(entry, path, blank)


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule.violation], ids=lambda rule: rule.rule_id)
def test_every_violation_of_the_library_fires(rule: ComplianceRule) -> None:
    breaches = {
        "card_number_in_clear": {"action": f"charged {CARD}"},
        "one_person_decides": {"payload": {"requested_by": "anna", "approved_by": "anna"}},
        "tool_outside_grant": {"tool": "delete", "payload": {"granted_tools": ["search"]}},
    }
    for item in rule.violation:
        entry = entry_for(rule)
        if isinstance(item, dict):
            for path, values in item.items():
                put(entry, path, values[0])
        else:
            entry |= breaches[item]
        assert codes(entry, rule) == ["forbidden" if isinstance(item, dict) else item]


def test_every_rule_cites_and_none_binds() -> None:
    assert len(RULES) == 54
    assert {rule.framework for rule in RULES} == set(ComplianceFramework)
    assert all(rule.citation and rule.title and not rule.binding for rule in RULES)
    assert all(rule.required_fields or rule.violation for rule in RULES)


def test_whatever_a_sealer_may_find_breaks_a_rule() -> None:
    assert set(get_args(Found)) == set(CODES) - {"one_person_decides", "overdue"}, "these two name their rules themselves"
    (house,) = [rule for rule in RULES if rule.rule_id == "AGT-008"]
    assert set(house.found_as) == set(get_args(Found))
    assert set(AUDIT_FINDINGS.known["reason"]) == set(CODES), "and is counted under its name"


def test_it_is_said_that_nobody_has_read_the_sources() -> None:
    assert "the citations of any of these rules" in unchecked_citations(RULES)
    read = [ComplianceRule(**HOUSE | {"rule_id": f"H-{number:03}", "sources_checked_on": date(2026, 1, 1)}) for number in (2, 3)]
    assert unchecked_citations(read) == unchecked_citations([]) == ""
    assert "1 of these 3 rules" in unchecked_citations([*read, RULES[0]])


def test_a_framework_gives_its_baseline_whatever_the_category() -> None:
    found = judge(RULES, {"category": "data_access", "payload": {"customer_id": "cust-123"}, "compliance_frameworks": {"gdpr"}})
    assert (found.retention_days, found.encryption_required, found.rule_ids, found.violations) == (2190, True, (), ())


def test_several_frameworks_give_the_longest_retention_and_the_strictest_protection() -> None:
    entry = {"category": "data_access", "compliance_frameworks": ["sox", "gdpr", "pci_dss"]}
    found = judge(RULES, entry)
    assert (found.retention_days, found.encryption_required, found.hot_days) == (2555, True, 90)
    assert judge(RULES, entry | {"compliance_frameworks": ["sox"]}).encryption_required is False
    assert found.monitors == ("SOX-001", "PCI-001", "PCI-010")


def test_frameworks_of_the_house_count_where_the_entry_names_none() -> None:
    entry = {"category": "data_access"}
    assert judge(RULES, entry).retention_days == 365
    assert judge(RULES, entry, frameworks={ComplianceFramework.SOX}).retention_days == 2555
    assert judge(RULES, entry | {"compliance_frameworks": {"gdpr"}}, frameworks={ComplianceFramework.SOX}).retention_days == 2190
    assert judge(RULES, entry, default_retention_days=30).retention_days == 30


def test_encryption_that_is_demanded_and_not_had_is_a_violation_of_the_baseline_too() -> None:
    entry = {"category": "data_access", "user_id": "anna", "payload": {"n": 1}, "description": "", "compliance_frameworks": {"gdpr"}}
    assert judge(RULES, entry).violations == ()
    [found] = judge(RULES, entry, sealed=SEALED_FIELDS - {"payload", "user_id"}).violations
    assert found == ("GDPR-001", "missing_encryption", AuditSeverity.MEDIUM, ("payload", "user_id"))


def test_violations_hold_no_value() -> None:
    entry = {"category": "authorization", "action": f"paid {CARD}", "payload": {"requested_by": "anna", "approved_by": "anna"}}
    found = judge(RULES, entry | {"compliance_frameworks": {"sox", "pci_dss"}}).violations
    assert {item.code for item in found} >= {"card_number_in_clear", "one_person_decides"}
    assert "anna" not in repr(found)
    assert "4111" not in repr(found)


def test_a_card_number_in_a_sealed_field_is_not_in_clear() -> None:
    entry = {"category": "task_execution", "payload": {"deep": [{"card": CARD}]}, "compliance_frameworks": {"pci_dss"}}
    assert codes(entry, BY_ID["PCI-010"]) == []
    for payload in (entry["payload"], {"card": int(CARD.replace(" ", ""))}, {CARD: 1}):
        assert codes(entry | {"payload": payload}, BY_ID["PCI-010"], sealed=frozenset()) == ["missing_encryption", "card_number_in_clear"]


@pytest.mark.parametrize("number", [CARD, "5500005555555559", "3782-822463-10005", "2223 0031 2200 3222", "6011000990139424"])
def test_card_numbers_are_known(number: str) -> None:
    assert is_card_number(number)
    assert list(card_numbers(f"paid by {number}, thanks")) == [(8, 8 + len(number))]


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",
        "0000000000000000",
        "1234567812345670",
        "a4111111111111111",
        "41111111111111111111111",
        "2026-11-26 14:23:07",
        "",
    ],
)
def test_what_only_looks_like_one_is_none(text: str) -> None:
    assert list(card_numbers(text)) == []


HOUSE = {"rule_id": "HOUSE-002", "framework": "custom", "title": "House", "category": "data_access"}


def test_a_personal_maximum_is_the_shortest_and_gives_way_to_what_binds() -> None:
    rules = [ComplianceRule(**HOUSE | {"rule_id": f"HOUSE-00{days}", "max_personal_days": days}) for days in (5, 3)]
    entry = {"category": "data_access", "compliance_frameworks": {"custom"}}
    assert judge(rules, entry).max_personal_days == 3
    binding = ComplianceRule(**HOUSE, binding=True, citation="a law", retention_days=100)
    assert judge([*rules, binding], entry).max_personal_days == 100
    assert judge([binding], entry).max_personal_days is None


def test_the_strictest_answer_to_a_log_that_is_away_wins() -> None:
    entry = {"category": "data_access", "compliance_frameworks": {"custom"}}
    rules = [ComplianceRule(**HOUSE | {"rule_id": f"HOUSE-00{n}", "on_failure": how}) for n, how in enumerate(("count", "block", "spill"))]
    assert judge(rules, entry).on_failure == "block"
    assert judge(rules[:1], entry).on_failure == "count"
    assert judge([], entry).on_failure == "spill"


@pytest.mark.parametrize(("value", "holds"), [(True, True), (1, False), ("True", False), (False, False), (None, False)])
def test_a_test_takes_true_for_true_only(*, value: object, holds: bool) -> None:
    rule = ComplianceRule(**HOUSE, match={"payload.flag": (True,)})
    assert rule.applies_to({"category": "data_access", "payload": {"flag": value}}) is holds


def test_both_known_forms_construct() -> None:
    sox = ComplianceRule(
        rule_id="SOX-001",
        framework=ComplianceFramework.SOX,
        title="Financial Data Access Logging",
        category=AuditEventCategory.DATA_ACCESS,
        severity=AuditSeverity.HIGH,
        required_fields={"user_id", "resource", "action"},
        retention_days=2555,
        real_time_monitoring=True,
    )
    gdpr = ComplianceRule(
        rule_id="GDPR-001",
        framework=ComplianceFramework.GDPR,
        title="Personal Data Processing Log",
        category=AuditEventCategory.DATA_MODIFICATION,
        required_fields=["user_id", "purpose"],
        retention_days=2190,
        encryption_required=True,
    )
    assert (sox.description, sox.encryption_required, sox.required_fields) == ("", False, ("action", "resource", "user_id"))
    assert (gdpr.severity, gdpr.real_time_monitoring) == (AuditSeverity.MEDIUM, False)


@pytest.mark.parametrize("wrong", [{"framework": "no such"}, {"required_fields": "user_id"}, {"binding": True}, {"retention_days": 0}])
def test_a_rule_that_contradicts_itself_is_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        ComplianceRule(**HOUSE | wrong)


@pytest.mark.parametrize(
    "text",
    [
        "version = ",
        'version = ""\nrules = []',
        'version = "1"\n[[rules]]\nrule_id = "no id"',
        'version = "1"\n[[rules]]\nrule_id = "A-001"\nframework = "sox"\ntitle = "t"\nno_such = 1',
        'version = "1"\n[[rules]]\nrule_id = "A-001"\nframework = "sox"\ntitle = "t"\nviolation = ["no_such_check"]',
        'version = "1"\n[derived]\nretention_days = { "no-such-topic" = 3 }',
        'version = "1"\n[derived]\nretention_days = { "audit-events" = 3 }',
        'version = "1"\n[derived]\nretention_days = { "task-events" = 0 }',
        'version = "1"\n[derived]\ncategories = { "task" = "no_such_category" }',
        'version = "1"\n[derived]\npayload_types = ["auth.*"]',
        'version = "1"\n' + '[[rules]]\nrule_id = "A-001"\nframework = "sox"\ntitle = "t"\n' * 2,
    ],
)
def test_a_bad_rule_file_is_a_settings_error(text: str) -> None:
    with pytest.raises(SettingsError, match="AUDIT_RULES"):
        rule_set_from_toml(text)


def test_the_engine_knows_rules_by_their_ids() -> None:
    engine = ComplianceRuleEngine(RULES)
    entry = {"category": "data_access", "user_id": "anna", "resource": "ledger", "compliance_frameworks": {"sox"}}
    assert engine.get_applicable_rules(entry) == [BY_ID["SOX-001"]]
    assert engine.validate_entry(entry) == {
        "valid": False,
        "violations": [{"rule_id": "SOX-001", "code": "missing_field", "severity": "high", "fields": ["action"]}],
        "warnings": [],
        "applicable_rules": ["SOX-001"],
    }
    assert engine.validate_entry(entry | {"action": "read"})["valid"] is True
    changed = ComplianceRule(**HOUSE | {"rule_id": "SOX-001", "framework": "sox"}, severity="low", required_fields=("x",))
    with pytest.raises(ValueError, match="SOX-001"):
        engine.add_rule(changed)
    engine.add_rule(ComplianceRule(**HOUSE | {"rule_id": "SOX-001", "framework": "sox"}, severity="low", required_fields=("x",), version=2))
    found = engine.validate_entry(entry)
    assert (found["valid"], len(found["warnings"])) == (True, 1)
    assert len(engine.rules) == len(RULES)


@given(st.sets(st.sampled_from(list(ComplianceFramework))), st.sampled_from(list(AuditEventCategory)), st.data())
def test_a_further_framework_never_loosens_anything(frameworks: set, category: AuditEventCategory, data: st.DataObject) -> None:
    more = frameworks | {data.draw(st.sampled_from(list(ComplianceFramework)))}
    entry = {"category": category, "event_type": "audit.read", "outcome": "denied"}
    less, strict = (judge(RULES, entry | {"compliance_frameworks": names}) for names in (frameworks, more))
    if frameworks:  # without any, the default of the house holds
        assert strict.retention_days >= less.retention_days
    assert strict.encryption_required >= less.encryption_required
    assert set(strict.rule_ids) >= set(less.rule_ids)
    assert set(strict.violations) >= set(less.violations)


@pytest.mark.slow
@settings(max_examples=50)
@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_no_payload_stops_it(payload: object) -> None:
    entry = {"category": "data_access", "payload": payload, "compliance_frameworks": set(ComplianceFramework)}
    assert judge(RULES, entry, sealed=()).retention_days == 2555


def test_rule_sets_are_values() -> None:
    assert RuleSet(version="1", rules=(BY_ID["SOX-001"],)) == RuleSet(version="1", rules=(BY_ID["SOX-001"],))
