"""``tallyroll audit rules``: which compliance rules are in force, and whether a file of own ones is right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from tallyroll.audit.compliance.rules import ComplianceRule, RuleSet, rule_set_from_toml, unchecked_citations
from tallyroll.audit.entry import ComplianceFramework
from tallyroll.cli.exits import CommandError, ExitCode
from tallyroll.cli.printing import counted, markup, note, plain, say, say_json, table
from tallyroll.cli.session import Json, Url, examples, session_of
from tallyroll.opening import compliance_rules_of

_RULES: Final = examples("tallyroll audit rules --framework gdpr", "tallyroll audit rules --check own-rules.toml")


def add_to(app: typer.Typer) -> None:
    """Adds the command of this module to a collection."""
    app.command(epilog=_RULES)(rules)


def rules(
    context: typer.Context,
    *,
    framework: Annotated[str | None, typer.Option("--framework", help=f"Only of one: {', '.join(ComplianceFramework)}.")] = None,
    check: Annotated[Path | None, typer.Option("--check", metavar="FILE", help="Look at this file of own rules instead.")] = None,
    url: Url = None,
    json: Json = False,
) -> None:
    """The compliance rules in force, those of AUDIT_RULES among them; or what is in a file, exit code 2 if it is wrong."""
    session = session_of(context, url, json)
    known = compliance_rules_of(session.settings()) if check is None else rule_set_from_toml(check.read_text("utf-8"), plain(check))
    shown = _of(known, framework)
    if session.json:
        say_json(
            {
                "version": known.version,
                "rules": [msgspec.to_builtins(rule) for rule in shown],
                "derived": _derived(known),
                "unchecked": unchecked_citations(shown),
            }
        )
        return
    rows = [
        (markup(rule.rule_id, "bold"), markup(rule.title), markup(rule.category or "any"), markup(rule.severity), f"{rule.retention_days}",
         markup(_protection(rule)), markup(rule.citation, "dim"))
        for rule in shown
    ]  # fmt: skip
    if rows:
        table(("rule", "what", "category", "severity", "days", "protection", "citation"), rows, right=("days",))
    say(f"{counted(len(shown), 'rule')}, version {plain(known.version)}")
    if unchecked := unchecked_citations(shown):
        say(unchecked)
    if check is not None:
        note("the file is right; AUDIT_RULES puts it in force")


def _derived(known: RuleSet) -> dict[str, object]:
    made = known.derived
    return {"payload_types": [*made.payload_types], "categories": {**made.category_of}, "retention_days": {**made.days_of}}


def framework_named(name: str) -> ComplianceFramework:
    """The framework that somebody typed. Raises CommandError that lists those there are."""
    try:
        return ComplianceFramework(name.lower())
    except ValueError:
        raise CommandError(
            ExitCode.USAGE, f"there is no framework {plain(name)}", f"write one of {', '.join(ComplianceFramework)}"
        ) from None


def _of(known: RuleSet, framework: str | None) -> list[ComplianceRule]:
    if framework is None:
        return [*known.rules]
    named = framework_named(framework)
    return [rule for rule in known.rules if rule.framework == named]


def _protection(rule: ComplianceRule) -> str:
    words = (("seal", rule.encryption_required), ("at once", rule.real_time_monitoring), (rule.on_failure, rule.on_failure != "spill"))
    return ", ".join(word for word, holds in words if holds)
