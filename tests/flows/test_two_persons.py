"""Who asks does not approve, from the call that records it to handlers, monitors, the published event and the report."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tallyroll import Roll


@pytest.mark.slow
async def test_one_person_is_told_of_at_once_and_counted_by_the_report() -> None:
    told: list[tuple[str, str]] = []
    watched: list[str] = []
    async with Roll.open("sqlite://:memory:") as roll:
        roll.audit.add_violation_handler(lambda entry, found: told.extend((entry.action, one.rule_id) for one in found))
        roll.audit.add_real_time_monitor("AGT-006", lambda entry: watched.append(f"{entry.action} by {entry.user_id}"))
        await roll.follow("audit")
        for kind, who, case in (
            ("requested", "anna", "c-1"), ("approved", "bert", "c-1"), ("requested", "carl", "c-2"), ("approved", "carl", "c-2"),
        ):  # fmt: skip
            await roll.audit.create_audit_entry(
                f"hold.{kind}", "privacy", kind, "a case", user_id=who, correlation_id=case, compliance_frameworks=["custom"]
            )
        page = await roll.audit.query_audit_trail(event_type="audit.finding.recorded")
        assert [entry["action"] for entry in page["entries"]] == ["one_person_decides"]
        now = datetime.now(UTC)  # the roll's own clock is real here
        report = await roll.audit.generate_compliance_report("custom", now - timedelta(hours=1), now + timedelta(hours=1))
        assert [(one["rule_id"], one["code"]) for one in report["violations"]] == [("AGT-006", "one_person_decides")]
    # What waited for handlers was let through when the roll closed. Approvals are watched by the recorder, each as it is made.
    assert told == [("approved", "AGT-006")]
    assert sorted(watched) == ["approved by bert", "approved by carl", "approved by carl"]
