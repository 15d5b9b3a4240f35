"""``tallyroll audit``: the trail of what was done, and the proof of it."""

from __future__ import annotations

from tallyroll.cli.audit import (
    anew,
    keys,
    proving,
    reading,
    recording,
    removal,
    rules,
    witness,
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
recording.add_to(app)
reading.add_to(app)
proving.add_to(app)
rules.add_to(app)
removal.add_to(app)
witness.add_to(app)
anew.add_to(app)
app.add_typer(keys.app, name="keys")
