"""What becomes of an entry before it is sealed: rules judge it, and its personal fields are set apart from those in clear.

Pure but for its cache; keys, salts and places come later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from msgspec.structs import asdict

from tallyroll.audit.compliance.pii import PiiScanner, people_named
from tallyroll.audit.compliance.rules import ComplianceRule, Judgement, RuleSet, join, shown_violations, violations_of
from tallyroll.audit.entry import SEALED_FIELDS, AuditEventCategory, ComplianceFramework
from tallyroll.audit.ledger.contents import SEALABLE_FIELDS
from tallyroll.audit.ledger.layout import write_json
from tallyroll.audit.recording.new_entry import NewEntry

VIOLATION_EVENT: Final = "compliance.violation"
"""Says that an entry breaks a rule. Its own entry matches no rules, or one breach would go round for ever."""

_OF_PERSON: Final = ("user_id", "session_id", "source_ip", "user_agent")
_OF_SUBJECTS: Final = tuple(sorted(SEALED_FIELDS - set(_OF_PERSON)))
_FREE_TEXT: Final = tuple(sorted(SEALABLE_FIELDS - SEALED_FIELDS))
_CACHED: Final = 4_096  # texts in clear that were looked at: actions repeat


class PartPlan(NamedTuple):
    """A part to be: the people it is about, none if nobody is known, and whether it is sealed."""

    subjects: tuple[str, ...]
    text: bytes
    sealed: bool


class Plan(NamedTuple):
    """An entry before it has its id, its keys and its place.

    ``fields`` are those that were given, ``judged`` what the rules add; ``clear`` are the fields of its env but the id.
    """

    fields: dict[str, Any]
    judged: dict[str, Any]
    clear: dict[str, Any]
    parts: Sequence[PartPlan]
    judgement: Judgement
    agent_id: str | None


class Drafter:
    """Makes plans of entries, by one set of rules. Used from one thread."""

    def __init__(  # noqa: PLR0913  # what decides
        self,
        rules: RuleSet,
        scanner: PiiScanner,
        *,
        frameworks: Collection[ComplianceFramework],
        subject_fields: Collection[str],
        encrypt: bool,
        default_retention_days: int,
    ) -> None:
        self._version = rules.version
        self._rules = rules.rules
        self._joined: dict[tuple[object, ...], Judgement] = {}
        self._narrowed: dict[tuple[tuple[ComplianceFramework, ...], AuditEventCategory], Sequence[ComplianceRule]] = {}
        self._scanner = scanner
        self._frameworks = tuple(sorted(frameworks))
        self._subject_fields = tuple(subject_fields)
        self._encrypt = encrypt
        self._default_days = default_retention_days
        self._is_personal = lru_cache(_CACHED)(lambda text: bool(scanner.in_text(text)))

    def plan(self, entry: NewEntry) -> Plan:
        """What will be sealed, what will be in clear, and what the rules make of it."""
        # All of them are text, dicts, tuples or members of enums: what is false, or blank, says nothing.
        fields: dict[str, Any] = {
            name: value for name, value in asdict(entry).items() if value and (type(value) is not str or not value.isspace())
        }
        subjects: tuple[str, ...] = fields.pop("subjects", ()) or people_named(entry.payload, self._subject_fields)
        person: dict[str, Any] = {name: fields[name] for name in _OF_PERSON if name in fields}
        about: dict[str, Any] = {name: fields[name] for name in _OF_SUBJECTS if name in fields}
        found = {name: text for name in _FREE_TEXT if (text := fields.get(name)) and self._is_personal(text)}
        about |= found
        if "user_id" not in person:
            about, person = {**person, **about}, {}
        judgement = self._judged(entry, fields, SEALED_FIELDS | found.keys() if found else SEALED_FIELDS)
        sealed = (True, True)
        if not self._encrypt and not judgement.encryption_required:
            sealed = (bool(self._scanner.in_value(person)), bool(subjects) or bool(self._scanner.in_value(about)))
            names = {name for part, is_sealed in zip((person, about), sealed, strict=True) if is_sealed for name in part}
            judgement = self._judged(entry, fields, names)
        users = (person["user_id"],) if person else ()
        kinds = ((users, person, sealed[0]), (subjects, about, sealed[1]))
        parts = [PartPlan(people, write_json(part), is_sealed) for people, part, is_sealed in kinds if part]
        judged: dict[str, Any] = {"rule_set": self._version}
        if judgement.frameworks:
            judged["compliance_frameworks"] = judgement.frameworks
        if judgement.rule_ids:
            judged["rule_ids"] = judgement.rule_ids
        if judgement.violations:
            judged["violations"] = tuple(shown_violations(judgement.violations))
        if judgement.frameworks:
            fields.pop("compliance_frameworks", None)
        clear = {name: value for name, value in fields.items() if name not in SEALED_FIELDS and name not in found}
        return Plan(fields, judged, clear | judged, parts, judgement, fields.get("agent_id"))

    def _judged(self, entry: NewEntry, fields: Mapping[str, object], sealed: Collection[str]) -> Judgement:
        """As ``judge``; what rules demand together is kept, since few sets of rules ever apply."""
        if entry.event_type == VIOLATION_EVENT or entry.category == AuditEventCategory.COMPLIANCE_VIOLATION:
            frameworks: tuple[ComplianceFramework, ...] = ()
        else:
            frameworks = entry.compliance_frameworks or self._frameworks
        place = (frameworks, entry.category)
        rules = self._narrowed.get(place)
        if rules is None:  # those that can have a say
            rules = self._narrowed[place] = [
                rule
                for rule in self._rules
                if rule.framework in frameworks and (rule.is_baseline or rule.category in (None, entry.category))
            ]
        applying = [rule for rule in rules if rule.applies_to(fields)]
        key = (*place, *[rule.rule_id for rule in applying])
        joined = self._joined.get(key)
        if joined is None:
            joined = self._joined[key] = join(rules, applying, frameworks, default_retention_days=self._default_days)
        violations = violations_of(rules, joined.rule_ids, fields, sealed)
        return joined.with_violations(violations) if violations else joined
