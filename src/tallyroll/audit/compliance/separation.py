"""Duties that two people share: who approves a thing is not who asked for it, though each of the two made an entry of their own. Pure."""

from __future__ import annotations

from bisect import insort
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from hashlib import blake2b
from typing import Any, Final, NamedTuple

from tallyroll.audit.compliance.rules import ComplianceRule, names_of, tests_hold
from tallyroll.audit.entry import field_of, has_value

_DAY_US: Final = 86_400_000_000
_MAX_THINGS: Final = 10_000  # things that wait for their other half: some 10 MB; the one that nothing was said of longest is forgotten
_MAX_ACTS: Final = 4  # of each kind and thing; entries of several writers may come in another order than they were made in


class Pair(NamedTuple):
    """Two entries, by their ids, of which the rule wants that different people made them."""

    rule: ComplianceRule
    asked: str
    approved: str


class _Act(NamedTuple):
    """An entry, as far as it is remembered: who made it only as digests under a key that ends with the process."""

    ts_us: int
    audit_id: str
    people: frozenset[bytes]


class _Thing:
    """What was asked for, and approved, of one thing under one rule; each in the order of time."""

    def __init__(self) -> None:
        self.asked: list[_Act] = []
        self.approved: list[_Act] = []


class Separation:
    """Remembers who asked and who approved, by the rules that are ``apart_from``. ``secret`` is random, of this process.

    An approval answers the newest request before it for the same thing, if that is not older than the rule's ``within_days``.
    Two entries are about the same thing if one of the fields of ``joined_by`` has the same value in both. Whichever of the two
    is seen last gives the pair; an entry that is seen again gives its pairs again.
    Not promised: pairs with an entry of which nobody can tell who made it; all of them if more than 10,000 things wait.
    """

    def __init__(self, rules: Iterable[ComplianceRule], *, secret: bytes) -> None:
        self._secret = secret
        self._asking: defaultdict[object, list[ComplianceRule]] = defaultdict(list)
        self._approving: defaultdict[object, list[ComplianceRule]] = defaultdict(list)
        self._things: OrderedDict[bytes, _Thing] = OrderedDict()
        self.within_us: dict[str, int] = {}
        """By the types of entries that count: how long one may be of use."""
        for rule in rules:
            for sides, tests in ((self._asking, rule.apart_from), (self._approving, rule.match)) if rule.apart_from else ():
                for event_type in map(str, tests["event_type"]):
                    sides[event_type].append(rule)
                    self.within_us[event_type] = max(self.within_us.get(event_type, 0), rule.within_days * _DAY_US)

    def see(self, audit_id: str, ts_us: int, fields: Mapping[str, Any]) -> list[Pair]:
        """Takes an entry; the pairs that it completes and that one person made."""
        event_type = fields.get("event_type")
        if event_type not in self.within_us or not (people := self._people(fields)):
            return []
        act, pairs = _Act(ts_us, audit_id, people), dict[tuple[str, str], Pair]()
        for rule in self._asking.get(event_type, ()):
            for thing in self._of(rule, fields) if tests_hold(rule.apart_from, fields) else ():
                _keep(thing.asked, act)
                for approved in thing.approved:
                    if _answered(thing, approved, rule) == act and act.people & approved.people:
                        pairs[rule.rule_id, approved.audit_id] = Pair(rule, audit_id, approved.audit_id)
        for rule in self._approving.get(event_type, ()):
            for thing in self._of(rule, fields) if rule.framework in names_of(fields.get("compliance_frameworks")) else ():
                if not rule.applies_to(fields):
                    continue
                _keep(thing.approved, act)
                asked = _answered(thing, act, rule)
                if asked is not None and asked.people & people:
                    pairs[rule.rule_id, audit_id] = Pair(rule, asked.audit_id, audit_id)
        return [*pairs.values()]

    def _of(self, rule: ComplianceRule, fields: Mapping[str, Any]) -> Iterator[_Thing]:
        for name in rule.joined_by:
            value = field_of(fields, name)
            if has_value(value):
                key = self._digest(f"{rule.rule_id} {name} {value}")
                thing = self._things.setdefault(key, _Thing())
                self._things.move_to_end(key)
                if len(self._things) > _MAX_THINGS:
                    self._things.popitem(last=False)
                yield thing

    def _people(self, fields: Mapping[str, Any]) -> frozenset[bytes]:
        """The user and those acted for; where there is none, the agent: what many use is not what makes them one."""
        names = [name for name in (fields.get("user_id"), *names_of(fields.get("on_behalf_of"))) if has_value(name)]
        agent = fields.get("agent_id")
        if not names and has_value(agent):
            return frozenset([self._digest(f"agent {agent}")])
        return frozenset([self._digest(f"user {name}") for name in names])

    def _digest(self, text: str) -> bytes:
        return blake2b(text.encode(), digest_size=16, key=self._secret).digest()


def _keep(acts: list[_Act], act: _Act) -> None:
    if act not in acts:
        insort(acts, act, key=lambda one: one[:2])
        del acts[:-_MAX_ACTS]


def _answered(thing: _Thing, approved: _Act, rule: ComplianceRule) -> _Act | None:
    """The newest request that is not younger than the approval, and not too old for it."""
    before = [asked for asked in thing.asked if approved.ts_us - rule.within_days * _DAY_US <= asked.ts_us <= approved.ts_us]
    return before[-1] if before else None
