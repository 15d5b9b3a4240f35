"""``tallyroll audit``: the trail of what was done, and the proof of it."""

from __future__ import annotations

from tallyroll.cli import (
    audit_keys,
    audit_proving,
    audit_reading,
    audit_recording,
    audit_removal,
    audit_rules,
    audit_witness,
)
from tallyroll.cli.session import group_of, verbs

app = verbs()
group_of(
    app,
    "The audit trail: record, query, verify, prove, report, forget.",
    "tallyroll audit query --agent coder-001 --since 1d",
    "tallyroll audit verify",
    "tallyroll audit evidence gdpr evidence.zip",
)
audit_recording.add_to(app)
audit_reading.add_to(app)
audit_proving.add_to(app)
audit_rules.add_to(app)
audit_removal.add_to(app)
audit_witness.add_to(app)
app.add_typer(audit_keys.app, name="keys")
