"""``tallyroll audit log``: one entry into the trail, from a shell or a script."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
import typer

from tallyroll.audit.entry import AuditEventCategory, AuditSeverity, ComplianceFramework
from tallyroll.audit.ledger.contents import AuditEntry
from tallyroll.audit.recording.new_entry import NewEntry
from tallyroll.cli.printing import note, paint, plain, say, say_json
from tallyroll.cli.publish import answered, payload_of
from tallyroll.cli.session import Json, Session, Url, examples, run, session_of

_LOG: Final = examples(
    "tallyroll audit log deploy.finished --category configuration_change --action deploy --description 'release 4.2 to production'",
    "tallyroll audit log customer.read --category data_access --action read --user anna --subject cust-123 --framework gdpr",
    "tallyroll audit log refund.paid --category task_execution --action pay --agent refunds-1 --payload @refund.json --json",
)


Frameworks = Annotated[list[str] | None, typer.Option(help=f"Whose rules hold: {', '.join(ComplianceFramework)}; may be given again.")]


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module to a collection."""
    app.command(epilog=_LOG)(log)


def log(  # noqa: PLR0913  # one parameter per option
    context: typer.Context,
    event_type: Annotated[str, typer.Argument(metavar="TYPE", help="What happened, such as customer.read.")],
    *,
    category: Annotated[str, typer.Option(help=f"What it is about: {', '.join(AuditEventCategory)}.")],
    action: Annotated[str, typer.Option(help="What was done, in clear: nothing personal.")],
    description: Annotated[str, typer.Option(help="A sentence about it; sealed.")] = "",
    outcome: Annotated[str, typer.Option(help="Such as success, failure or denied.")] = "success",
    severity: Annotated[str, typer.Option(help=f"How much it matters: {', '.join(AuditSeverity)}.")] = AuditSeverity.INFO.value,
    agent: Annotated[str | None, typer.Option(metavar="ID", help="The agent that did it.")] = None,
    task: Annotated[str | None, typer.Option(metavar="ID", help="For which task.")] = None,
    workflow: Annotated[str | None, typer.Option(metavar="ID", help="In which workflow.")] = None,
    user: Annotated[str | None, typer.Option(metavar="ID", help="The person who did it; sealed under their own key.")] = None,
    subject: Annotated[list[str] | None, typer.Option(metavar="ID", help="A person it is about; may be given again.")] = None,
    resource: Annotated[str | None, typer.Option(help="What it was done to; sealed.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; in clear.")] = None,
    framework: Frameworks = None,
    payload: Annotated[str, typer.Option(help="A JSON object, @FILE with one, or - for standard input; sealed.")] = "{}",
    correlation: Annotated[str | None, typer.Option(help="Joins entries of one undertaking.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """Record one entry in the audit trail, and print its id once it is as durable as its rules demand.

    Rules that it breaks are shown; they never keep it from being recorded.
    """
    session = session_of(context, url, json)
    entry = NewEntry.of(
        event_type, category, action, description,
        outcome=outcome, severity=severity, agent_id=agent, task_id=task, workflow_id=workflow, user_id=user, subjects=subject or (),
        resource=resource, reason=reason, compliance_frameworks=framework or (), correlation_id=correlation,
        payload=payload_of(payload) or None,
    )  # fmt: skip
    made = run(_record(session, entry))
    if session.json:
        say_json(_shown(made))
    else:
        protection = "sealed" if made.encrypted else "not sealed"
        say(f"{made.audit_id}  {paint(f'{protection}, kept until {made.retention_date:%Y-%m-%d}', 'dim')}")
    for violation in made.violations:
        note(f"breaks {plain(violation['rule_id'])}: {plain(violation['code'])} {plain(', '.join(violation['fields']))}")


async def _record(session: Session, entry: NewEntry) -> AuditEntry:
    async with session.roll() as roll:
        made: AuditEntry = (await answered(roll, roll.audit.create_audit_entries([entry])))[0]
        return made


def _shown(made: AuditEntry) -> dict[str, Any]:
    """What is in clear: who has just said the rest need not see it again."""
    names = (
        "audit_id", "timestamp", "retention_date", "encrypted", "rule_ids", "rule_set", "violations", "current_hash", "chain", "position",
        "state",
    )  # fmt: skip
    return {name: msgspec.to_builtins(getattr(made, name)) for name in names}
