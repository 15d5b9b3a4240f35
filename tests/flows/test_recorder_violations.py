"""Breaches of rules: recorded all the same, counted, told to handlers and monitors, and published."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.flows.recording import Booth, entries_in, entry, recording

from tallyroll.audit.compliance.bursts import MANY, RULE_ID, Bursts
from tallyroll.audit.compliance.rules import ComplianceRule
from tallyroll.audit.entry import AuditEventCategory
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.recording.violations import MAX_WAITING, Violations
from tallyroll.events.topics import AUDIT_TOPIC
from tallyroll.ports import Span
from tallyroll.telemetry import AUDIT_CALLBACK_ERRORS, AUDIT_UNTOLD, VIOLATIONS

SOX = {"compliance_frameworks": ["sox"]}


async def published(booth: Booth) -> list[Any]:
    """The events of violations."""
    await booth.desk.settled()
    topics = [topic.name for topic in booth.desk.catalogue.topics if topic.base != AUDIT_TOPIC]
    ends = await booth.log.ends(topics)
    spans = [Span(*where, 0, end) for where, end in ends.items() if end]
    return [batch.event(index) async for batch in booth.log.read(spans) for index in range(len(batch))]


@pytest.mark.parametrize("blank", [None, "", "  "])
async def test_a_breach_is_recorded_and_told(tmp_path: Path, blank: str | None) -> None:
    async with recording(tmp_path) as booth:
        told: list[tuple[AuditEntry, Any]] = []
        booth.violations.add_handler(lambda made, found: told.append((made, found)))
        made = await booth.record(user_id="anna-canary", resource=blank, **SOX)
        await booth.desk.until(lambda: told)
        assert made.violations == ({"rule_id": "SOX-001", "code": "missing_field", "severity": "high", "fields": ["resource"]},)
        assert [(one.audit_id, [item.rule_id for item in found]) for one, found in told] == [(made.audit_id, ["SOX-001"])]
        assert booth.desk.telemetry.value(VIOLATIONS, rule="SOX-001", severity="high") == 1
        await booth.desk.until(lambda: booth.desk.publisher.unsettled == 0)
        (event,) = await published(booth)
        assert (event.event_type, event.payload["audit_id"], event.payload["violations"][0]["fields"]) == (
            "compliance.violation", made.audit_id, ["resource"],
        )  # fmt: skip
        assert "canary" not in str(event.to_kafka_message())
        assert len(entries_in(await booth.arrived())) == 1


async def test_an_entry_about_a_violation_matches_no_rules(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        made = await booth.record(event_type="compliance.violation", category="compliance_violation", **SOX)
        assert (made.rule_ids, made.violations) == ((), ())


async def test_monitors_get_the_entries_of_rules_that_are_watched_at_once(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        seen: list[tuple[str, str]] = []

        async def watching(made: AuditEntry) -> None:
            seen.append(("SOX-001", made.audit_id))

        booth.violations.add_monitor("SOX-001", watching)
        booth.violations.add_monitor("GDPR-001", lambda made: seen.append(("GDPR-001", made.audit_id)))
        booth.log.hold()
        recording_one = asyncio.ensure_future(booth.recorder.record(entry(user_id="a", resource="r", **SOX)))
        await booth.desk.until(lambda: seen)
        assert not recording_one.done(), "a monitor does not wait for the log"
        made = await booth.desk.passing(recording_one)
        await booth.record(category="data_modification", compliance_frameworks=["gdpr"])
        await booth.record(category="authentication", **SOX)
        assert seen == [("SOX-001", made.audit_id)]


async def test_a_monitor_that_fails_stops_nobody(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        seen: list[str] = []
        booth.violations.add_monitor("SOX-001", lambda _: 1 / 0)
        booth.violations.add_monitor("SOX-001", lambda made: seen.append(made.audit_id))
        made = await booth.record(user_id="a", resource="r", **SOX)
        await booth.desk.until(lambda: seen)
        assert seen == [made.audit_id]
        assert booth.desk.telemetry.value(AUDIT_CALLBACK_ERRORS) == 1


@pytest.mark.slow
async def test_what_waits_for_a_slow_monitor_is_bounded_and_counted(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        made = await booth.record(user_id="a", resource="r")
        slow = Violations(booth.desk.telemetry, booth.desk.publisher.publish_batch)
        never = asyncio.Event()

        async def waiting(_: AuditEntry) -> None:
            await never.wait()

        slow.add_monitor("SOX-001", waiting)
        for _ in range(MAX_WAITING + 5):
            slow.tell(made, (), ["SOX-001"])
        assert booth.desk.telemetry.value(AUDIT_UNTOLD, reason="call") == 5
        never.set()
        await slow.close()


@pytest.mark.slow
async def test_a_burst_of_refusals_is_a_breach_of_no_single_entry(tmp_path: Path) -> None:
    async with recording(tmp_path) as booth:
        told: list[str] = []
        booth.violations.add_handler(lambda _, found: told.extend(item.rule_id for item in found))
        for _ in range(MANY + 3):
            await booth.record(event_type="authz.denied", category="authorization", outcome="denied", agent_id="agent-9")
        await booth.desk.until(lambda: told)
        assert told == [RULE_ID]


def test_bursts_are_told_once_while_they_last_and_apart_for_each_actor() -> None:
    bursts, second = Bursts(many=3, window_us=10), 0
    see = lambda actor, ts, outcome="denied": bursts.see(actor, AuditEventCategory.AUTHORIZATION, outcome, ts) is not None  # noqa: E731
    assert [see("a", ts) for ts in (0, 1, 2, 3, 4)] == [False, False, True, False, False]
    assert [see("b", ts) for ts in (4, 5)] == [False, False]
    assert [see("a", ts) for ts in (40, 60, 80, 81, 82)] == [False, False, False, False, True]
    assert not any(see("c", ts, "success") for ts in range(5))
    assert bursts.see(None, AuditEventCategory.AUTHORIZATION, "denied", second) is None


def test_both_forms_of_a_rule_can_be_made() -> None:
    sox = ComplianceRule(
        rule_id="SOX-001", framework="sox", title="Financial Data Access Logging", category="data_access", severity="high",
        required_fields={"user_id", "resource"}, retention_days=2555, real_time_monitoring=True,
    )  # fmt: skip
    gdpr = ComplianceRule(
        rule_id="GDPR-001", framework="gdpr", title="Personal Data Processing Log", category="data_modification",
        required_fields=["user_id"], retention_days=2190, encryption_required=True,
    )  # fmt: skip
    assert (sox.description, gdpr.severity, gdpr.real_time_monitoring) == ("", "medium", False)
