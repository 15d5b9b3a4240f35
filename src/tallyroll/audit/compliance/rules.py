"""Compliance rules as data, and what they make of an entry: how long it is kept, how well protected, and what is wrong with it.

Several frameworks join: the longest retention, and the strictest of everything else. Pure; the rules that come with tallyroll
are in ``library.toml``, read by ``library``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import date
from typing import Annotated, Any, Final, Literal, NamedTuple

import msgspec
from msgspec import Meta

from tallyroll.audit.compliance.checksums import card_numbers
from tallyroll.audit.compliance.derived import DerivedEntries
from tallyroll.audit.entry import SEALED_FIELDS, AuditEventCategory, AuditSeverity, ComplianceFramework, field_of, has_value, texts_of
from tallyroll.errors import SettingsError

OnFailure = Literal["block", "spill", "count"]
"""What happens while the log is away: the caller waits and is refused, the entry waits on disk, or the loss is only counted."""

Check = Literal["card_number_in_clear", "one_person_decides", "tool_outside_grant"]
Found = Literal[
    "fork", "foreign", "unregistered", "closed", "broken", "forged", "backdated", "postdated", "unreadable", "gap", "same_id", "silent",
    "witness", "drift", "rewound",
]  # fmt: skip
"""What the sealer may find that no entry says: the codes of ``audit.sealing.finding`` but for those that have a rule anyway."""
Tests = dict[str, tuple[str | int | bool, ...]]
"""By field, the values of which it must have one; no values: it must have any."""

DEFAULT_RETENTION_DAYS: Final = 365
MAX_RETENTION_DAYS: Final = 365_000  # a thousand years: dates end with the year 9999
_DAY_US: Final = 86_400_000_000
_STRICTNESS: Final[tuple[OnFailure, ...]] = ("count", "spill", "block")
_RuleId = Annotated[str, Meta(pattern=r"^[A-Z][A-Z0-9]*(-[A-Z0-9]+)*-\d{3}$")]
_Days = Annotated[int, Meta(ge=1, le=365_000)]


class ComplianceRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one paragraph demands of entries of a category (any, if None) for which every test of ``match`` holds.

    ``required_fields`` are paths that must have a value; ``user_id|agent_id`` names alternatives. ``violation`` lists tests and
    named checks, each of which is a breach if it holds. Days: ``retention_days`` is the least that an entry is kept,
    ``max_personal_days`` the most that its personal part is, ``hot_days`` how long it can be had at once, ``review_interval``
    how often somebody looks. ``binding`` is set by a person, where a law orders this operator to keep it: only then does it
    outrank an erasure.

    ``apart_from`` are the tests of another entry that somebody else has to have made: who approved, in an entry of ``match``, is
    not who asked, in the newest one of ``apart_from`` before it, at most ``within_days`` earlier, that has the same value in a
    field of ``joined_by``. Both name their types. The sealer looks at it.

    ``found_as`` are findings of the sealer that are breaches of the rule: where its framework is one of ``AUDIT_FRAMEWORKS``, or is
    custom. ``sources_checked_on`` is the day on which a person has held title, fields and days against the text that the citation
    names, and found them there; None: nobody has, whatever a summary says. Raises ValueError for what contradicts itself.
    """

    rule_id: _RuleId
    framework: ComplianceFramework
    title: str
    category: AuditEventCategory | None = None
    description: str = ""
    severity: AuditSeverity = AuditSeverity.MEDIUM
    required_fields: tuple[str, ...] = ()
    retention_days: _Days = 2555
    encryption_required: bool = False
    real_time_monitoring: bool = False
    citation: str = ""
    version: Annotated[int, Meta(ge=1)] = 1
    max_personal_days: _Days | None = None
    hot_days: _Days | None = None
    review_interval: _Days | None = None
    match: Tests = {}
    violation: tuple[Check | Tests, ...] = ()
    on_failure: OnFailure = "spill"
    binding: bool = False
    found_as: tuple[Found, ...] = ()
    apart_from: Tests = {}
    joined_by: tuple[str, ...] = ("correlation_id", "resource")
    within_days: _Days = 90
    applies_from: date | None = None
    sources_checked_on: date | None = None

    def __post_init__(self) -> None:
        for name, read in _READ.items():
            msgspec.structs.force_setattr(self, name, read(getattr(self, name)))
        if not 1 <= self.retention_days <= MAX_RETENTION_DAYS:
            raise ValueError(f"an entry is kept for a day at least, and for {MAX_RETENTION_DAYS} at most")
        if self.binding and not self.citation:
            raise ValueError("a binding rule cites what binds")
        if self.apart_from and not (self.apart_from.get("event_type") and self.match.get("event_type") and self.joined_by):
            raise ValueError("apart_from, and match beside it, name values of event_type; joined_by names a field")

    @property
    def is_baseline(self) -> bool:
        """Whether its retention and encryption hold for every entry of its framework."""
        return self.rule_id.endswith("-001")

    def applies_to(self, entry: Mapping[str, object]) -> bool:
        """Whether the entry is of its category and passes its tests. The framework is the caller's question."""
        return self.category in (None, entry.get("category")) and tests_hold(self.match, entry)


class RuleSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rules under one version, which entries and the registry name. ``derived`` says how entries are made of events.

    Raises ValueError for a rule id that comes twice.
    """

    version: Annotated[str, Meta(min_length=1, max_length=64)]
    rules: tuple[ComplianceRule, ...] = ()
    derived: DerivedEntries = msgspec.field(default_factory=DerivedEntries)

    def __post_init__(self) -> None:
        ids = [rule.rule_id for rule in self.rules]
        if len(set(ids)) != len(ids):
            raise ValueError(f"a rule id comes twice: {next(known for known in ids if ids.count(known) > 1)}")


class RuleViolation(NamedTuple):
    """A breach: ``code`` is ``missing_field``, ``missing_encryption``, ``forbidden`` or a check's name; no value is in it."""

    rule_id: str
    code: str
    severity: AuditSeverity
    fields: tuple[str, ...] = ()


class Judgement(NamedTuple):
    """What the rules make of an entry. ``max_personal_days`` None: no rule sets a most.

    ``monitors`` are the ids of the rules that want to be told at once.
    """

    rule_ids: tuple[str, ...]
    frameworks: tuple[ComplianceFramework, ...]
    retention_days: int
    max_personal_days: int | None
    hot_days: int | None
    review_interval: int | None
    encryption_required: bool
    on_failure: OnFailure
    monitors: tuple[str, ...]
    violations: tuple[RuleViolation, ...]

    def with_violations(self, violations: tuple[RuleViolation, ...]) -> Judgement:
        """The same with these breaches."""
        return Judgement(*self[:-1], violations)


def judge(
    rules: Sequence[ComplianceRule],
    entry: Mapping[str, object],
    *,
    frameworks: Collection[ComplianceFramework] = (),
    sealed: Collection[str] = SEALED_FIELDS,
    default_retention_days: int = DEFAULT_RETENTION_DAYS,
) -> Judgement:
    """What the rules demand of an entry, given as its fields, and where it breaks them.

    ``compliance_frameworks`` of the entry say whose rules; ``frameworks`` do where it names none. A declared framework gives
    the retention and the encryption of its baseline whatever the category. ``sealed`` are the fields that will be sealed.
    """
    declared = tuple(sorted({ComplianceFramework(name) for name in names_of(entry.get("compliance_frameworks")) or frameworks}))
    of_these = [rule for rule in rules if rule.framework in declared]
    applying = [rule for rule in of_these if rule.applies_to(entry)]
    joined = join(of_these, applying, declared, default_retention_days=default_retention_days)
    return joined.with_violations(violations_of(of_these, joined.rule_ids, entry, sealed))


def join(
    of_these: Sequence[ComplianceRule],
    applying: Sequence[ComplianceRule],
    declared: tuple[ComplianceFramework, ...],
    *,
    default_retention_days: int = DEFAULT_RETENTION_DAYS,
) -> Judgement:
    """What rules demand together, without a look at whether they are kept: those that apply, of those of the declared frameworks."""
    protecting = [rule for rule in of_these if rule.is_baseline or rule in applying]
    bound = max((rule.retention_days for rule in applying if rule.binding), default=0)
    personal = min((rule.max_personal_days for rule in applying if rule.max_personal_days is not None), default=None)
    return Judgement(
        rule_ids=tuple(rule.rule_id for rule in applying),
        frameworks=declared,
        retention_days=max((rule.retention_days for rule in protecting), default=default_retention_days),
        max_personal_days=None if personal is None else max(personal, bound),
        hot_days=max((rule.hot_days for rule in applying if rule.hot_days is not None), default=None),
        review_interval=min((rule.review_interval for rule in applying if rule.review_interval is not None), default=None),
        encryption_required=any(rule.encryption_required for rule in protecting),
        on_failure=max((rule.on_failure for rule in applying), key=_STRICTNESS.index, default="spill"),
        monitors=tuple(rule.rule_id for rule in applying if rule.real_time_monitoring),
        violations=(),
    )


def violations_of(
    of_these: Iterable[ComplianceRule], applying: Collection[str], entry: Mapping[str, object], sealed: Collection[str]
) -> tuple[RuleViolation, ...]:
    """Where an entry breaks the rules that apply to it, by their ids, or the encryption of a baseline."""
    found: list[RuleViolation] = []
    for rule in of_these:
        if rule.rule_id in applying:
            found += _violations(rule, entry, sealed)
        elif rule.encryption_required and rule.is_baseline:
            found += _unsealed(rule, entry, sealed)
    return tuple(found)


REVIEWED: Final = "audit.reviewed"
"""The type of the entry that somebody makes who has looked at the trail."""


def overdue_reviews(rules: Iterable[ComplianceRule], last_us: int | None, now_us: int) -> list[str]:
    """The ids of the rules whose interval has passed since the trail was looked at; of all that have one where it never was."""
    waited = None if last_us is None else (now_us - last_us) / _DAY_US
    return sorted(rule.rule_id for rule in rules if rule.review_interval is not None and (waited is None or waited > rule.review_interval))


def unchecked_citations(rules: Iterable[ComplianceRule]) -> str:
    """A sentence that says whose citations nobody has read; empty where somebody has read all of them."""
    rules = list(rules)
    unread = sum(rule.sources_checked_on is None for rule in rules)
    if not unread:
        return ""
    whose = "any of these rules" if unread == len(rules) else f"{unread} of these {len(rules)} rules"
    return f"Nobody has checked the citations of {whose} against their sources yet (sources_checked_on)."


def retention_classes(rules: Iterable[ComplianceRule]) -> dict[int, int | None]:
    """The classes that entries under these rules can be of: each is named by its days, 0 is that of entries without a most."""
    rules = list(rules)
    days = {rule.max_personal_days for rule in rules} | {rule.retention_days for rule in rules if rule.binding}
    return {0: None, **{each: each for each in sorted(filter(None, days))}}


def rule_set_from_toml(text: str, source: str = "AUDIT_RULES") -> RuleSet:
    """A rule set: ``version``, tables ``[[rules]]`` of ``ComplianceRule``, a table ``[derived]``. Raises SettingsError."""
    try:
        return msgspec.convert(tomllib.loads(text), RuleSet)
    except (tomllib.TOMLDecodeError, ValueError) as error:  # a ValidationError is a ValueError
        raise SettingsError(source, str(error)) from None


class ComplianceRuleEngine:
    """Rules that are added one by one, and asked about entries: recorded ones, or their fields."""

    def __init__(self, rules: Iterable[ComplianceRule] = ()) -> None:
        self._rules: dict[str, ComplianceRule] = {}
        for rule in rules:
            self.add_rule(rule)

    @property
    def rules(self) -> list[ComplianceRule]:
        """In the order in which they were added."""
        return list(self._rules.values())

    def add_rule(self, rule: ComplianceRule) -> None:
        """Adds a rule. Raises ValueError where another one has its id, unless this one has a higher version."""
        known = self._rules.get(rule.rule_id)
        if known is not None and known != rule and known.version >= rule.version:
            raise ValueError(f"{rule.rule_id}: another rule has this id; give the new one a higher version")
        self._rules[rule.rule_id] = rule

    def get_applicable_rules(self, entry: Mapping[str, object] | msgspec.Struct) -> list[ComplianceRule]:
        """The rules of the entry's frameworks that apply to it."""
        applying = judge(self.rules, _as_fields(entry)).rule_ids
        return [self._rules[rule_id] for rule_id in applying]

    def validate_entry(self, entry: Mapping[str, object] | msgspec.Struct) -> dict[str, Any]:
        """``valid``, ``violations``, ``warnings`` and ``applicable_rules``.

        Breaches of low or no severity are warnings; they do not make an entry invalid.
        """
        found = judge(self.rules, _as_fields(entry))
        shown = shown_violations(found.violations)
        mild = (AuditSeverity.LOW, AuditSeverity.INFO)
        violations = [item for item in shown if item["severity"] not in mild]
        warnings = [item for item in shown if item["severity"] in mild]
        return {"valid": not violations, "violations": violations, "warnings": warnings, "applicable_rules": list(found.rule_ids)}


def _as_fields(entry: Mapping[str, object] | msgspec.Struct) -> Mapping[str, object]:
    return msgspec.structs.asdict(entry) if isinstance(entry, msgspec.Struct) else entry


def shown_violations(violations: Iterable[RuleViolation]) -> list[dict[str, Any]]:
    """Breaches as plain JSON values."""
    return [{**item._asdict(), "severity": item.severity.value, "fields": list(item.fields)} for item in violations]


def _violations(rule: ComplianceRule, entry: Mapping[str, object], sealed: Collection[str]) -> list[RuleViolation]:
    missing = [wanted for wanted in rule.required_fields if not _is_there(entry, wanted)]
    found = [RuleViolation(rule.rule_id, "missing_field", rule.severity, tuple(missing))] if missing else []
    found += _unsealed(rule, entry, sealed)
    for item in rule.violation:
        if isinstance(item, str):
            if fields := _CHECKS[item](entry, sealed):
                found.append(RuleViolation(rule.rule_id, item, rule.severity, fields))
        elif tests_hold(item, entry):
            found.append(RuleViolation(rule.rule_id, "forbidden", rule.severity, tuple(item)))
    return found


def _is_there(entry: Mapping[str, object], wanted: str) -> bool:
    value = entry.get(wanted)  # the usual case: neither a path nor alternatives
    if value is None and ("|" in wanted or "." in wanted):
        return any(has_value(field_of(entry, path)) for path in wanted.split("|"))
    return has_value(value)


def _unsealed(rule: ComplianceRule, entry: Mapping[str, object], sealed: Collection[str]) -> list[RuleViolation]:
    if not rule.encryption_required:
        return []
    if SEALED_FIELDS.issubset(sealed):
        return []
    bare = tuple(sorted(name for name in SEALED_FIELDS if name not in sealed and has_value(entry.get(name))))
    return [RuleViolation(rule.rule_id, "missing_encryption", rule.severity, bare)] if bare else []


def tests_hold(tests: Tests, entry: Mapping[str, object]) -> bool:
    """Whether the entry passes every test."""
    for path, accepted in tests.items():
        value = field_of(entry, path)
        if not has_value(value) or (accepted and not any(_same(value, item) for item in accepted)):
            return False
    return True


def _same(value: object, item: str | int | bool) -> bool:  # noqa: FBT001  # a value, not a switch
    return value == item and isinstance(value, bool) == isinstance(item, bool)


def _card_number_in_clear(entry: Mapping[str, object], sealed: Collection[str]) -> tuple[str, ...]:
    bare = {name: value for name, value in entry.items() if name not in sealed}
    return tuple(sorted({_top(where) for where, text in texts_of(bare) if any(card_numbers(text))}))


def _one_person_decides(entry: Mapping[str, object], _: Collection[str]) -> tuple[str, ...]:
    asked, approved = field_of(entry, "payload.requested_by"), field_of(entry, "payload.approved_by")
    return ("payload.requested_by", "payload.approved_by") if has_value(asked) and asked == approved else ()


def _tool_outside_grant(entry: Mapping[str, object], _: Collection[str]) -> tuple[str, ...]:
    tool, granted = entry.get("tool") or field_of(entry, "payload.tool"), field_of(entry, "payload.granted_tools")
    return ("tool", "payload.granted_tools") if has_value(tool) and tool not in names_of(granted) else ()


_CHECKS: Final = {
    "card_number_in_clear": _card_number_in_clear,
    "one_person_decides": _one_person_decides,
    "tool_outside_grant": _tool_outside_grant,
}


def _top(path: str) -> str:
    return path.partition(".")[0].partition("[")[0]


def names_of(value: object) -> Collection[Any]:
    """What is a collection, as one; nothing of anything else."""
    return value if isinstance(value, (list, tuple, set, frozenset)) else ()


def _sorted_fields(fields: Iterable[str]) -> tuple[str, ...]:
    if isinstance(fields, str):
        raise ValueError("required_fields is a collection of names")  # noqa: TRY004  # all that is wrong with a rule is a ValueError
    return tuple(sorted(fields))


_READ: Final[Mapping[str, Callable[[Any], object]]] = {
    "required_fields": _sorted_fields,
    "framework": ComplianceFramework,
    "severity": AuditSeverity,
    "category": lambda value: None if value is None else AuditEventCategory(value),
}
"""Users construct rules with sets, lists and plain strings as well."""
