"""Findings as breaches: which rules a finding breaks, and who is told of it once it is stored."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Final

from tallyroll.audit.compliance.rules import ComplianceRule, RuleViolation
from tallyroll.audit.entry import ComplianceFramework
from tallyroll.audit.ledger.contents import AuditEntry, in_clear
from tallyroll.audit.sealing.finding import Breach, Finding
from tallyroll.errors import LedgerTampered, StoreUnavailable
from tallyroll.ports import LedgerStore

Tell = Callable[[AuditEntry, Sequence[RuleViolation], Sequence[str]], None]
"""Tells handlers and monitors of an entry: what it breaks, and the rules that are watched at once. As ``Violations.tell``."""

_TOLD: Final = 100  # findings of one flush that somebody is told of; all of them are sealed and counted


class Breaches:
    """Rules by the findings that break them (``found_as``), of these frameworks and of the house.

    Handlers and monitors of this process get the entry of the finding, its clear fields alone; of two people who were one they
    get the entry that completed it. Not promised: that more than 100 findings of one flush are told.
    """

    def __init__(self, rules: Iterable[ComplianceRule], frameworks: Collection[str], store: LedgerStore, tell: Tell) -> None:
        self._rules: defaultdict[str, list[ComplianceRule]] = defaultdict(list)
        for rule in rules:
            for code in rule.found_as if rule.framework in (*frameworks, ComplianceFramework.CUSTOM) else ():
                self._rules[code].append(rule)
        self._store = store
        self._tell = tell

    def judged(self, finding: Finding) -> Finding:
        """The finding, with the rules that it breaks; as it is where it names some already."""
        rules = self._rules.get(finding.code)
        return (
            finding if finding.breaches or not rules else finding._replace(breaches=tuple(breach_of(rule, finding.code) for rule in rules))
        )

    async def say(self, findings: Sequence[Finding], log_id: bytes) -> None:
        """Tells whom it concerns of those that are breaches; to be called once they are stored."""
        told = [finding for finding in findings if finding.breaches][:_TOLD]
        own = [finding.audit_id(log_id) for finding in told if not finding.about_entries]
        try:
            rows = await asyncio.to_thread(self._store.known, own) if own else {}
        except StoreUnavailable:  # they are sealed, and published as events; the store's own trouble is told by who needs it
            rows = {}
        for finding in told:
            entry = finding.breaches[0].entry
            if entry is None and (row := rows.get(finding.audit_id(log_id))) is not None:
                try:
                    entry = in_clear(row)
                except LedgerTampered:
                    continue
            if entry is not None:
                watched = [breach.rule.rule_id for breach in finding.breaches if breach.rule.real_time_monitoring]
                self._tell(entry, [breach.violation for breach in finding.breaches], watched)


def breach_of(rule: ComplianceRule, code: str) -> Breach:
    """A breach of that rule by a finding of that code; those who are told get the finding's own entry."""
    return Breach(rule, RuleViolation(rule.rule_id, code, rule.severity, ()))
