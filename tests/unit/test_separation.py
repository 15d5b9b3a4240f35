"""Who approves a thing is not who asked for it, told from two entries."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallyroll.audit.compliance.library import library
from tallyroll.audit.compliance.rules import ComplianceRule
from tallyroll.audit.compliance.separation import Separation

DAY_US = 86_400_000_000
RULE = ComplianceRule(
    rule_id="HOUSE-002", framework="custom", title="two persons", within_days=30,
    match={"event_type": ("x.approved",)}, apart_from={"event_type": ("x.requested",)},
)  # fmt: skip


class Act(NamedTuple):
    kind: str
    ts_us: int
    user: str
    thing: str

    def fields(self) -> dict[str, Any]:
        return {"event_type": f"x.{self.kind}", "user_id": self.user, "resource": self.thing, "compliance_frameworks": ("custom",)}


def seen(*acts: Act, rule: ComplianceRule = RULE, **more: object) -> list[tuple[str, str]]:
    """The pairs that entries give, each named by its place."""
    separation = Separation([rule], secret=b"s" * 32)
    found = []
    for place, act in enumerate(acts):
        found += [(pair.asked, pair.approved) for pair in separation.see(str(place), act.ts_us, {**act.fields(), **more})]
    return found


REQUEST, APPROVAL = Act("requested", 1, "anna", "db"), Act("approved", 2, "anna", "db")


def test_one_person_is_found_whichever_entry_comes_first() -> None:
    assert seen(REQUEST, APPROVAL) == [("0", "1")]
    assert seen(APPROVAL, REQUEST) == [("1", "0")]


@pytest.mark.parametrize(
    "approval",
    [
        APPROVAL._replace(user="bert"), APPROVAL._replace(thing="other"), APPROVAL._replace(user=" "), APPROVAL._replace(thing=""),
        APPROVAL._replace(ts_us=0), APPROVAL._replace(ts_us=31 * DAY_US), APPROVAL._replace(kind="rejected"),
    ],
)  # fmt: skip
def test_what_is_no_pair_of_one_person(approval: Act) -> None:
    assert seen(REQUEST, approval) == []
    assert seen(approval, REQUEST) == []


def test_an_approval_answers_the_newest_request_before_it() -> None:
    other = REQUEST._replace(ts_us=2, user="bert")
    assert seen(REQUEST, other, APPROVAL._replace(ts_us=3)) == []
    assert seen(other, REQUEST._replace(ts_us=3), APPROVAL._replace(ts_us=4)) == [("1", "2")]


def test_the_rule_holds_for_entries_of_its_framework() -> None:
    assert seen(REQUEST, APPROVAL, compliance_frameworks=("sox",)) == []
    assert seen(REQUEST, APPROVAL, compliance_frameworks=()) == []


def test_an_agent_acts_as_whom_it_acts_for() -> None:
    separation = Separation([RULE], secret=b"s" * 32)
    asked = {**REQUEST.fields(), "user_id": None, "agent_id": "bot", "on_behalf_of": ("anna",)}
    assert separation.see("0", 1, asked) == []
    assert [pair.asked for pair in separation.see("1", 2, APPROVAL.fields())] == ["0"]
    with_bot = {**APPROVAL.fields(), "user_id": "bert", "agent_id": "bot"}
    assert separation.see("2", 3, with_bot) == [], "a tool that two people use makes them not one"
    by_agents = [{**act.fields(), "user_id": None, "agent_id": "bot", "resource": "cache"} for act in (REQUEST, APPROVAL)]
    assert separation.see("3", 4, by_agents[0]) == []
    assert [pair.asked for pair in separation.see("4", 5, by_agents[1])] == ["3"]


def test_any_field_of_joined_by_joins_and_a_pair_is_said_once() -> None:
    fields = [{**act.fields(), "correlation_id": "c-1"} for act in (REQUEST, APPROVAL)]
    separation = Separation([RULE], secret=b"s" * 32)
    assert separation.see("0", 1, fields[0]) == []
    assert len(separation.see("1", 2, fields[1])) == 1
    assert len(separation.see("2", 2, {**fields[1], "resource": None})) == 1
    assert separation.see("3", 2, {**fields[1], "resource": "other", "correlation_id": "c-2"}) == []


def test_memory_is_bounded_and_the_latest_stay() -> None:
    many = [REQUEST._replace(thing=f"thing {number}") for number in range(10_050)]
    approvals = [APPROVAL._replace(thing=f"thing {number}") for number in (0, 49, 10_049)]
    assert seen(*many, *approvals) == [("10049", "10052")]


@pytest.mark.parametrize("wrong", [{"match": {}}, {"match": {"event_type": ()}}, {"apart_from": {"action": ("a",)}}, {"joined_by": ()}])
def test_a_rule_that_names_no_types_is_refused(wrong: dict[str, Any]) -> None:
    members = {name: getattr(RULE, name) for name in RULE.__struct_fields__}
    with pytest.raises(ValueError, match="apart_from"):
        ComplianceRule(**{**members, **wrong})


RULES = [rule for rule in library().rules if rule.apart_from]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule_id)
def test_every_rule_of_the_library_passes_two_persons_and_finds_one(rule: ComplianceRule) -> None:
    for approved in rule.match["event_type"]:
        for asked in rule.apart_from["event_type"]:
            for approver, pairs in (("bert", 0), ("anna", 1)):
                separation = Separation(library().rules, secret=b"s" * 32)
                common = {"resource": "db", "compliance_frameworks": (rule.framework,)}
                separation.see("0", 1, {**common, "event_type": asked, "user_id": "anna"})
                found = separation.see("1", 2, {**common, "event_type": approved, "user_id": approver})
                assert [pair.rule.rule_id for pair in found] == [rule.rule_id] * pairs


def true_pairs(acts: list[Act]) -> set[tuple[str, str]]:
    """By looking at every two entries."""
    found = set()
    for place, approval in enumerate(acts):
        before = [
            (act.ts_us, str(number), act.user)
            for number, act in enumerate(acts)
            if act.kind == "requested" and act.thing == approval.thing and approval.ts_us - 30 * DAY_US <= act.ts_us <= approval.ts_us
        ]
        if approval.kind == "approved" and before and max(before)[2] == approval.user:
            found.add((max(before)[1], str(place)))
    return found


ACTS = st.lists(
    st.builds(Act, st.sampled_from(["requested", "approved"]), st.integers(0, 99), st.sampled_from("ab"), st.sampled_from("xyz")),
    max_size=10, unique_by=lambda act: act.ts_us,
)  # fmt: skip


@given(ACTS)
def test_in_the_order_of_time_what_is_found_is_what_is_there(acts: list[Act]) -> None:
    acts.sort(key=lambda act: act.ts_us)
    found = seen(*acts)
    assert set(found) == true_pairs(acts)
    assert len(found) == len(set(found))


@given(ACTS.filter(lambda acts: max([sum(act.thing == thing for act in acts) for thing in "xyz"]) <= 4), st.randoms())
def test_in_any_order_nothing_that_is_there_is_missed(acts: list[Act], random: Any) -> None:
    random.shuffle(acts)
    assert set(seen(*acts)) >= true_pairs(acts)
