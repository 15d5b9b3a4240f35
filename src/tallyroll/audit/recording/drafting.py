"""What becomes of an entry before it is sealed: rules judge it, and its personal fields are set apart from those in clear.

Pure but for its cache; keys, salts and places come later.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec
from msgspec.structs import astuple

from tallyroll.audit.compliance.pii import PiiScanner, people_named
from tallyroll.audit.compliance.rules import ComplianceRule, Judgement, RuleSet, join, shown_violations, violations_of
from tallyroll.audit.entry import SEALED_FIELDS, AuditEventCategory, ComplianceFramework, field_of, has_value
from tallyroll.audit.ledger.contents import SEALABLE_FIELDS
from tallyroll.audit.ledger.layout import write_json
from tallyroll.audit.recording.new_entry import NewEntry

VIOLATION_EVENT: Final = "compliance.violation"
"""Says that an entry breaks a rule. Its own entry matches no rules, or one breach would go round for ever."""

_FIELDS: Final = NewEntry.__struct_fields__
_OF_PERSON: Final = ("user_id", "session_id", "source_ip", "user_agent")
_OF_SUBJECTS: Final = tuple(sorted(SEALED_FIELDS - set(_OF_PERSON)))
_FREE_TEXT: Final = tuple(sorted(SEALABLE_FIELDS - SEALED_FIELDS))
_CACHED: Final = 4_096  # texts in clear that were looked at, since actions repeat; judgements of one scope; sets of fields
_COMPLIANCE_VIOLATION: Final = AuditEventCategory.COMPLIANCE_VIOLATION


class PartPlan(msgspec.Struct, frozen=True, gc=False):
    """A part to be: the people it is about, none if nobody is known, and whether it is sealed."""

    subjects: tuple[str, ...]
    text: bytes
    sealed: bool


class Plan(msgspec.Struct, frozen=True, gc=False):
    """An entry before it has its id, its keys and its place.

    ``fields`` are those that were given, ``judged`` what the rules add; ``clear`` are the fields of its env but the id.
    """

    fields: dict[str, Any]
    judged: dict[str, Any]
    clear: dict[str, Any]
    parts: Sequence[PartPlan]
    judgement: Judgement
    agent_id: str | None


class _Judged(NamedTuple):
    """What the rules make of an entry, and the fields that say so. Shared by entries: not to be changed."""

    judgement: Judgement
    fields: dict[str, Any]


class _Scope(NamedTuple):
    """The rules that can have a say in entries of a category under some frameworks, and what they ask.

    Beside the names of the fields that an entry has, a judgement depends on these questions only: a path, and the values that
    are asked for. ``looks_deeper``: a named check reads more than that, so every entry is judged for itself.
    """

    frameworks: tuple[ComplianceFramework, ...]
    rules: Sequence[ComplianceRule]
    questions: Sequence[tuple[str, tuple[str | int | bool, ...]]]
    looks_deeper: bool
    known: dict[tuple[object, ...], _Judged]


class _Shape(NamedTuple):
    """Which fields of an entry are a person's, about its subjects, and free text in clear: by the names of those that it has."""

    person: tuple[str, ...]
    about: tuple[str, ...]
    free_text: tuple[str, ...]


@lru_cache(_CACHED)
def _shape_of(names: tuple[str, ...]) -> _Shape:
    person = _OF_PERSON if "user_id" in names else ()
    sealed = {*names} & SEALED_FIELDS
    return _Shape(
        tuple([name for name in person if name in sealed]),
        tuple([name for name in (*_OF_PERSON, *_OF_SUBJECTS) if name in sealed and name not in person]),
        tuple([name for name in _FREE_TEXT if name in names]),
    )


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
        self._scopes: dict[tuple[tuple[ComplianceFramework, ...], AuditEventCategory], _Scope] = {}
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
            name: value
            for name, value in zip(_FIELDS, astuple(entry), strict=True)
            if value and (type(value) is not str or not value.isspace())
        }
        names = tuple(fields)
        shape = _shape_of(names)
        subjects: tuple[str, ...] = fields.get("subjects") or people_named(entry.payload, self._subject_fields)
        person: dict[str, Any] = {}
        about: dict[str, Any] = {}
        clear = fields.copy()
        clear.pop("subjects", None)
        for name in shape.person:
            person[name] = clear.pop(name)
        for name in shape.about:
            about[name] = clear.pop(name)
        for name in shape.free_text:
            if self._is_personal(fields[name]):
                about[name] = clear.pop(name)
        sealed = SEALED_FIELDS if len(about) == len(shape.about) else SEALED_FIELDS.union(about)
        judgement, judged = self._judged(entry, names, fields, sealed)
        is_sealed = (True, True)
        if not self._encrypt and not judgement.encryption_required:
            is_sealed = (bool(self._scanner.in_value(person)), bool(subjects) or bool(self._scanner.in_value(about)))
            sealed = frozenset([name for part, so in zip((person, about), is_sealed, strict=True) if so for name in part])
            judgement, judged = self._judged(entry, names, fields, sealed)
        parts = []
        if person:
            parts.append(PartPlan((person["user_id"],), write_json(person), is_sealed[0]))
        if about:
            parts.append(PartPlan(subjects, write_json(about), is_sealed[1]))
        fields.pop("subjects", None)
        if judgement.frameworks:
            fields.pop("compliance_frameworks", None)  # those that are judged by stand in its place
        clear.update(judged)
        return Plan(fields, judged, clear, parts, judgement, fields.get("agent_id"))

    def _judged(self, entry: NewEntry, names: tuple[str, ...], fields: Mapping[str, Any], sealed: Collection[str]) -> _Judged:
        """As ``judge``. What it says is kept by the answers that rules of this scope have from an entry: few ever differ."""
        if entry.event_type == VIOLATION_EVENT or entry.category is _COMPLIANCE_VIOLATION:
            frameworks: tuple[ComplianceFramework, ...] = ()
        else:
            frameworks = entry.compliance_frameworks or self._frameworks
        scope = self._scopes.get((frameworks, entry.category))
        if scope is None:
            scope = self._scopes[frameworks, entry.category] = _scope_of(self._rules, frameworks, entry.category)
        if scope.looks_deeper or not SEALED_FIELDS.issubset(sealed):
            return self._anew(scope, fields, sealed)
        answers = (names, *[_answer(field_of(fields, path), accepted) for path, accepted in scope.questions])
        known = scope.known.get(answers)
        if known is None:
            if len(scope.known) >= _CACHED:
                scope.known.clear()
            known = scope.known[answers] = self._anew(scope, fields, sealed)
        return known

    def _anew(self, scope: _Scope, fields: Mapping[str, Any], sealed: Collection[str]) -> _Judged:
        applying = [rule for rule in scope.rules if rule.applies_to(fields)]
        joined = join(scope.rules, applying, scope.frameworks, default_retention_days=self._default_days)
        judgement = joined.with_violations(violations_of(scope.rules, joined.rule_ids, fields, sealed))
        judged: dict[str, Any] = {"rule_set": self._version}
        if judgement.frameworks:
            judged["compliance_frameworks"] = judgement.frameworks
        if judgement.rule_ids:
            judged["rule_ids"] = judgement.rule_ids
        if judgement.violations:
            judged["violations"] = tuple(shown_violations(judgement.violations))
        return _Judged(judgement, judged)


def _scope_of(rules: Sequence[ComplianceRule], frameworks: tuple[ComplianceFramework, ...], category: AuditEventCategory) -> _Scope:
    own = [rule for rule in rules if rule.framework in frameworks and (rule.is_baseline or rule.category in (None, category))]
    asking = [rule for rule in own if rule.category in (None, category)]
    breaches = [item for rule in asking for item in rule.violation]
    tests = [*[rule.match for rule in asking], *[item for item in breaches if not isinstance(item, str)]]
    asked = [item for test in tests for item in test.items()]
    asked += [(path, ()) for rule in asking for wanted in rule.required_fields for path in wanted.split("|") if "." in path]
    return _Scope(frameworks, own, tuple(dict.fromkeys(asked)), any(isinstance(item, str) for item in breaches), {})


def _answer(value: object, accepted: Sequence[object]) -> int:
    """All that a test finds out: which of the values it is, or whether it is any."""
    for number, item in enumerate(accepted):
        if value == item and isinstance(value, bool) == isinstance(item, bool):
            return number
    return -1 if has_value(value) else -2
