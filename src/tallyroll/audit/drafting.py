"""What becomes of an entry before it is sealed: rules judge it, and its personal fields are set apart from those in clear.

Pure but for its cache; keys, salts and places come later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from msgspec.structs import asdict

from tallyroll.audit.contents import SEALABLE_FIELDS, part_text
from tallyroll.audit.entry import SEALED_FIELDS, AuditEventCategory, ComplianceFramework
from tallyroll.audit.new_entry import MAX_SUBJECTS, NewEntry
from tallyroll.audit.pii import PiiScanner, plain_key
from tallyroll.audit.rules import ComplianceRule, Judgement, RuleSet, judge, shown_violations

VIOLATION_EVENT: Final = "compliance.violation"
"""Says that an entry breaks a rule. Its own entry matches no rules, or one breach would go round for ever."""

_OF_PERSON: Final = ("user_id", "session_id", "source_ip", "user_agent")
_OF_SUBJECTS: Final = tuple(sorted(SEALED_FIELDS - set(_OF_PERSON)))
_FREE_TEXT: Final = tuple(sorted(SEALABLE_FIELDS - SEALED_FIELDS))
_CACHED: Final = 4_096  # texts in clear that were looked at: actions repeat


class PartPlan(NamedTuple):
    """A part to be: the people it is about, none if nobody is known, and whether it is sealed."""

    subjects: tuple[str, ...]
    fields: Mapping[str, Any]
    text: bytes
    sealed: bool


class Plan(NamedTuple):
    """An entry before it has its id, its keys and its place. ``clear`` are the fields of its env but the id."""

    clear: dict[str, Any]
    parts: Sequence[PartPlan]
    judgement: Judgement
    agent_id: str | None

    @property
    def personal(self) -> dict[str, Any]:
        """What is in the parts."""
        return {name: value for part in self.parts for name, value in part.fields.items()}


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
        self._by_frameworks: dict[tuple[ComplianceFramework, ...], Sequence[ComplianceRule]] = {(): ()}
        self._scanner = scanner
        self._frameworks = tuple(sorted(frameworks))
        self._subject_keys = frozenset(map(plain_key, subject_fields))
        self._encrypt = encrypt
        self._default_days = default_retention_days
        self._is_personal = lru_cache(_CACHED)(lambda text: bool(scanner.in_text(text)))

    def plan(self, entry: NewEntry) -> Plan:
        """What will be sealed, what will be in clear, and what the rules make of it."""
        fields = asdict(entry)
        subjects: tuple[str, ...] = fields.pop("subjects")
        subjects = subjects or self._named_in(entry.payload)
        person = {name: value for name in _OF_PERSON if (value := fields[name])}
        about = {name: value for name in _OF_SUBJECTS if (value := fields[name])}
        about |= {name: text for name in _FREE_TEXT if (text := fields[name]) and self._is_personal(text)}
        if not entry.user_id:
            about, person = {**person, **about}, {}
        rules = self._rules_for(entry)
        judgement = self._judge(rules, fields, SEALED_FIELDS | about.keys())
        sealed = [True, True]
        if not self._encrypt and not judgement.encryption_required:
            sealed = [bool(self._scanner.in_value(person)), bool(subjects) or bool(self._scanner.in_value(about))]
            names = {name for part, is_sealed in zip((person, about), sealed, strict=True) if is_sealed for name in part}
            judgement = self._judge(rules, fields, names)
        users = (entry.user_id,) if entry.user_id else ()
        parts = [
            PartPlan(people, part, part_text(part), is_sealed)
            for people, part, is_sealed in zip((users, subjects), (person, about), sealed, strict=True)
            if part
        ]
        clear = {name: value for name, value in fields.items() if name not in SEALED_FIELDS and name not in about}
        clear["compliance_frameworks"] = judgement.frameworks
        clear["rule_ids"] = judgement.rule_ids
        clear["rule_set"] = self._version
        clear["violations"] = tuple(shown_violations(judgement.violations))
        return Plan(clear, parts, judgement, entry.agent_id)

    def _judge(self, rules: Sequence[ComplianceRule], fields: Mapping[str, object], sealed: Collection[str]) -> Judgement:
        return judge(rules, fields, frameworks=self._frameworks, sealed=sealed, default_retention_days=self._default_days)

    def _rules_for(self, entry: NewEntry) -> Sequence[ComplianceRule]:
        if entry.event_type == VIOLATION_EVENT or entry.category == AuditEventCategory.COMPLIANCE_VIOLATION:
            return ()
        frameworks = entry.compliance_frameworks or self._frameworks
        rules = self._by_frameworks.get(frameworks)
        if rules is None:
            rules = self._by_frameworks[frameworks] = [rule for rule in self._rules if rule.framework in frameworks]
        return rules

    def _named_in(self, payload: object) -> tuple[str, ...]:
        """The people whom the subject fields of a payload name; nobody where there are too many."""
        found: dict[str, None] = {}
        waiting: list[object] = [payload] if payload else []
        while waiting:
            item = waiting.pop()
            if isinstance(item, dict):
                for key, value in item.items():
                    if isinstance(value, (dict, list)):
                        waiting.append(value)
                    if plain_key(key) in self._subject_keys:
                        found.update(dict.fromkeys(_names(value)))
            elif isinstance(item, list):
                waiting += [inner for inner in item if isinstance(inner, (dict, list))]
        return tuple(sorted(found)) if len(found) <= MAX_SUBJECTS else ()


def _names(value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if isinstance(one, (str, int)) and not isinstance(one, bool) and str(one).strip()]
