"""What a sealer finds wrong: sealed as an entry like any other, so that nothing is dropped in silence. Pure."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from typing import Final, NamedTuple

from tallyroll.audit.compliance.rules import ComplianceRule, RuleViolation, shown_violations
from tallyroll.audit.entry import AuditEventCategory, AuditSeverity
from tallyroll.audit.ledger.contents import AuditEntry, env_of, part_text
from tallyroll.events.event import AgentEvent

FINDING_EVENT: Final = "audit.finding.recorded"
"""Says on ``system-events`` that a sealer has found something."""

CODES: Final = {
    "fork": "its number is taken by another record of its chain",
    "foreign": "it belongs to another ledger or partition",
    "unregistered": "its writer epoch was never enrolled",
    "closed": "its chain has been closed",
    "broken": "its bytes contradict themselves",
    "forged": "its MAC is not its writer's",
    "backdated": "it was sealed with a later key than its time allows",
    "postdated": "it says a moment that is more than a day ahead",
    "unreadable": "it is no event, or no sealed record",
    "gap": "numbers before it are missing",
    "same_id": "another event of this id has other bytes",
    "silent": "a writer has stopped without saying so",
    "witness": "a witness will not cosign",
    "rewound": "more of the log was sealed once than this ledger has: an older copy was put back, or it was begun anew",
    "drift": "its writer's clock is ahead by more than a minute",
    "one_person_decides": "who approved a thing is who asked for it",
    "overdue": "nobody has looked at the trail for longer than the rule allows",
}
"""What a sealer may find. All but ``gap``, ``silent``, ``same_id`` and those behind it mean that a record was not appended."""


class Breach(NamedTuple):
    """What breaks a rule about several entries, or about the trail itself: the rule, and the entry that those are given who are told.

    ``entry`` is the one that completed it; None: that of the finding itself.
    """

    rule: ComplianceRule
    violation: RuleViolation
    entry: AuditEntry | None = None


_HIGH: Final = ("gap", "silent", "same_id", "unreadable", "closed", "drift", "postdated", "overdue")
_MAX_RAW: Final = 1 << 20


class Finding(NamedTuple):
    """One of them: the code, where it showed, what more there is to say in clear, the bytes in question, the rules that it breaks."""

    code: str
    where: str
    detail: str = ""
    raw: bytes = b""
    breaches: tuple[Breach, ...] = ()

    @property
    def severity(self) -> AuditSeverity:
        """How much it matters."""
        if self.about_entries:
            return self.breaches[0].violation.severity
        return AuditSeverity.HIGH if self.code in _HIGH else AuditSeverity.CRITICAL

    @property
    def about_entries(self) -> bool:
        """Whether several entries show it together, wherever they lie."""
        return any(breach.entry is not None for breach in self.breaches)

    def audit_id(self, log_id: bytes) -> str:
        """The id of its entry: the same for the same finding; of a breach wherever it shows, since two sealers may see it."""
        where = "" if self.about_entries else self.where
        mixed = sha256(b"aud1/finding" + log_id + f"{self.code} {where} {self.detail}".encode()).hexdigest()
        return f"{mixed[:8]}-{mixed[8:12]}-8{mixed[12:15]}-8{mixed[15:18]}-{mixed[18:30]}"

    def env(self, log_id: bytes) -> bytes:
        """The env of its entry."""
        return env_of(
            {
                "audit_id": self.audit_id(log_id), "event_type": FINDING_EVENT, "category": AuditEventCategory.AUDIT_SYSTEM.value,
                "severity": self.severity.value, "action": self.code, "outcome": "failure", "origin": "derived",
                "reason": f"{CODES[self.code]}{': ' if self.detail else ''}{self.detail}", "position": self.where, **self._judged(),
            }
        )  # fmt: skip

    @property
    def sentences(self) -> tuple[tuple[tuple[str, ...], bytes], ...]:
        """The bytes in question, to be sealed: nobody knows whom they concern."""
        if not self.raw:
            return ()
        kept = b64encode(self.raw[:_MAX_RAW]).decode()
        return (((), part_text({"payload": {"sha256": sha256(self.raw).hexdigest(), "bytes": len(self.raw), "raw": kept}})),)

    def found_by(self, log_id: bytes) -> tuple[str, str, str, str, str, str, str, str, tuple[str, ...]]:
        """What its entry is found by: the fields of its facts from the audit id on."""
        frameworks = tuple(sorted({breach.rule.framework.value for breach in self.breaches}))
        category, severity = AuditEventCategory.AUDIT_SYSTEM.value, self.severity.value
        return (self.audit_id(log_id), FINDING_EVENT, category, severity, "failure", "", "", "", frameworks)

    def _judged(self) -> dict[str, object]:
        """Under which reports count it."""
        return {
            "rule_ids": sorted(breach.rule.rule_id for breach in self.breaches),
            "compliance_frameworks": sorted({breach.rule.framework.value for breach in self.breaches}),
            "violations": shown_violations(breach.violation for breach in self.breaches),
        }

    def event(self, log_id: bytes) -> AgentEvent:
        """What is published of it: nothing of the bytes."""
        payload = {"code": self.code, "severity": self.severity.value, "position": self.where, "audit_id": self.audit_id(log_id)}
        return AgentEvent(FINDING_EVENT, log_id.hex(), "ledger", payload)
